// TLS to the workers: the official client over wss and https, session tickets that every worker opens, and a
// certificate that is renewed while people chat.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import tls from 'node:tls';
import { WebSocket } from 'ws';
import { Certificate } from '../harness/certificate.mjs';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { Load } from '../harness/load.mjs';
import { replaceMaster } from '../harness/next_master.mjs';
import { NO_OPENSSL } from '../harness/openssl.mjs';
import { allHeardNeighbours, logInAll, sendToNext } from '../harness/neighbours.mjs';
import { POLLING, PollingSession, readTag } from '../harness/polling_session.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { askForWebSocket } from '../harness/raw_websocket.mjs';
import { TlsSession } from '../harness/resumption.mjs';
import { assertOneLine, finished } from '../harness/run.mjs';
import { openTls, serialShown } from '../harness/tls_connection.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

const head = (path, extra = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${extra}\r\n`;

/** A TLS record that says it has 200 bytes, and the first few of them. */
const HALF_A_HELLO = Buffer.from('16030100c8010000c40303', 'hex');

const VERSIONS = { tls1_2: 'TLS 1.2', tls1_3: 'TLS 1.3' };

describe('TLS', { skip: NO_OPENSSL }, () => {
  let certificate;
  before(async () => {
    certificate = await Certificate.make();
  });

  const start = (options) => startCluster({ balance: 'round-robin', certificate, ...options });

  describe('of one cluster', () => {
    let cluster;
    let socketPath;
    before(async () => {
      socketPath = join(temporaryDirectory(), 'plain');
      cluster = await start({ args: ['--listen', `unix:${socketPath}`, '--affinity-cookie', 'io'] });
    });
    after(() => cluster?.stop());

    test('the ready line says https, and the Unix listener stays plain', async () => {
      assert.equal(cluster.url, `https://127.0.0.1:${cluster.port}`);
      assert.ok(cluster.readyLine.includes(`unix:${socketPath}`), cluster.readyLine);
      assert.equal((await request({ socketPath }, POLLING)).status, 200);
      assert.equal((await request(cluster, '/healthz')).body.trim(), 'ok');
    });

    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      test(`over ${name}, users of several workers chat, with large messages and many at once`, async (t) => {
        const users = [];
        for (let n = 0; n < 8; n += 1) {
          // Each log-in takes some turns of the workers, of which there may just be as many as there are workers.
          for (let turn = 0; turn < n % 3; turn += 1) await request(cluster, '/healthz');
          users.push(await ChatUser.logIn(cluster, { username: `${name} ${n}`, transports }));
        }
        t.after(() => users.forEach((user) => user.close()));
        const workers =
          transports[0] === 'polling'
            ? users.map((user) => readTag(user.engine.id).worker)
            : await cluster.servedBy(users.map((user) => user.clientEnd));
        // Of polling users each request is a turn of its own, so that some workers may have none.
        assert.ok(new Set(workers).size > 1, `${workers}`);
        const contents = Array.from({ length: 20 }, (_, n) => `${n} ☃ ${'é"\\\n'.repeat(n * 500)}`);
        await inParallel(users, 8, async (user, n) => {
          const to = users[(n + 1) % users.length];
          const acks = await Promise.all(contents.map((content) => user.send(to, content)));
          assert.ok(acks.every((ack) => ack.ok));
        });
        for (const user of users) {
          await until(() => user.inbox.length === contents.length, `${user.username} has all`);
          assert.deepEqual(user.inbox.map(({ content }) => content), contents);
          assert.deepEqual(user.disconnects, []);
          const { encrypted } = user.engine.transport.ws?._socket ?? { encrypted: true };
          assert.equal(encrypted, true);
        }
      });
    }

    test('the official client without the certificate does not connect', async (t) => {
      const stranger = new ChatUser(cluster.url, { auth: { username: 'stranger' }, reconnection: false });
      t.after(() => stranger.close());
      await within(once(stranger.socket, 'connect_error'), 'the client refuses the certificate');
    });

    test('sessions that share keep-alive connections work, whichever workers those belong to', async (t) => {
      const agent = new https.Agent({ keepAlive: true, maxSockets: 4 });
      t.after(() => agent.destroy());
      const connections = new Set();
      const sessions = [];
      for (let n = 0; n < 12; n += 1) sessions.push(await PollingSession.open(cluster, { agent: n < 4 ? false : agent }));
      assert.equal(new Set(sessions.map((session) => session.worker)).size, 4);
      for (const session of sessions) session.options = { agent };
      await logInAll(sessions, 4);
      await inParallel(sessions, 4, async (session, n) => {
        for (let message = 0; message < 3; message += 1) await sendToNext(sessions, n, message);
      });
      await allHeardNeighbours(sessions, 3, 4);
      for (const session of sessions) {
        const answer = await request(cluster, session.path, { agent, method: 'POST', body: '1' });
        connections.add(answer.localPort);
        assert.notEqual(answer.headers.connection, 'close', 'the server keeps the connection');
      }
      assert.ok(connections.size <= 4, `${connections.size} connections instead of 4`);
    });

    test('users of the official client who share keep-alive connections chat and upgrade', async (t) => {
      const agent = new https.Agent({ keepAlive: true, maxSockets: 12, ca: cluster.ca });
      const users = [];
      t.after(() => {
        users.forEach((user) => user.close());
        agent.destroy();
      });
      for (const [n, transports] of [...Object.values(TRANSPORTS), ...Object.values(TRANSPORTS)].entries()) {
        users.push(await ChatUser.logIn(cluster, { username: `of one agent ${n}`, transports, agent }));
      }
      for (const [n, user] of users.entries()) assert.equal((await user.send(users[(n + 1) % users.length], `${n}`)).ok, true);
      for (const [n, user] of users.entries()) {
        await user.got('private message', ({ content }) => content === `${(n + users.length - 1) % users.length}`);
      }
    });

    test('an upgrade on a connection of another worker is carried to the session\'s own', async (t) => {
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
      t.after(() => agent.destroy());
      const host = await PollingSession.open(cluster, { agent });
      const guest = await PollingSession.open(cluster);
      assert.notEqual(host.worker, guest.worker);
      await guest.logIn('guest over a relay');
      const url = `wss://127.0.0.1:${cluster.port}${guest.path.replace('polling', 'websocket')}`;
      const ws = new WebSocket(url, { agent, ca: cluster.ca });
      t.after(() => ws.terminate());
      const packets = [];
      ws.on('message', (packet) => packets.push(packet.toString()));
      await within(once(ws, 'open'), 'the upgrade is accepted');
      assert.equal(ws._socket.localPort, host.localPort, 'it is the host\'s connection');
      ws.send('2probe');
      await until(() => packets.includes('3probe'), 'the owner answers');
    });

    test('a page of the host\'s own https address gets in, one of its http address does not', async () => {
      const own = `127.0.0.1:${cluster.port}`;
      for (const [origin, allowed] of [[`https://${own}`, true], [`http://${own}`, false], ['https://evil.example', false]]) {
        const headers = { Origin: origin };
        assert.equal((await request(cluster, POLLING, { headers })).status, allowed ? 200 : 403, origin);
        const asked = await askForWebSocket(cluster, { headers });
        asked.close?.();
        assert.equal(asked.status, allowed ? 101 : 403, origin);
      }
    });

    test('a cookie that is set here is for https only', async () => {
      const answer = await request(cluster, POLLING);
      assert.match(answer.headers['set-cookie'].join('\n'), /^io=[A-Za-z0-9_-]{4}; Path=\/; HttpOnly; SameSite=Lax; Secure$/);
    });

    test('HTTP/1.1 is chosen where the client offers a choice, and nothing where it offers none', async () => {
      for (const [ALPNProtocols, expected] of [[['h2', 'http/1.1'], 'http/1.1'], [['http/1.1'], 'http/1.1'], [undefined, false]]) {
        const connection = await openTls(cluster, { ALPNProtocols });
        assert.equal(connection.socket.alpnProtocol, expected, `${ALPNProtocols}`);
        await connection.write(head('/healthz'));
        assert.equal((await connection.answer()).status, 200);
        connection.destroy();
      }
      await assert.rejects(openTls(cluster, { ALPNProtocols: ['h2'] }), /no application protocol|ALPN/i, 'HTTP/2 alone is refused');
    });

    test('TLS 1.2 and 1.3 are spoken, and nothing older', async () => {
      for (const version of ['TLSv1.2', 'TLSv1.3']) {
        const connection = await openTls(cluster, { minVersion: version, maxVersion: version });
        assert.equal(connection.socket.getProtocol(), version);
        connection.destroy();
      }
      // Node's own OpenSSL would not even begin it at its usual level of security.
      const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' };
      await assert.rejects(openTls(cluster, old), /alert/);
    });

    test('plain HTTP on the TLS port is told so, and the log counts it', async () => {
      for (const path of [POLLING, '/']) {
        const answer = await request({ host: cluster.host, port: cluster.port }, path);
        assert.equal(answer.status, 400);
        assert.equal(answer.body, 'This is an HTTPS port.\n');
        assert.equal(answer.headers.connection, 'close');
      }
      const garbage = await RawConnection.open(cluster);
      await garbage.write('SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n');
      assert.equal((await garbage.answer()).status, 400);
      garbage.destroy();
      await cluster.line(/not served connections="\d+ not TLS/);
    });

    test('what begins like TLS and is none is closed', async () => {
      for (const bytes of [Buffer.alloc(500, 22), Buffer.from('160301000401000000', 'hex'), Buffer.concat([HALF_A_HELLO, Buffer.alloc(300)])]) {
        const connection = await RawConnection.open(cluster);
        await connection.write(bytes);
        await connection.lifetime(3_000);
        connection.destroy();
      }
    });

    test('requests that come in one piece are all answered, in order', async (t) => {
      const connection = await openTls(cluster);
      t.after(() => connection.destroy());
      await connection.write(head(POLLING) + head('/healthz') + head('/socket.io/?EIO=3&transport=polling'));
      await until(() => connection.text.includes('Unsupported protocol version'), 'the last answer');
      assert.match(connection.text, /^HTTP\/1\.1 200 [^]*0\{"sid":[^]*HTTP\/1\.1 200 [^]*HTTP\/1\.1 400 /);
    });

    for (const [version, name] of Object.entries(VERSIONS)) {
      test(`a ${name} session that one worker began is taken up by all, again and again`, async () => {
        const session = new TlsSession(version, certificate.file);
        assert.equal((await session.begin(cluster)).resumed, false);
        const connections = [];
        for (let n = 0; n < 12; n += 1) connections.push(await session.resume(cluster, { keep: n % 2 === 1 }));
        assert.ok(connections.every(({ resumed }) => resumed), JSON.stringify(connections));
        assert.equal(new Set(connections.map(({ worker }) => worker)).size, 4, 'by every worker');
      });
    }
  });

  test('sessions are taken up after a worker died and after the master did', async (t) => {
    const first = await start();
    const sessions = Object.keys(VERSIONS).map((version) => new TlsSession(version, certificate.file));
    for (const session of sessions) await session.begin(first);
    const assertAllResumed = async (cluster) => {
      for (const session of sessions) {
        const connections = await inParallel(Array.from({ length: 8 }), 1, () => session.resume(cluster));
        assert.ok(connections.every(({ resumed }) => resumed), `${session.version}: ${JSON.stringify(connections)}`);
        assert.equal(new Set(connections.map(({ worker }) => worker)).size, 4, 'by every worker');
      }
    };
    const [victim] = first.workerPids();
    first.killWorker(victim);
    await first.workersReplaced(4, [victim]);
    await until(async () => (await request(first, '/healthz')).status === 200, 'they serve');
    await assertAllResumed(first);

    const user = await ChatUser.logIn(first, { username: 'stays' });
    t.after(() => user.close());
    const next = await replaceMaster(t, first, { balance: 'round-robin', certificate });
    await assertAllResumed(next);
    // The new master makes tickets of its own; those are good everywhere, too, and the old ones still are.
    for (const session of sessions) await session.resume(next, { keep: true });
    await assertAllResumed(next);
    assert.deepEqual(user.disconnects, []);
    assert.equal((await user.send(user, 'through it all')).ok, true);
  });

  test('a renewed certificate is shown to new connections, and chats go on; a broken one changes nothing', async (t) => {
    const [mine, renewed] = [await Certificate.make(), await Certificate.make()];
    const cluster = await start({ certificate: mine, t });
    const either = [mine.pem, renewed.pem];
    // Twice round all workers.
    const shown = async () => await Promise.all(Array.from({ length: 8 }, () => serialShown(cluster, either)));
    const all = (serial) => Array(8).fill(serial);
    const users = [];
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      for (let n = 0; n < 4; n += 1) users.push(await ChatUser.logIn(cluster, { username: `${name} ${n}`, transports, ca: either }));
    }
    t.after(() => users.forEach((user) => user.close()));
    const load = await Load.start(t, cluster, { users: 12, rate: 200 });
    await load.progress(50);
    assert.deepEqual(await shown(), all(mine.serial));

    const warnings = () => cluster.output.match(/the old TLS certificate stays in use/g)?.length ?? 0;
    const warned = (times) => until(() => warnings() >= 4 * times, 'each worker warns of it');
    writeFileSync(mine.file, renewed.pem.slice(0, renewed.pem.length / 2));
    await warned(1);
    assert.deepEqual(await shown(), all(mine.serial), 'half a file');
    writeFileSync(mine.file, renewed.pem);
    await warned(2);
    assert.deepEqual(await shown(), all(mine.serial), 'a certificate and another one\'s key');
    assert.doesNotMatch(cluster.output, /the TLS certificate was renewed/);
    writeFileSync(mine.keyFile, renewed.key);
    await until(() => cluster.output.match(/the TLS certificate was renewed/g)?.length === 4, 'each worker has it');
    assert.deepEqual(await shown(), all(renewed.serial));
    assert.equal(warnings(), 8, 'one warning of each worker for each change');

    cluster.ca = renewed.pem;
    const newcomer = await ChatUser.logIn(cluster, { username: 'newcomer' });
    t.after(() => newcomer.close());
    await load.progress(50);
    await load.finish();
    load.assertNothingHeardTwice();
    assert.deepEqual(load.users.map((user) => user.disconnects), Array(12).fill(0), 'nobody of the load was disconnected');
    for (const user of users) {
      assert.equal((await user.send(newcomer, user.username)).ok, true);
      await newcomer.got('private message', ({ content }) => content === user.username);
      assert.deepEqual(user.disconnects, [], `${user.username} noticed nothing`);
    }
  });

  test('a worker that dies while the certificate is broken is replaced once it is whole', async (t) => {
    const mine = await Certificate.make();
    const cluster = await start({ workers: 2, certificate: mine, t });
    writeFileSync(mine.file, mine.pem.slice(0, mine.pem.length / 2));
    const [victim] = cluster.workerPids();
    cluster.killWorker(victim);
    await cluster.line(new RegExp(mine.file), 5_000);
    for (let n = 0; n < 10; n += 1) assert.equal((await request(cluster, POLLING)).status, 200, 'the other one serves');
    writeFileSync(mine.file, mine.pem);
    await cluster.workersReplaced(2, [victim]);
    await until(async () => {
      const sessions = await inParallel([1, 2], 1, () => PollingSession.open(cluster));
      return sessions[0].worker !== sessions[1].worker;
    }, 'both serve');
  });

  test('a certificate that cannot be used is one line at start', async () => {
    const other = await Certificate.make();
    const empty = join(temporaryDirectory(), 'empty.pem');
    writeFileSync(empty, '');
    const started = (file, keyFile) =>
      finished([
        ...['--workers', '1', '--listen', '127.0.0.1:0', '--data-dir', temporaryDirectory()],
        ...['--runtime-dir', temporaryDirectory(), '--tls-cert', file, '--tls-key', keyFile],
      ]);
    assertOneLine(await started(certificate.file, other.keyFile), 1, new RegExp(certificate.file));
    assertOneLine(await started(certificate.file, empty), 1, new RegExp(empty));
    assertOneLine(await started('/nowhere/cert.pem', certificate.keyFile), 1, /\/nowhere\/cert\.pem/);
    assertOneLine(await started(certificate.keyFile, certificate.keyFile), 1, new RegExp(certificate.keyFile));
    assert.equal((await finished(['--tls-cert', certificate.file])).code, 2, 'one without the other is wrong usage');
  });

  describe('and clients that are slow or silent', () => {
    let cluster;
    before(async () => {
      cluster = await start({ workers: 2, args: ['--head-timeout', '1s', '--max-head', '16384'] });
    });
    after(() => cluster?.stop());

    test('who does not finish the handshake, or the first request behind it, is closed after --head-timeout', async () => {
      const openings = {
        'nothing at all': () => RawConnection.open(cluster),
        'half a ClientHello': async () => {
          const connection = await RawConnection.open(cluster);
          await connection.write(HALF_A_HELLO);
          return connection;
        },
        'a handshake and nothing': () => openTls(cluster),
        'a handshake and half a head': async () => {
          const connection = await openTls(cluster);
          await connection.write(head(POLLING).slice(0, -2));
          return connection;
        },
      };
      await Promise.all(
        Object.entries(openings).map(async ([name, open]) => {
          const connection = await open();
          const lifetime = await connection.lifetime(6_000).catch((error) => {
            error.message = `${name}: ${error.message}`;
            throw error;
          });
          assert.ok(lifetime > 800 && lifetime < 4_000, `${name}: ${lifetime} ms`);
          assert.ok([undefined, 408].includes(connection.status), `${name}: ${connection.text}`);
          connection.destroy();
        }),
      );
    });

    test('a ClientHello that comes byte by byte is understood', async (t) => {
      const raw = await RawConnection.open(cluster);
      t.after(() => raw.destroy());
      // What the client of the other end says goes through our hands, so that it can be cut.
      const chunks = [];
      const between = new Duplex({
        read() {},
        write(bytes, _, done) {
          chunks.push(bytes);
          raw.write(chunks.length === 1 ? Array.from(bytes, (byte) => Buffer.from([byte])) : bytes).then(() => done(), done);
        },
      });
      raw.socket.on('data', (bytes) => between.push(bytes));
      const socket = tls.connect({ socket: between, ca: cluster.ca, host: '127.0.0.1' });
      await within(once(socket, 'secureConnect'), 'the handshake');
      socket.end();
    });

    test('a head that is too large is refused inside TLS, too', async () => {
      const connection = await openTls(cluster);
      await connection.write(head(POLLING, `X-Filler: ${'x'.repeat(40_000)}\r\n`));
      await until(() => connection.status, 'an answer');
      assert.equal(connection.status, 431);
      connection.destroy();
    });

    test('a client that resets in the middle of the handshake harms nobody', async () => {
      await inParallel(Array.from({ length: 50 }), 25, async (_, n) => {
        const connection = await RawConnection.open(cluster);
        await connection.write(HALF_A_HELLO);
        if (n % 2) connection.socket.resetAndDestroy();
        else connection.destroy();
      });
      assert.equal((await request(cluster, POLLING)).status, 200);
    });
  });

  for (const [name, open] of Object.entries({
    'half a ClientHello': async (cluster) => {
      const connection = await RawConnection.open(cluster);
      await connection.write(HALF_A_HELLO);
      return connection;
    },
    'a whole handshake': (cluster) => openTls(cluster),
  })) {
    test(`300 clients that say no more than ${name} keep nobody out`, async (t) => {
      const cluster = await start({ workers: 2, args: ['--head-timeout', '20s'], t });
      const silent = await inParallel(Array.from({ length: 300 }), 30, () => open(cluster));
      t.after(() => silent.forEach((connection) => connection.destroy()));
      for (let n = 0; n < 20; n += 1) {
        const asked = performance.now();
        assert.equal((await request(cluster, POLLING)).status, 200);
        const took = performance.now() - asked;
        assert.ok(took < 2_000, `request ${n} took ${took} ms`);
      }
      assert.ok(silent.every((connection) => !connection.closed), 'all of them are there still');
    });
  }

  test('a stop lets clients over TLS go, and ends in time', async (t) => {
    const cluster = await start();
    const users = [];
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      for (let n = 0; n < 4; n += 1) users.push(await ChatUser.logIn(cluster, { username: `${name} ${n}`, transports }));
    }
    t.after(() => users.forEach((user) => user.close()));
    const hesitant = await RawConnection.open(cluster);
    await hesitant.write(HALF_A_HELLO);
    await cluster.stop();
    hesitant.destroy();
    await until(() => users.every((user) => user.disconnects.length > 0), 'every client was told');
    for (const user of users) {
      assert.ok(['transport close', 'transport error'].includes(user.disconnects[0]), `${user.username}: ${user.disconnects[0]}`);
    }
  });
});
