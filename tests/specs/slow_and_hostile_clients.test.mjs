// Heads that come slowly, in odd pieces, too large, or are none at all. Through all of it the master stays small
// and idle, and others are served.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, PollingSession } from '../harness/polling_session.mjs';
import { cpuSeconds, openDescriptors, residentKiB } from '../harness/proc.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const head = (path, extra = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${extra}\r\n`;

describe('slow and hostile clients', () => {
  let cluster;
  let workers;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
    workers = cluster.workerPids().toSorted();
  });
  after(async () => {
    const survivors = cluster?.workerPids().toSorted();
    await cluster?.stop();
    assert.deepEqual(survivors, workers, 'no worker died of it');
  });

  test('a head that arrives byte by byte is served', async (t) => {
    const connection = await RawConnection.open(cluster);
    t.after(() => connection.destroy());
    await connection.write([...head(POLLING)], 2);
    const { status, body } = await connection.answer();
    assert.equal(status, 200);
    assert.match(body, /^0\{"sid":"/);
  });

  test('a head that is split before, inside and after sid= reaches the session\'s worker', async () => {
    const sessions = await inParallel(Array.from({ length: 24 }), 8, () => PollingSession.open(cluster));
    await inParallel(sessions, 8, async (session, n) => {
      const text = head(session.path);
      const at = text.indexOf('sid=');
      // Just before it, after each of its letters, inside the tag, between tag and secret, inside the secret, behind it.
      const cut = at + [0, 1, 2, 3, 4, 6, 8, 14, 24, 25, -1, -20][n % 12];
      const connection = await RawConnection.open(cluster);
      await connection.write([text.slice(0, cut), text.slice(cut)], 30);
      const { status, body } = await connection.answer();
      assert.equal(status, 200, `cut ${cut - at} behind sid=: ${body}`);
      connection.destroy();
    });
  });

  test('a POST of 900 kB in small slow pieces is taken whole', async (t) => {
    const recipient = await ChatUser.logIn(cluster, { username: 'reader' });
    t.after(() => recipient.close());
    const session = await PollingSession.open(cluster);
    await session.logIn('writer');
    // Fourteen messages of 64 kB: more than one would be too large for a message, and less no 900 kB.
    const packets = Array.from(
      { length: 14 },
      (_, n) => `42${n}${JSON.stringify(['private message', { content: `${n}`.padEnd(64_000, '.'), to: recipient.userID }])}`,
    );
    const body = packets.join('\x1e');
    assert.ok(body.length > 890_000 && body.length < 1_000_000);
    const connection = await RawConnection.open(cluster);
    t.after(() => connection.destroy());
    await connection.write(
      `POST ${session.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    await connection.write(body.match(/[^]{1,4000}/g), 3);
    assert.deepEqual(await connection.answer(), { status: 200, body: 'ok' });
    await until(() => recipient.inbox.length === 14, 'all messages arrive');
    assert.deepEqual(recipient.inbox.map(({ content }) => Number.parseInt(content, 10)), Array.from({ length: 14 }, (_, n) => n));
    assert.ok(recipient.inbox.every(({ content }) => content.length === 64_000));
    for (let n = 0; n < 14; n += 1) {
      assert.equal(JSON.parse((await session.packet(`43${n}[`)).slice(`43${n}`.length))[0].ok, true);
    }
  });

  test('a client that says nothing, or not all, is closed after 5 s', async () => {
    const silent = await RawConnection.open(cluster);
    const hesitant = await RawConnection.open(cluster);
    await hesitant.write(head(POLLING).slice(0, -2));
    for (const [connection, name] of [[silent, 'silent'], [hesitant, 'hesitant']]) {
      const lifetime = await connection.lifetime();
      assert.ok(lifetime > 4_000 && lifetime < 8_000, `${name}: ${lifetime} ms`);
      assert.ok([undefined, 408].includes(connection.status), connection.text);
      connection.destroy();
    }
    assert.equal(hesitant.status, 408, 'who began to speak is told why');
  });

  test('1,000 silent clients delay nobody and cost the master neither CPU nor memory for long', async (t) => {
    const descriptors = openDescriptors(cluster.pid);
    const silent = await inParallel(Array.from({ length: 1000 }), 100, () => RawConnection.open(cluster));
    t.after(() => silent.forEach((connection) => connection.destroy()));
    const cpu = cpuSeconds(cluster.pid);
    const began = performance.now();
    const times = [];
    for (let n = 0; n < 100; n += 1) {
      const asked = performance.now();
      assert.equal((await request(cluster, POLLING)).status, 200);
      times.push(performance.now() - asked);
    }
    times.sort((a, b) => a - b);
    // Served one by one behind them these would take 5 s each; a loaded machine is given some slack.
    assert.ok(times[50] < 100 && times[99] < 1_000, `median ${times[50]} ms, longest ${times[99]} ms`);
    const open = silent.filter((connection) => !connection.closed).length;
    assert.equal(open, 1000, 'all of them were there meanwhile');
    await Promise.all(silent.map((connection) => connection.lifetime()));
    const seconds = (performance.now() - began) / 1000;
    const used = cpuSeconds(cluster.pid) - cpu;
    assert.ok(used < seconds / 4, `the master used ${used} s of CPU in ${seconds} s`);
    await until(() => openDescriptors(cluster.pid) <= descriptors + 5, 'the master gave every descriptor back');
  });

  test('half a head costs no CPU while it waits', async (t) => {
    // What is peeked at stays readable: a master that asks again at once would spin here.
    const waiting = await inParallel(Array.from({ length: 50 }), 50, async () => {
      const connection = await RawConnection.open(cluster);
      await connection.write('GET /socket.io/?EIO=4&transport=pol');
      return connection;
    });
    t.after(() => waiting.forEach((connection) => connection.destroy()));
    const before = cpuSeconds(cluster.pid);
    await sleep(2_000); // the time over which the CPU is measured
    const used = cpuSeconds(cluster.pid) - before;
    assert.ok(used < 0.2, `${used} s of CPU in 2 s`);
    assert.ok(waiting.every((connection) => !connection.closed));
  });

  test('a client that gives up in the middle of its head is forgotten at once', async () => {
    // Its end stays readable for good. A master that waits on for the rest of the head spins, and serves nobody.
    const descriptors = openDescriptors(cluster.pid);
    const cpu = cpuSeconds(cluster.pid);
    const farewells = [(socket) => socket.end(), (socket) => socket.resetAndDestroy()];
    const connections = await inParallel(Array.from({ length: 50 }), 50, async (_, n) => {
      const connection = await RawConnection.open(cluster);
      // Behind the first bytes, so that the master is already waiting for more.
      await connection.write(n % 3 ? 'GET /socket.io/' : '', 20);
      farewells[n % 2](connection.socket);
      return connection;
    });
    const asked = performance.now();
    assert.equal((await request(cluster, POLLING)).status, 200);
    assert.ok(performance.now() - asked < 1_000);
    await until(() => openDescriptors(cluster.pid) <= descriptors, 'their descriptors are given back', 3_000);
    assert.ok(cpuSeconds(cluster.pid) - cpu < 0.3);
    connections.forEach((connection) => connection.destroy());
  });

  test('a head of 1 MB is answered with 431, and the client gets to read it', async () => {
    const filler = `X-Filler: ${'x'.repeat(990)}\r\n`;
    const megabyte = `GET ${POLLING} HTTP/1.1\r\nHost: localhost\r\n${filler.repeat(1000)}\r\n`;
    const path = `GET /${'y'.repeat(1_000_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
    await inParallel(Array.from({ length: 20 }), 4, async (_, n) => {
      const connection = await RawConnection.open(cluster);
      // Writing goes on while the refusal is under way: closing over unread bytes would reset it.
      await connection.write((n % 2 ? megabyte : path).match(/[^]{1,65536}/g));
      await connection.lifetime();
      assert.equal(connection.status, 431, `${connection.error ?? connection.text.slice(0, 200)}`);
      connection.destroy();
    });
  });

  test('garbage, TLS and HTTP/2 on the plain port get 400 or a close', async () => {
    const clientHello = Buffer.from(
      '16030100c8010000c40303' + '00'.repeat(32) + '00' + '0004130113021303' + '0100' + '00'.repeat(100),
      'hex',
    );
    const openings = {
      'TLS': clientHello,
      'the HTTP/2 preface': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      'NUL bytes': Buffer.alloc(512),
      'bytes over 127': Buffer.alloc(512, 0xfe),
      'words': 'hello there\r\n\r\n',
      'a bad request line': 'GET\r\n\r\n',
      'no version': 'GET /\r\n\r\n',
      'a bad header': `GET ${POLLING} HTTP/1.1\r\nno colon here\r\n\r\n`,
      'SSH': 'SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n',
      'empty lines': '\r\n'.repeat(100),
    };
    await Promise.all(
      Object.entries(openings).map(async ([name, bytes]) => {
        const connection = await RawConnection.open(cluster);
        await connection.write(bytes);
        await connection.lifetime();
        assert.ok([undefined, 400, 408, 431, 505].includes(connection.status), `${name}: ${connection.text}`);
        connection.destroy();
      }),
    );
  });

  test('the master\'s memory stays flat through all of this', async () => {
    const round = async () => {
      await inParallel(Array.from({ length: 300 }), 50, async (_, n) => {
        const connection = await RawConnection.open(cluster);
        await connection.write([`GET /${'z'.repeat(20_000)}`, Buffer.alloc(2_000), head(POLLING)][n % 3]);
        if (n % 3 === 2) await connection.answer();
        connection.destroy();
      });
      await inParallel(Array.from({ length: 300 }), 50, () => request(cluster, POLLING));
    };
    await round();
    const before = residentKiB(cluster.pid);
    for (let n = 0; n < 5; n += 1) await round();
    const growth = residentKiB(cluster.pid) - before;
    assert.ok(growth < 4_096, `${growth} KiB more after 3,000 connections`);
  });

  test('after all of this a user logs in as ever', async (t) => {
    const user = await ChatUser.logIn(cluster, { username: 'late', transports: ['polling', 'websocket'] });
    t.after(() => user.close());
    assert.equal((await user.send(user, 'still here')).ok, true);
  });
});
