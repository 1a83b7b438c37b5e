// Clients behind balancers and proxies: who they are is said by a PROXY protocol header or by headers of the first
// request, where that is to be believed; and the cookie by which balancers keep a client on its worker.
//
// By client-hash, who a client is taken for shows in the worker that it gets.
import assert from 'node:assert/strict';
import http from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { Certificate } from '../harness/certificate.mjs';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { NO_OPENSSL } from '../harness/openssl.mjs';
import { POLLING, PollingSession, readTag } from '../harness/polling_session.mjs';
import { BehindProxy, binaryHeader, binaryHeaderOf, extension, textHeader } from '../harness/proxy_header.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { askForWebSocket, openWebSocket } from '../harness/raw_websocket.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const head = (path, extra = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${extra}\r\n`;

/** Documentation addresses: enough that no two ways to choose a worker agree on all by chance. */
const ADDRESSES = Array.from({ length: 24 }, (_, n) => `203.0.113.${n * 7 + 1}`);
const ADDRESSES_6 = Array.from({ length: 12 }, (_, n) => `2001:db8:${n + 1}::7`);

const workerOf = async (server, options) => (await PollingSession.open(server, options)).worker;

/** The worker of each, by `optionsOf` its address. */
const workersOf = (server, addresses, optionsOf) =>
  inParallel(addresses, 8, (address) => workerOf(server, optionsOf(address)));

/** The worker that answers bytes which are a handshake's request with something in front. */
async function workerOfBytes(server, pieces, pauseMs) {
  const connection = await RawConnection.open(server);
  await connection.write(pieces, pauseMs);
  const { status, body } = await connection.answer();
  assert.equal(status, 200, body);
  connection.destroy();
  return readTag(JSON.parse(body.slice(1)).sid).worker;
}

describe('behind a balancer with the PROXY protocol', () => {
  const MISSING = 'This port takes connections with a PROXY protocol header only.\n';
  const HEADERS = { 'version 1': textHeader, 'version 2': binaryHeader };

  const behind = (header) => ({ agent: new BehindProxy(header) });

  describe('by client-hash', () => {
    let cluster;
    let home;
    let home6;
    before(async () => {
      cluster = await startCluster({ balance: 'client-hash', args: ['--proxy-protocol', '--head-timeout', '2s'] });
      home = await workersOf(cluster, ADDRESSES, (address) => behind(textHeader(address)));
      home6 = await workersOf(cluster, ADDRESSES_6, (address) => behind(textHeader(address)));
    });
    after(() => cluster?.stop());

    test('the header names the client: the same address is on the same worker, many are on all', async () => {
      assert.equal(new Set(home).size, 4, `${home}`);
      assert.ok(new Set(home6).size > 1, `${home6}`);
      for (const header of Object.values(HEADERS)) {
        assert.deepEqual(await workersOf(cluster, ADDRESSES, (address) => behind(header(address))), home);
        assert.deepEqual(await workersOf(cluster, ADDRESSES_6, (address) => behind(header(address))), home6);
        const mapped = (address) => behind(binaryHeaderOf({ family: 0x21, content: mappedContent(address) }));
        assert.deepEqual(await workersOf(cluster, ADDRESSES, mapped), home, 'an IPv4 address in IPv6 clothes');
      }
      const extended = (address) =>
        behind(binaryHeader(address, { extensions: Buffer.concat([extension(0x02, Buffer.from('chat.example')), extension(0x04, Buffer.alloc(300))]) }));
      assert.deepEqual(await workersOf(cluster, ADDRESSES, extended), home, 'with extensions');
    });

    /** The addresses and ports of version 2 for an IPv4 client of an IPv6 listener. */
    function mappedContent(address) {
      const mapped = (bytes) => Buffer.concat([Buffer.alloc(10), Buffer.from([0xff, 0xff]), Buffer.from(bytes)]);
      return Buffer.concat([mapped(address.split('.').map(Number)), mapped([127, 0, 0, 1]), Buffer.from([0x12, 0x67, 0, 80])]);
    }

    for (const [version, header] of Object.entries(HEADERS)) {
      test(`a header of ${version} may come in pieces, or with the request in one`, async () => {
        const bytes = Buffer.from(head(POLLING));
        await inParallel(ADDRESSES, 12, async (address, n) => {
          const mine = header(address);
          const whole = Buffer.concat([mine, bytes]);
          // Alone; with a part of the request; cut within; and byte by byte.
          const cut = [0, mine.length, mine.length + 10, 1, 7, 13, mine.length - 1][n % 8];
          const pieces = cut === undefined ? Array.from(whole, (byte) => Buffer.from([byte])) : [whole.subarray(0, cut), whole.subarray(cut)];
          const worker = await workerOfBytes(cluster, pieces, cut === undefined ? 2 : 40);
          assert.equal(worker, home[n], `cut at ${cut} of ${mine.length}`);
        });
      });
    }

    test('a header with long extensions and a long request come in one piece', async () => {
      const extensions = extension(0x20, Buffer.alloc(4_096 - 16 - 12 - 3, 1));
      const long = Buffer.from(head(POLLING, `X-Filler: ${'x'.repeat(7_000)}\r\n`));
      await inParallel(ADDRESSES.slice(0, 8), 8, async (address, n) => {
        const whole = Buffer.concat([binaryHeader(address, { extensions }), long]);
        // At once, and to a master that is waiting already.
        const pieces = n % 2 ? [whole] : [whole.subarray(0, 5), whole.subarray(5)];
        const connection = await RawConnection.open(cluster);
        await sleep(50); // until the master waits for it
        await connection.write(pieces, 50);
        const { status, body } = await connection.answer();
        assert.equal(status, 200, body);
        connection.destroy();
      });
    });

    test('LOCAL and UNKNOWN mean the other end itself', async () => {
      const peers = Array.from({ length: 16 }, (_, n) => `127.0.0.${n * 3 + 2}`);
      const own = await workersOf(cluster, peers, (peer) => behind(textHeader(peer)));
      assert.ok(new Set(own).size > 2);
      const headers = {
        'UNKNOWN': Buffer.from('PROXY UNKNOWN\r\n'),
        'UNKNOWN with what is to be ignored': Buffer.from('PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n'),
        'LOCAL': binaryHeaderOf({ command: 'LOCAL', family: 0, content: Buffer.alloc(0) }),
        'LOCAL with an address': binaryHeader('203.0.113.9', { command: 'LOCAL' }),
        'no family': binaryHeaderOf({ family: 0, content: Buffer.alloc(0) }),
        'a Unix socket': binaryHeaderOf({ family: 0x31, content: Buffer.alloc(216) }),
      };
      for (const [name, header] of Object.entries(headers)) {
        // The agent makes the connection, so it is the agent that has to be told from where.
        const from = (localAddress) => ({ agent: new BehindProxy(header, { localAddress }) });
        assert.deepEqual(await workersOf(cluster, peers, from), own, name);
      }
    });

    test('the header comes once a connection, before all of its requests', async (t) => {
      const agent = new BehindProxy(textHeader('203.0.113.9'), { keepAlive: true, maxSockets: 1 });
      t.after(() => agent.destroy());
      const session = await PollingSession.open(cluster, { agent });
      await session.logIn('behind a balancer');
      const last = await request(cluster, session.path, { agent, method: 'POST', body: '1' });
      assert.equal(last.localPort, session.localPort, 'on one connection');
    });

    test('the official client chats through a balancer, on every transport', async (t) => {
      const users = [];
      t.after(() => users.forEach((user) => user.close()));
      for (const [n, [name, transports]] of Object.entries(TRANSPORTS).entries()) {
        users.push(await ChatUser.logIn(cluster, { username: name, transports, agent: new BehindProxy(textHeader(ADDRESSES[n])) }));
        users.push(await ChatUser.logIn(cluster, { username: `${name}, too`, transports, agent: new BehindProxy(binaryHeader(ADDRESSES[n + 8])) }));
      }
      for (const [n, user] of users.entries()) {
        const to = users[(n + 1) % users.length];
        assert.equal((await user.send(to, `${n}`)).ok, true);
        await to.got('private message', ({ content }) => content === `${n}`);
      }
    });

    test('what begins otherwise is told so, and is counted', async () => {
      const binary = binaryHeader('203.0.113.9');
      const otherVersion = Buffer.from(binary);
      otherVersion[12] = 0x31;
      const openings = {
        'a request': head(POLLING),
        'TLS': Buffer.from('16030100c8010000c40303', 'hex'),
        'another family': 'PROXY UDP4 203.0.113.9 127.0.0.1 4711 80\r\n',
        'no port': 'PROXY TCP4 203.0.113.9 127.0.0.1 4711\r\n',
        'a family that is not the address\'s': 'PROXY TCP4 2001:db8::7 ::1 4711 80\r\n',
        'lower case': 'proxy TCP4 203.0.113.9 127.0.0.1 4711 80\r\n',
        'a line that does not end': `PROXY UNKNOWN ${'x'.repeat(200)}`,
        'another version': otherVersion,
        'another command': Buffer.concat([binary.subarray(0, 12), Buffer.from([0x22]), binary.subarray(13)]),
        'too few bytes for an address': binaryHeaderOf({ family: 0x11, content: Buffer.alloc(11) }),
        'more bytes than a header may have': binaryHeaderOf({ family: 0x11, content: Buffer.alloc(60_000) }),
        'zeros': Buffer.alloc(200),
      };
      await Promise.all(
        Object.entries(openings).map(async ([name, bytes]) => {
          const connection = await RawConnection.open(cluster);
          await connection.write(bytes);
          assert.deepEqual(await connection.answer(), { status: 400, body: MISSING }, name);
          await connection.lifetime(3_000);
          connection.destroy();
        }),
      );
      await cluster.line(/not served connections="[^"]*\d+ without a PROXY protocol header/);
    });

    test('garbage behind the header is refused as it is without one', async () => {
      const connection = await RawConnection.open(cluster);
      await connection.write(Buffer.concat([textHeader('203.0.113.9'), Buffer.from('hello there\r\n\r\n')]));
      const { status, body } = await connection.answer();
      assert.equal(status, 400);
      assert.notEqual(body, MISSING);
      connection.destroy();
      const twice = await RawConnection.open(cluster);
      await twice.write([Buffer.concat([textHeader('203.0.113.9'), textHeader('203.0.113.10'), Buffer.from(head(POLLING))])]);
      assert.equal((await twice.answer()).status, 400, 'only one header is taken off');
      twice.destroy();
    });

    test('a header that never ends, or behind which nothing comes, is closed after --head-timeout', async () => {
      const openings = {
        'nothing': '',
        'half of version 1': 'PROXY TCP4 203.0',
        'half of version 2': binaryHeader('203.0.113.9').subarray(0, 14),
        'a header alone': textHeader('203.0.113.9'),
        'a header and half a request': Buffer.concat([textHeader('203.0.113.9'), Buffer.from(head(POLLING).slice(0, -2))]),
      };
      await Promise.all(
        Object.entries(openings).map(async ([name, bytes]) => {
          const connection = await RawConnection.open(cluster);
          await connection.write(bytes);
          const lifetime = await connection.lifetime(8_000);
          assert.ok(lifetime > 1_700 && lifetime < 5_000, `${name}: ${lifetime} ms`);
          assert.ok([undefined, 408].includes(connection.status), `${name}: ${connection.text}`);
          connection.destroy();
        }),
      );
    });
  });

  test('TLS begins behind the header', { skip: NO_OPENSSL }, async (t) => {
    const certificate = await Certificate.make();
    const cluster = await startCluster({ balance: 'client-hash', certificate, args: ['--proxy-protocol'], t });
    /** One handshake in one TLS connection, whose header and first bytes come in one piece or in two. */
    const workerOverTls = async (header, apart) => {
      const raw = await RawConnection.open(cluster);
      if (!apart) raw.socket.cork();
      await raw.write(header, apart ? 30 : 0);
      const secure = new RawConnection(tls.connect({ socket: raw.socket, ca: cluster.ca, host: '127.0.0.1' }));
      if (!apart) process.nextTick(() => raw.socket.uncork());
      await secure.write(head(POLLING));
      const { body } = await secure.answer();
      secure.destroy();
      return readTag(JSON.parse(body.slice(1)).sid).worker;
    };
    const home = await inParallel(ADDRESSES, 8, (address) => workerOverTls(textHeader(address), true));
    assert.equal(new Set(home).size, 4, `${home}`);
    assert.deepEqual(await inParallel(ADDRESSES, 8, (address) => workerOverTls(binaryHeader(address), false)), home);
    const plain = await RawConnection.open(cluster);
    await plain.write(Buffer.concat([textHeader('203.0.113.9'), Buffer.from(head(POLLING))]));
    assert.deepEqual(await plain.answer(), { status: 400, body: 'This is an HTTPS port.\n' });
    plain.destroy();
  });

  test('who is named in the header is believed in turn when it is trusted', async (t) => {
    const args = ['--proxy-protocol', '--trusted-proxy', '10.0.0.0/8'];
    const cluster = await startCluster({ balance: 'client-hash', args, t });
    const home = await workersOf(cluster, ADDRESSES, (address) => behind(textHeader(address)));
    const by = (source) => (address) => ({ ...behind(binaryHeader(source)), headers: { 'X-Forwarded-For': `6.6.6.6, ${address}` } });
    assert.deepEqual(await workersOf(cluster, ADDRESSES, by('10.1.2.3')), home);
    const stranger = await workersOf(cluster, ADDRESSES, by('192.0.2.1'));
    assert.equal(new Set(stranger).size, 1, `${stranger}`);
  });

  test('the limit of one address is that of the header\'s', async (t) => {
    const cluster = await startCluster({ workers: 2, args: ['--proxy-protocol', '--max-connections-per-address', '2'], t });
    const ask = (address) => askForWebSocket(cluster, behind(textHeader(address)));
    const [first, second] = [await ask('203.0.113.1'), await ask('203.0.113.1')];
    assert.deepEqual([first.status, second.status], [101, 101]);
    const third = await ask('203.0.113.1');
    assert.deepEqual([third.status, third.body], [429, 'There are too many connections of this address.\n']);
    for (const other of ['203.0.113.2', '203.0.113.3', '2001:db8::1']) assert.equal((await ask(other)).status, 101, other);
    first.close();
    await until(async () => (await ask('203.0.113.1')).status === 101, 'a place is free again');
    assert.equal((await ask('203.0.113.1')).status, 429, 'one');
    await cluster.line(/not served connections="\d+ too many connections of one address"/);
  });
});

describe('behind proxies that add headers', () => {
  /** The proxy's own address, which is trusted, and one that is not. */
  const [PROXY, OTHER] = ['127.0.0.1', '127.0.0.2'];

  describe('by client-hash', () => {
    let cluster;
    let home;
    before(async () => {
      const args = ['--trusted-proxy', PROXY, '--trusted-proxy', '10.0.0.0/8,2001:db8:ffff::/48'];
      cluster = await startCluster({ balance: 'client-hash', args });
      home = await workersOf(cluster, ADDRESSES, named);
    });
    after(() => cluster?.stop());

    const named = (address) => ({ localAddress: PROXY, headers: { 'X-Forwarded-For': address } });

    test('X-Forwarded-For names the client: the same address is on the same worker, many are on all', async () => {
      assert.equal(new Set(home).size, 4, `${home}`);
      assert.deepEqual(await workersOf(cluster, ADDRESSES, named), home);
      const byId = cluster.workersById();
      const sockets = await inParallel(ADDRESSES, 8, (address) => openWebSocket(cluster, named(address)));
      const holders = await cluster.servedBy(sockets);
      sockets.forEach((socket) => socket.close());
      assert.deepEqual(holders, home.map((id) => byId.get(id)), 'WebSockets and polling agree');
    });

    for (const [what, headersOf] of Object.entries({
      'with what the client made up to the left of it': (address, n) => ({ 'X-Forwarded-For': `6.6.6.${n}, ${address}` }),
      'with garbage to the left of it': (address) => ({ 'X-Forwarded-For': `unknown, <script>,, ${address}` }),
      'with a second proxy to the right of it': (address) => ({ 'X-Forwarded-For': `${address}, 10.1.2.3` }),
      'with proxies of both kinds and what was made up': (address, n) => ({ 'X-Forwarded-For': `10.6.6.${n}, 6.6.6.6 , ${address},10.1.2.3,2001:db8:ffff::5, 127.0.0.1` }),
      'with a port': (address) => ({ 'X-Forwarded-For': `${address}:4711` }),
      'in several headers': (address, n) => ({ 'X-Forwarded-For': [`6.6.6.${n}`, address, '10.1.2.3'] }),
      'as an IPv4 address in IPv6 clothes': (address) => ({ 'X-Forwarded-For': `::ffff:${address}` }),
      'with a Forwarded that says otherwise': (address, n) => ({ 'X-Forwarded-For': address, 'Forwarded': `for=6.6.6.${n}` }),
      'in Forwarded': (address) => ({ Forwarded: `for=${address};proto=https;by=10.1.2.3` }),
      'in Forwarded, with what was made up and a second proxy': (address, n) => ({ Forwarded: `for=6.6.6.${n}, For="${address}:4711", for=10.1.2.3` }),
    })) {
      test(`the client is found ${what}`, async () => {
        const workers = await inParallel(ADDRESSES, 8, (address, n) =>
          workerOf(cluster, { localAddress: PROXY, headers: headersOf(address, n) }),
        );
        assert.deepEqual(workers, home);
      });
    }

    test('IPv6 clients are found, with brackets and without', async () => {
      const plain = await workersOf(cluster, ADDRESSES_6, named);
      assert.ok(new Set(plain).size > 1);
      assert.deepEqual(await workersOf(cluster, ADDRESSES_6, (address) => named(`[${address}]:4711`)), plain);
      assert.deepEqual(
        await workersOf(cluster, ADDRESSES_6, (address) => ({ localAddress: PROXY, headers: { Forwarded: `for="[${address}]"` } })),
        plain,
      );
    });

    test('who is not trusted is not believed', async () => {
      for (const name of ['X-Forwarded-For', 'Forwarded']) {
        const workers = await workersOf(cluster, ADDRESSES, (address) => ({
          localAddress: OTHER,
          headers: { [name]: name === 'Forwarded' ? `for=${address}` : address },
        }));
        const own = await workerOf(cluster, { localAddress: OTHER });
        assert.deepEqual(workers, workers.map(() => own), `${name}: all are the one other`);
      }
    });

    test('a client whose address is hidden is taken for the proxy', async () => {
      const own = await workerOf(cluster, { localAddress: PROXY });
      for (const value of ['unknown', '_hidden', '', '6.6.6.6, unknown', '6.6.6.66, 300.1.1.1']) {
        assert.equal(await workerOf(cluster, named(value)), own, value);
      }
    });
  });

  test('the limit of one address is that of the client behind the proxy', async (t) => {
    const args = ['--trusted-proxy', PROXY, '--max-connections-per-address', '2'];
    const cluster = await startCluster({ workers: 2, args, t });
    const ask = (forwarded, localAddress = PROXY) => askForWebSocket(cluster, { localAddress, headers: { 'X-Forwarded-For': forwarded } });
    const first = await ask('203.0.113.1');
    assert.deepEqual([first.status, (await ask('203.0.113.1')).status], [101, 101]);
    assert.equal((await ask('203.0.113.1')).status, 429);
    for (let n = 0; n < 4; n += 1) {
      assert.equal((await ask(`6.6.6.${n}, 203.0.113.1`)).status, 429, 'what it made up does not help it');
    }
    for (let n = 0; n < 6; n += 1) assert.equal((await ask(`203.0.113.${n + 10}`)).status, 101, 'others come in by the same proxy');
    // Who is not trusted is one address, whatever it says.
    assert.deepEqual([(await ask('203.0.113.20', OTHER)).status, (await ask('203.0.113.21', OTHER)).status], [101, 101]);
    assert.equal((await ask('203.0.113.22', OTHER)).status, 429);
    // Of IPv6 a client has a whole network.
    assert.deepEqual([(await ask('2001:db8:1:2::1')).status, (await ask('2001:db8:1:2:ffff::2')).status], [101, 101]);
    assert.equal((await ask('2001:db8:1:2:3::3')).status, 429);
    assert.equal((await ask('2001:db8:1:3::1')).status, 101);
    first.close();
    await until(async () => (await ask('203.0.113.1')).status === 101, 'a place is free again');
    assert.equal((await ask('203.0.113.1')).status, 429, 'one');
  });

  for (const trusted of [true, false]) {
    test(`what comes by a Unix socket is ${trusted ? 'believed when unix is trusted' : 'not believed otherwise'}`, async (t) => {
      const socketPath = join(temporaryDirectory(), 'proxy');
      const args = ['--listen', `unix:${socketPath}`, '--max-connections-per-address', '2'];
      const cluster = await startCluster({ balance: 'client-hash', args: [...args, ...(trusted ? ['--trusted-proxy', 'unix'] : [])], t });
      const unix = { socketPath };
      const named = (address) => ({ headers: { 'X-Forwarded-For': address } });
      const workers = await workersOf(unix, ADDRESSES, named);
      const again = await workersOf(unix, ADDRESSES, named);
      if (trusted) {
        assert.deepEqual(again, workers);
        assert.equal(new Set(workers).size, 4, `${workers}`);
      } else {
        // Who has no address goes to the worker with the fewest clients.
        for (const some of [workers, again]) assert.deepEqual([0, 1, 2, 3].map((id) => some.filter((worker) => worker === id).length), [6, 6, 6, 6]);
      }
      const statuses = [];
      for (let n = 0; n < 4; n += 1) statuses.push((await askForWebSocket(unix, named('203.0.113.9'))).status);
      assert.deepEqual(statuses, trusted ? [101, 101, 429, 429] : [101, 101, 101, 101], 'whose connections are counted');
      assert.equal((await askForWebSocket(unix, named('203.0.113.10'))).status, 101);
      assert.equal((await askForWebSocket(cluster, named('203.0.113.9'))).status, 101, 'TCP is not trusted by this');
    });
  }

  describe('that end TLS', () => {
    let cluster;
    before(async () => {
      cluster = await startCluster({ workers: 2, args: ['--trusted-proxy', PROXY, '--affinity-cookie', 'io'] });
    });
    after(() => cluster?.stop());

    /** The statuses of both transports' handshakes for a page of this origin. */
    async function statuses(origin, headers, localAddress = PROXY) {
      const options = { localAddress, headers: { Host: 'chat.example', Origin: origin, ...headers } };
      const asked = await askForWebSocket(cluster, options);
      asked.close?.();
      return [(await request(cluster, POLLING, options)).status, asked.status];
    }

    test('their https pages get in, and no others', async () => {
      for (const headers of [{ 'X-Forwarded-Proto': 'https' }, { 'X-Forwarded-Proto': 'https, http' }, { Forwarded: 'for=203.0.113.9;proto=https' }]) {
        assert.deepEqual(await statuses('https://chat.example', headers), [200, 101], JSON.stringify(headers));
        for (const origin of ['http://chat.example', 'https://evil.example', 'https://chat.example.evil.example', 'https://chat.example:444', 'null']) {
          assert.deepEqual(await statuses(origin, headers), [403, 403], `${origin} ${JSON.stringify(headers)}`);
        }
      }
      for (const headers of [{}, { 'X-Forwarded-Proto': 'http' }]) {
        assert.deepEqual(await statuses('http://chat.example', headers), [200, 101]);
        assert.deepEqual(await statuses('https://chat.example', headers), [403, 403]);
      }
    });

    test('who is not trusted is not believed that it ends TLS, but by a header that no page can set', async () => {
      const forwarded = { Forwarded: 'for=203.0.113.9;proto=https' };
      assert.deepEqual(await statuses('https://chat.example', forwarded, OTHER), [403, 403]);
      assert.deepEqual(await statuses('http://chat.example', forwarded, OTHER), [200, 101]);
      // So that a proxy that nobody told us of does not lock its own pages out.
      const proto = { 'X-Forwarded-Proto': 'https' };
      assert.deepEqual(await statuses('https://chat.example', proto, OTHER), [200, 101]);
      assert.deepEqual(await statuses('https://evil.example', proto, OTHER), [403, 403]);
    });

    test('the cookie is for https only where the client speaks https', async () => {
      const cookie = async (headers, localAddress = PROXY) => (await request(cluster, POLLING, { headers, localAddress })).headers['set-cookie'][0];
      assert.match(await cookie({ 'X-Forwarded-Proto': 'https' }), /; Secure$/);
      assert.match(await cookie({ 'X-Forwarded-Proto': 'http' }), /SameSite=Lax$/);
      assert.match(await cookie({ 'X-Forwarded-Proto': 'https' }, OTHER), /SameSite=Lax$/);
    });
  });
});

describe('the affinity cookie', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin', args: ['--affinity-cookie', 'io'] });
  });
  after(() => cluster?.stop());

  const COOKIE = /^io=([A-Za-z0-9_-]{4}); Path=\/; HttpOnly; SameSite=Lax$/;
  const tagOf = (answer) => COOKIE.exec(answer.headers['set-cookie']?.join('\n'))?.[1];
  const sidOf = (answer) => JSON.parse(answer.body.slice(1)).sid;
  const shake = (cookie) => request(cluster, POLLING, { headers: cookie ? { Cookie: cookie } : {} });

  test('is set by handshakes on both transports, and names the worker', async () => {
    const polling = await shake();
    assert.equal(tagOf(polling), sidOf(polling).slice(0, 4));
    const byId = cluster.workersById();
    for (let n = 0; n < 4; n += 1) {
      const asked = await askForWebSocket(cluster);
      assert.equal(asked.status, 101);
      const tag = tagOf(asked);
      assert.ok(tag, `${asked.headers['set-cookie']}`);
      const { localAddress, localPort } = asked.ws._socket;
      const [holder] = await cluster.servedBy([{ localAddress, localPort }]);
      assert.equal(holder, byId.get(readTag(tag.padEnd(20, 'x')).worker));
      asked.close();
    }
  });

  test('leads to its worker wherever the turn is, and is not set again there', async () => {
    const sessions = await inParallel(Array.from({ length: 4 }), 1, () => shake());
    assert.equal(new Set(sessions.map(sidOf).map((sid) => sid.slice(0, 4))).size, 4);
    for (const session of sessions) {
      const tag = tagOf(session);
      for (const cookie of [`io=${tag}`, `a=b; io=${tag}; c=d`, `io=${tag};other=io`]) {
        for (let n = 0; n < 3; n += 1) {
          const again = await shake(cookie);
          assert.equal(sidOf(again).slice(0, 4), tag, cookie);
          assert.equal(again.headers['set-cookie'], undefined, 'it has it already');
        }
      }
      const asked = await askForWebSocket(cluster, { headers: { Cookie: `io=${tag}` } });
      assert.equal(asked.headers['set-cookie'], undefined);
      const { localAddress, localPort } = asked.ws._socket;
      const [holder] = await cluster.servedBy([{ localAddress, localPort }]);
      assert.equal(holder, cluster.workersById().get(readTag(sidOf(session)).worker));
      asked.close();
    }
  });

  test('that names nobody is as good as none, and is set anew', async () => {
    const workers = new Set();
    for (let n = 0; n < 8; n += 1) {
      // No tag, a tag of another node, a worker that is not there, another cookie, an empty one.
      const cookie = ['io=nonsense', 'io=7777', 'io=AAD_', 'oi=AAAA', 'io=', 'io', 'io=!!!!', 'xio=AAAA'][n];
      const answer = await shake(cookie);
      assert.equal(tagOf(answer), sidOf(answer).slice(0, 4), cookie);
      workers.add(tagOf(answer));
    }
    assert.equal(workers.size, 4, 'they take turns');
  });

  test('counts less than a session id, and only for the first request of a connection', async (t) => {
    const [one, other] = [await PollingSession.open(cluster), await PollingSession.open(cluster)];
    assert.notEqual(one.worker, other.worker);
    const byId = cluster.workersById();
    const connection = await RawConnection.open(cluster);
    t.after(() => connection.destroy());
    const cookie = `Cookie: io=${other.sid.slice(0, 4)}\r\n`;
    // A poll waits at the worker, so that the connection is there to be found.
    await connection.write(head(one.path, cookie));
    const { localAddress, localPort } = connection.socket;
    assert.deepEqual(await cluster.servedBy([{ localAddress, localPort }]), [byId.get(one.worker)]);

    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const first = await request(cluster, POLLING, { agent, headers: { Cookie: `io=${one.sid.slice(0, 4)}` } });
    const second = await request(cluster, POLLING, { agent, headers: { Cookie: `io=${other.sid.slice(0, 4)}` } });
    assert.equal(second.localPort, first.localPort);
    assert.equal(sidOf(second).slice(0, 4), one.sid.slice(0, 4), 'the connection is where it is');
    assert.equal(tagOf(second), one.sid.slice(0, 4), 'and the client is told');
  });

  test('is set by nothing but a handshake', async () => {
    const session = await PollingSession.open(cluster);
    const answers = [
      await request(cluster, session.path, { method: 'POST', body: '40{"username":"crumbs"}' }),
      await request(cluster, session.path),
      await request(cluster, '/healthz'),
      await request(cluster, '/socket.io/socket.io.min.js'),
      await request(cluster, `${POLLING}&sid=AAAAabcdefghijklmnop`),
      await request(cluster, '/socket.io/?EIO=3&transport=polling'),
      await request(cluster, POLLING, { headers: { Origin: 'https://evil.example' } }),
      await askForWebSocket(cluster, { headers: { Origin: 'https://evil.example' } }),
    ];
    assert.deepEqual(answers.map(({ status }) => status), [200, 200, 200, 200, 400, 400, 403, 403]);
    for (const [n, { headers }] of answers.entries()) assert.equal(headers['set-cookie'], undefined, `answer ${n}`);
  });

  test('of a worker that is gone is replaced', async () => {
    const session = await shake();
    const tag = tagOf(session);
    const victim = cluster.workersById().get(readTag(sidOf(session)).worker);
    cluster.killWorker(victim);
    for (let n = 0; n < 4; n += 1) {
      const answer = await shake(`io=${tag}`);
      assert.equal(answer.status, 200);
      const now = sidOf(answer).slice(0, 4);
      assert.equal(tagOf(answer), now === tag ? undefined : now);
    }
    await cluster.workersReplaced(4, [victim]);
  });

  test('is not there unless it is asked for', async (t) => {
    const plain = await startCluster({ workers: 1, t });
    assert.equal((await request(plain, POLLING)).headers['set-cookie'], undefined);
  });
});
