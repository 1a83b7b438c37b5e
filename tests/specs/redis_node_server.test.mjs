// A JavaScript server in the way of the original example, on the same Redis: its users and ours are one chat.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { createAdapter } from '@socket.io/redis-adapter';
import { Server } from 'socket.io';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { startRedis } from '../harness/redis.mjs';

const TTL = 24 * 60 * 60;

/** Sessions and messages under the example's keys, broadcasts through the official adapter. */
async function startNodeServer(redis) {
  const store = redis.connect();
  const http = createServer();
  const io = new Server(http, { adapter: createAdapter(redis.connect(), redis.connect()) });
  const save = (sessionID, { userID, username }, connected) =>
    store.multi().hset(`session:${sessionID}`, { userID, username, connected }).expire(`session:${sessionID}`, TTL).exec();

  io.use(async (socket, next) => {
    const { sessionID, username } = socket.handshake.auth;
    const known = sessionID ? await store.hgetall(`session:${sessionID}`) : {};
    if (!known.userID && !username) return next(new Error('invalid username'));
    socket.data = known.userID
      ? { sessionID, userID: known.userID, username: known.username }
      : { sessionID: randomBytes(8).toString('hex'), userID: randomBytes(8).toString('hex'), username };
    next();
  });

  io.on('connection', async (socket) => {
    const { sessionID, userID, username } = socket.data;
    socket.join(userID);
    socket.on('private message', async ({ content, to }) => {
      const message = { content, from: userID, to };
      socket.to(to).to(userID).emit('private message', message);
      const entry = JSON.stringify(message);
      await store.multi().rpush(`messages:${userID}`, entry).rpush(`messages:${to}`, entry).exec();
    });
    socket.on('disconnect', async () => {
      const remaining = await io.in(userID).allSockets();
      if (remaining.size > 0) return;
      socket.broadcast.emit('user disconnected', userID);
      await save(sessionID, socket.data, false);
    });

    await save(sessionID, socket.data, true);
    socket.emit('session', { sessionID, userID });
    const messages = (await store.lrange(`messages:${userID}`, 0, -1)).map((entry) => JSON.parse(entry));
    const users = await Promise.all(
      (await store.keys('session:*')).map(async (key) => {
        const user = await store.hgetall(key);
        const withUser = messages.filter(({ from, to }) => (from === userID ? to : from) === user.userID);
        return { userID: user.userID, username: user.username, connected: user.connected === 'true', messages: withUser };
      }),
    );
    socket.emit('users', users);
    socket.broadcast.emit('user connected', { userID, username, connected: true, messages: [] });
  });

  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${http.address().port}`, close: () => io.close() };
}

describe('a Node server of the original example on the same Redis', () => {
  let redis;
  let cluster;
  let node;
  before(async () => {
    redis = await startRedis();
    cluster = await startCluster({ redis });
    node = await startNodeServer(redis);
  });
  after(async () => {
    await node?.close();
    await cluster?.stop();
    await redis.stop();
  });

  test('users of both see and message each other, and leave for each other', async (t) => {
    const rust = await ChatUser.logIn(cluster, { username: 'on rust' });
    const js = await ChatUser.logIn(node, { username: 'on node' });
    t.after(() => [rust, js].forEach((user) => user.close()));
    await rust.got('user connected', ({ userID }) => userID === js.userID);
    assert.equal(js.entryOf(rust).connected, true);

    const ack = await rust.send(js, 'from rust');
    assert.equal((await js.got('private message')).content, 'from rust');
    js.socket.emit('private message', { content: 'from node', to: rust.userID });
    assert.deepEqual(await rust.got('private message'), { content: 'from node', from: js.userID, to: rust.userID });

    // Our history shows both; what Node stored has no id and no time.
    const history = await rust.history(js);
    assert.deepEqual(history, [
      { id: ack.id, content: 'from rust', from: rust.userID, to: js.userID, at: ack.at },
      { content: 'from node', from: js.userID, to: rust.userID },
    ]);

    // A refresh on the other server is the same user with the same messages.
    const moved = await ChatUser.another(cluster, js);
    assert.equal(moved.userID, js.userID);
    assert.deepEqual(moved.entryOf(rust).messages.map(({ content }) => content), ['from rust', 'from node']);
    moved.close();

    js.close();
    await rust.got('user disconnected', (userID) => userID === js.userID);
    const watcher = await ChatUser.logIn(node, { username: 'watcher on node' });
    t.after(() => watcher.close());
    rust.close();
    await watcher.got('user disconnected', (userID) => userID === rust.userID);
  });

  test('Node\'s questions to all servers are not held up by us', async (t) => {
    // Being counted without answering would make these fail after 5 s.
    const rust = await ChatUser.logIn(cluster, { username: 'silent' });
    const js = await ChatUser.logIn(node, { username: 'asking' });
    t.after(() => [rust, js].forEach((user) => user.close()));
    const began = performance.now();
    js.close();
    await rust.got('user disconnected', (userID) => userID === js.userID);
    assert.ok(performance.now() - began < 4_000, 'the example asks for the remaining sockets before it says so');
  });
});
