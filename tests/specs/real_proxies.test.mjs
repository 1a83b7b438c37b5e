// nginx, HAProxy and Caddy in front of a cluster, as docs/proxies.md has them: they keep connections to it and send
// requests of many clients over each. Nothing is sticky anywhere, and no client notices.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Chatter } from '../harness/chatter.mjs';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { STORE, startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, PollingSession } from '../harness/polling_session.mjs';
import { missingProxy, startProxy } from '../harness/proxies.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const HTTP_PROXIES = ['nginx', 'haproxy', 'caddy'];

/** Half of the users poll, half upgrade; in each half every other one keeps its connections, as a browser does. */
async function logInMany(t, server, count, name) {
  const ways = [TRANSPORTS.polling, TRANSPORTS['polling, then upgrade']];
  const users = await inParallel(Array.from({ length: count }), 16, async (_, n) => {
    const agent = n % 4 < 2 ? undefined : new http.Agent({ keepAlive: true });
    const user = await ChatUser.logIn(server, { username: `${name} ${n}`, transports: ways[n % 2], agent });
    t.after(() => {
      user.close();
      agent?.destroy();
    });
    return user;
  });
  return users;
}

/** The users chat for that long; nobody meets an error. */
async function chatThrough(t, kind, { users: count, seconds, pauseMs }) {
  const cluster = await startCluster({ balance: 'round-robin', args: ['--trusted-proxy', '127.0.0.1'], t });
  const proxy = await startProxy(t, kind, cluster);
  const users = await logInMany(t, proxy, count, kind);
  const chatter = Chatter.start(t, users, { pauseMs });
  await sleep(seconds * 1_000); // the time over which nothing goes wrong
  await chatter.finish();
  chatter.assertFlawless();
  const least = (count * seconds * 1_000) / pauseMs / 4;
  assert.ok(chatter.sent.length > least, `${chatter.sent.length} messages in ${seconds} s are too few to show anything`);
  for (const user of users) {
    const expected = user.transports.length > 1 ? 'websocket' : 'polling';
    assert.equal(user.engine.transport.name, expected, user.username);
    assert.deepEqual(user.disconnects, [], user.username);
  }
  assert.equal(cluster.workerPids().length, 4);
}

for (const kind of HTTP_PROXIES) {
  const skip = missingProxy(kind);
  test(`${kind} keeps its connections, and says who the client is whatever the client says`, { skip }, async (t) => {
    const requests = [];
    const server = http.createServer((incoming, answer) => {
      requests.push({ ...incoming.headers, path: incoming.url, port: incoming.socket.remotePort });
      answer.end('ok');
    });
    server.on('upgrade', (incoming, socket) => {
      requests.push({ ...incoming.headers, path: incoming.url });
      // The accept value goes with the key below.
      socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
        + 'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n');
    });
    server.listen(0, '127.0.0.1');
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    await once(server, 'listening');
    const proxy = await startProxy(t, kind, { host: '127.0.0.1', port: server.address().port });

    const headers = { 'X-Forwarded-For': '203.0.113.7', 'X-Forwarded-Proto': 'gopher', Forwarded: 'for=203.0.113.8' };
    const bodies = ['a'.repeat(1_000_000), ...'bcdefgh'];
    await inParallel(bodies, 1, async (body) => {
      const answer = await request(proxy, '/socket.io/?x=1', { method: 'POST', body, headers, localAddress: '127.0.0.3' });
      assert.equal(answer.status, 200, answer.body);
    });
    const seen = requests.filter(({ path }) => path.startsWith('/socket.io/'));
    assert.equal(seen.length, bodies.length);
    // Its own checks may have a connection of their own; the requests share theirs.
    assert.equal(new Set(seen.map(({ port }) => port)).size, 1, 'clients that came on eight connections share one');
    for (const { host, forwarded, 'x-forwarded-for': addresses, 'x-forwarded-proto': scheme } of seen) {
      assert.equal(addresses.split(',').at(-1).trim(), '127.0.0.3');
      assert.equal(scheme, 'http');
      assert.equal(forwarded, undefined);
      assert.equal(host, `127.0.0.1:${proxy.port}`, 'with its port, for the comparison with a page\'s origin');
    }

    const connection = await RawConnection.open(proxy);
    t.after(() => connection.destroy());
    await connection.write(`GET /up HTTP/1.1\r\nHost: 127.0.0.1:${proxy.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`
      + 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n');
    await until(() => connection.status !== undefined, 'an answer to the upgrade');
    assert.equal(connection.status, 101, connection.text);
    assert.equal(requests.at(-1).upgrade, 'websocket');
  });
}

