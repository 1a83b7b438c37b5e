// The HTTP face: what the JavaScript server answers, we answer, on every worker.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, PollingSession } from '../harness/polling_session.mjs';
import { within } from '../harness/wait.mjs';

const require = createRequire(import.meta.url);

/** Asks for a WebSocket and resolves with 'open' or with the refusal's `{status, body}`. */
function upgrade(cluster, path, headers = {}) {
  const attempt = new Promise((resolve, reject) => {
    const ws = new WebSocket(`ws://${cluster.host}:${cluster.port}${path}`, { headers });
    ws.once('open', () => {
      ws.terminate();
      resolve('open');
    });
    ws.once('unexpected-response', (_, answer) => {
      let body = '';
      answer.on('data', (text) => (body += text)).on('end', () => resolve({ status: answer.statusCode, body }));
    });
    ws.once('error', reject);
  });
  return within(attempt, `an answer to the upgrade ${path}`);
}

describe('Engine.IO', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin', args: ['--cors-origin', 'https://a.example', '--cors-origin', 'https://b.example:8443'] });
  });
  after(() => cluster?.stop());

  test('the handshake states the protocol\'s numbers', async () => {
    const { handshake } = await PollingSession.open(cluster);
    assert.deepEqual(handshake, {
      sid: handshake.sid,
      upgrades: ['websocket'],
      pingInterval: 25_000,
      pingTimeout: 20_000,
      maxPayload: 1_000_000,
    });
    assert.match(handshake.sid, /^[A-Za-z0-9_-]{20}$/);
    const sids = new Set();
    for (let n = 0; n < 50; n += 1) sids.add((await PollingSession.open(cluster)).sid.slice(4));
    assert.equal(sids.size, 50, 'the secret is never the same');
  });

  test('refusals have the JavaScript server\'s bodies', async () => {
    const session = await PollingSession.open(cluster);
    const cases = [
      ['/socket.io/?EIO=4&transport=tin-can', {}, 0, 'Transport unknown'],
      ['/socket.io/?EIO=4', {}, 0, 'Transport unknown'],
      [`${POLLING}&sid=AAAAabcdefghijklmnop`, {}, 1, 'Session ID unknown'],
      [`${POLLING}&sid=AAAAabcdefghijklmnop`, { method: 'POST', body: '40' }, 1, 'Session ID unknown'],
      [POLLING, { method: 'POST', body: '40' }, 2, 'Bad handshake method'],
      [POLLING, { method: 'PUT', body: '40' }, 2, 'Bad handshake method'],
      ['/socket.io/?EIO=4&transport=websocket', {}, 3, 'Bad request'],
      [session.path.replace('polling', 'websocket'), {}, 3, 'Bad request'],
      ['/socket.io/?EIO=3&transport=polling', {}, 5, 'Unsupported protocol version'],
      ['/socket.io/?transport=polling', {}, 5, 'Unsupported protocol version'],
      ['/socket.io/?EIO=9&transport=polling', {}, 5, 'Unsupported protocol version'],
    ];
    for (const [path, options, code, message] of cases) {
      const answer = await request(cluster, path, options);
      assert.equal(answer.status, 400, path);
      assert.match(answer.headers['content-type'], /^application\/json/, path);
      assert.deepEqual(JSON.parse(answer.body), { code, message }, `${options.method ?? 'GET'} ${path}`);
    }
    await session.post('40');
    assert.match(await session.packet('44'), /invalid username/, 'the session survived what was said about it');
  });

  test('a WebSocket of an unknown session, or of protocol 3, is refused, not opened and closed', async () => {
    for (const [query, message] of [
      ['EIO=4&transport=websocket&sid=AAAAabcdefghijklmnop', /Session ID unknown/],
      ['EIO=3&transport=websocket', /Unsupported protocol version/],
      ['EIO=4&transport=tin-can', /Transport unknown/],
    ]) {
      const refusal = await upgrade(cluster, `/socket.io/?${query}`);
      assert.equal(refusal.status, 400, query);
      assert.match(refusal.body, message);
    }
    assert.equal(await upgrade(cluster, '/socket.io/?EIO=4&transport=websocket'), 'open');
  });

  test('the official client bundle is served', async () => {
    const dist = require.resolve('socket.io-client/package.json').replace('package.json', 'dist/');
    for (const file of ['socket.io.js', 'socket.io.min.js', 'socket.io.esm.min.js']) {
      const answer = await request(cluster, `/socket.io/${file}`);
      assert.equal(answer.status, 200, file);
      assert.match(answer.headers['content-type'], /javascript/);
      assert.equal(answer.body, readFileSync(dist + file, 'utf8'), file);
      const again = await request(cluster, `/socket.io/${file}`, { headers: { 'If-None-Match': answer.headers.etag } });
      assert.equal(again.status, 304, 'a browser need not fetch it twice');
      assert.equal(again.body, '');
    }
  });

  test('1,000,000 bytes are the limit on both transports', async () => {
    const session = await PollingSession.open(cluster);
    await session.logIn('large');
    const packet = (bytes) => {
      const event = JSON.stringify(['private message', { content: '', to: 'nobody' }]);
      return `42${event.replace('""', `"${'x'.repeat(bytes - event.length - 2)}"`)}`;
    };
    assert.equal(packet(500).length, 500);
    await session.post(packet(1_000_000));
    const over = await request(cluster, session.path, { method: 'POST', body: packet(1_000_001) });
    assert.equal(over.status, 413);

    for (const [bytes, survives] of [[999_000, true], [1_100_000, false]]) {
      const user = await ChatUser.logIn(cluster, { username: `${bytes}`, reconnection: false });
      const ack = user.send(user, 'x'.repeat(bytes - 200)).catch(() => 'cut');
      if (survives) assert.equal((await ack).error.code, 'too_large');
      else await within(new Promise((resolve) => user.socket.once('disconnect', resolve)), 'the client is cut');
      user.close();
    }
  });

  test('a page of another origin gets in only if it was allowed', async () => {
    const own = `http://${cluster.host}:${cluster.port}`;
    for (const origin of [own, 'https://a.example', 'https://b.example:8443']) {
      const headers = { Origin: origin };
      const answer = await request(cluster, POLLING, { headers });
      assert.equal(answer.status, 200, origin);
      if (origin !== own) {
        assert.equal(answer.headers['access-control-allow-origin'], origin);
        assert.match(answer.headers.vary ?? '', /origin/i);
      }
      assert.equal(await upgrade(cluster, '/socket.io/?EIO=4&transport=websocket', headers), 'open', origin);
    }
    for (const origin of ['https://evil.example', 'http://a.example', 'https://b.example', 'null', `${own}.evil.example`, 'http://127.0.0.1:1']) {
      const headers = { Origin: origin };
      const answer = await request(cluster, POLLING, { headers });
      assert.ok([400, 403].includes(answer.status), `${origin}: ${answer.status}`);
      assert.equal(answer.headers['access-control-allow-origin'], undefined, origin);
      assert.equal(JSON.parse(answer.body).code, 4);
      const refusal = await upgrade(cluster, '/socket.io/?EIO=4&transport=websocket', headers);
      assert.ok([400, 403].includes(refusal.status), `${origin}: ${JSON.stringify(refusal)}`);
    }
    const preflight = await request(cluster, POLLING, {
      method: 'OPTIONS',
      headers: { Origin: 'https://a.example', 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'content-type' },
    });
    assert.ok([200, 204].includes(preflight.status), `${preflight.status}`);
    assert.equal(preflight.headers['access-control-allow-origin'], 'https://a.example');
  });

  test('a client without Origin, as every program is, gets in', async () => {
    assert.equal((await request(cluster, POLLING)).status, 200);
    assert.equal(await upgrade(cluster, '/socket.io/?EIO=4&transport=websocket'), 'open');
  });

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`over ${name}, large messages and many at once come through unharmed`, async (t) => {
      const [ann, ben] = [
        await ChatUser.logIn(cluster, { username: `ann by ${name}`, transports }),
        await ChatUser.logIn(cluster, { username: `ben by ${name}`, transports }),
      ];
      t.after(() => [ann, ben].forEach((user) => user.close()));
      const contents = Array.from({ length: 60 }, (_, n) => `${n} ☃ ${'é"\\\n'.repeat(n * 100)}`);
      const acks = await Promise.all(contents.map((content) => ann.send(ben, content)));
      assert.ok(acks.every((ack) => ack.ok));
      await ben.got('private message', ({ content }) => content === contents.at(-1));
      assert.deepEqual(ben.inbox.map(({ content }) => content), contents);
    });
  }
});

test('clients that answer pings stay, clients that do not are dropped', async (t) => {
  const cluster = await startCluster({ workers: 2, args: ['--ping-interval-ms', '500', '--ping-timeout-ms', '500'], t });
  const [staying, polling] = [
    await ChatUser.logIn(cluster, { username: 'staying' }),
    await ChatUser.logIn(cluster, { username: 'polling', transports: ['polling'] }),
  ];
  t.after(() => [staying, polling].forEach((user) => user.close()));
  const mute = await ChatUser.logIn(cluster, { username: 'mute', reconnection: false });
  // Nothing is read and nothing answered from here on, but the connection stays open.
  mute.engine.transport.ws._socket.pause();
  const silent = await PollingSession.open(cluster);
  const { userID } = await silent.logIn('silent poller');
  await staying.got('user disconnected', (gone) => gone === mute.userID);
  await staying.got('user disconnected', (gone) => gone === userID);
  assert.equal((await request(cluster, silent.path)).status, 400, 'the session has ended');
  assert.deepEqual([...staying.disconnects, ...polling.disconnects], []);
  mute.close();
});
