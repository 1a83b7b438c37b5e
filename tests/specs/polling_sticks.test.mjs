// Requests with one sid reach one worker, whichever connection they come on.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { allHeardNeighbours, logInAll, sendToNext } from '../harness/neighbours.mjs';
import { POLLING, PollingSession, readTag } from '../harness/polling_session.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

test('2,000 sessions, 64 at a time, each request on a new connection: none is unknown', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  await inParallel(Array.from({ length: 2000 }), 64, async () => {
    const session = await PollingSession.open(cluster);
    // A log-in without a name: the cheapest thing that both a POST and a GET can show to have arrived.
    await session.post('40');
    assert.match(await session.packet('44'), /invalid username/);
    await session.close();
  });
  assert.equal(cluster.workerPids().length, 4);
});

test('sessions that share keep-alive connections work, and the connections stay open', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  t.after(() => agent.destroy());
  const connections = new Set();
  // One after the other over few connections: most requests arrive at a worker that is not theirs.
  const sessions = [];
  for (let n = 0; n < 20; n += 1) {
    const session = await PollingSession.open(cluster, { agent });
    connections.add(session.localPort);
    sessions.push(session);
  }
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

test('an upgrade reaches the worker of its tag, on whatever worker the balancing would put it', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const users = [];
  for (let n = 0; n < 8; n += 1) {
    users.push(await ChatUser.logIn(cluster, { username: `up ${n}`, transports: ['polling', 'websocket'] }));
    t.after(() => users[n].close());
  }
  const byId = cluster.workersById();
  const pids = await cluster.servedBy(users.map((user) => user.clientEnd));
  assert.deepEqual(pids, users.map((user) => byId.get(readTag(user.engine.id).worker)));
});

test('a connection that belongs to one worker carries large bodies and upgrades for another', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  const host = await PollingSession.open(cluster, { agent });
  const guest = await PollingSession.open(cluster);
  assert.notEqual(host.worker, guest.worker);
  const recipient = await ChatUser.logIn(cluster, { username: 'recipient' });
  t.after(() => recipient.close());
  await guest.logIn('guest');

  // From here on all that the guest says goes over the host's connection.
  guest.options = { agent };
  const packets = Array.from(
    { length: 14 },
    (_, n) => `42${JSON.stringify(['private message', { content: `${n}`.padEnd(64_000, '.'), to: recipient.userID }])}`,
  );
  const answer = await request(cluster, guest.path, { agent, method: 'POST', body: packets.join('\x1e') });
  assert.equal(answer.body, 'ok');
  assert.equal(answer.localPort, host.localPort, 'it is the host\'s connection');
  await until(() => recipient.inbox.length === 14, 'all of it arrives');
  assert.ok(recipient.inbox.every(({ content }, n) => content.startsWith(`${n}.`) && content.length === 64_000));

  const ws = new WebSocket(`ws://${cluster.host}:${cluster.port}${guest.path.replace('polling', 'websocket')}`, { agent });
  t.after(() => ws.terminate());
  const packetsOverWs = [];
  ws.on('message', (packet) => packetsOverWs.push(packet.toString()));
  await within(once(ws, 'open'), 'the upgrade is relayed');
  assert.equal(ws._socket.localPort, host.localPort, 'on the host\'s connection still');
  ws.send('2probe');
  await until(() => packetsOverWs.includes('3probe'), 'the probe is answered');
  ws.send('5');
  ws.send(`427${JSON.stringify(['private message', { content: 'upgraded', to: recipient.userID }])}`);
  await until(() => packetsOverWs.some((packet) => packet.startsWith('437[{"ok":true')), 'an acknowledgement');
  await recipient.got('private message', ({ content }) => content === 'upgraded');
});

test('requests that come in one piece are all answered, in order', async (t) => {
  const cluster = await startCluster({ t });
  const connection = await RawConnection.open(cluster);
  t.after(() => connection.destroy());
  const get = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  await connection.write(get(POLLING) + get('/healthz') + get('/socket.io/?EIO=3&transport=polling'));
  await until(() => connection.text.includes('Unsupported protocol version'), 'the last answer');
  assert.match(connection.text, /^HTTP\/1\.1 200 [^]*0\{"sid":[^]*HTTP\/1\.1 200 [^]*HTTP\/1\.1 400 /);
});

test('a sid without a valid tag meets the same worker again and is unknown there', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  // Sixteen characters are what socketioxide alone would make; the others are nobody's.
  for (const sid of ['abcdefghijklmnop', 'AAAAabcdefghijklmnop', 'x', '!!!!', 'A'.repeat(4000)]) {
    for (let n = 0; n < 4; n += 1) {
      const answer = await request(cluster, `${POLLING}&sid=${sid}`);
      assert.equal(answer.status, 400, sid.slice(0, 30));
      assert.deepEqual(JSON.parse(answer.body), { code: 1, message: 'Session ID unknown' });
    }
  }
});

test('the bare id that the server shows opens nothing: only the tagged secret does', async (t) => {
  const cluster = await startCluster({ t });
  const user = await ChatUser.logIn(cluster, { username: 'shown', transports: ['polling'] });
  t.after(() => user.close());
  assert.match(user.engine.id, /^[A-Za-z0-9_-]{20}$/);
  assert.notEqual(user.socket.id, user.engine.id);
  assert.ok(!user.engine.id.includes(user.socket.id), 'the public id is not part of the secret');
  for (const sid of [user.socket.id, user.engine.id.slice(0, 4) + user.socket.id, user.engine.id.slice(4)]) {
    for (const options of [{}, { method: 'POST', body: '1' }]) {
      const answer = await request(cluster, `${POLLING}&sid=${sid}`, options);
      assert.equal(answer.status, 400);
      assert.equal(JSON.parse(answer.body).code, 1);
    }
  }
  await until(async () => (await user.history(user)).length === 0, 'the session lives on');
});