// What the store is changes nothing for a proxy: one long look is enough.
const MINUTE = STORE === 'embedded' ? { seconds: 60, words: 'a minute' } : { seconds: 12, words: 'a while' };

test(`through nginx and HAProxy, 100 clients each chat for ${MINUTE.words} without an error`, { skip: missingProxy('nginx') || missingProxy('haproxy') }, async (t) => {
  const load = { users: 100, seconds: MINUTE.seconds, pauseMs: 1_200 };
  await Promise.all([chatThrough(t, 'nginx', load), chatThrough(t, 'haproxy', load)]);
});

test('through Caddy, clients chat without an error', { skip: missingProxy('caddy') }, async (t) => {
  await chatThrough(t, 'caddy', { users: 24, seconds: 6, pauseMs: 400 });
});

test('through HAProxy that passes bytes, the client\'s own address chooses the worker and is counted', { skip: missingProxy('haproxy-tcp') }, async (t) => {
  const cluster = await startCluster({
    balance: 'client-hash',
    args: ['--proxy-protocol', '--max-connections-per-address', '3'],
    t,
  });
  const proxy = await startProxy(t, 'haproxy-tcp', cluster);
  // The checks of a server that is up, too, begin with a header.
  await until(async () => (await request(proxy, '/healthz')).status === 200, 'the way is open');

  const addresses = Array.from({ length: 16 }, (_, n) => `127.0.0.${n + 2}`);
  const workers = await inParallel(addresses, 4, async (localAddress) => {
    const found = new Set();
    for (let n = 0; n < 3; n += 1) found.add((await PollingSession.open(proxy, { localAddress })).worker);
    assert.equal(found.size, 1, `${localAddress} is always put on the same worker`);
    return [...found][0];
  });
  assert.ok(new Set(workers).size > 1, 'different clients, different workers');

  const [localAddress] = addresses;
  const get = `GET ${POLLING} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  const held = [];
  t.after(() => held.forEach((connection) => connection.destroy()));
  const connect = async (from) => {
    const connection = await RawConnection.open(proxy, { localAddress: from });
    held.push(connection);
    await connection.write(get);
    return (await connection.answer()).status;
  };
  // Those of the handshakes above are closed, but that may not be known yet.
  await until(async () => {
    held.splice(0).forEach((connection) => connection.destroy());
    return [await connect(localAddress), await connect(localAddress), await connect(localAddress)].every((status) => status === 200);
  }, 'three connections of one address');
  assert.equal(await connect(localAddress), 429, 'a fourth is one too many');
  assert.equal(await connect(addresses[1]), 200, 'of this address alone');
});

test('through HAProxy that passes bytes, clients chat without an error', { skip: missingProxy('haproxy-tcp') }, async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', args: ['--proxy-protocol'], t });
  const direct = await RawConnection.open(cluster);
  t.after(() => direct.destroy());
  await direct.write(`GET ${POLLING} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  assert.equal((await direct.answer()).status, 400, 'who comes without the header is refused');
  const proxy = await startProxy(t, 'haproxy-tcp', cluster);
  const users = await logInMany(t, proxy, 24, 'tcp');
  const chatter = Chatter.start(t, users, { pauseMs: 300 });
  await until(() => chatter.sent.length > 200, '200 messages');
  await chatter.finish();
  chatter.assertFlawless();
});
