// A JavaScript server in the way of the original private-messaging example, on the official Redis adapter.
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import { Server } from 'socket.io';
import { endsWithUs } from './leftovers.mjs';

const TTL = 24 * 60 * 60;

/** Starts one: `{url, io, close}`. Sessions and messages are under the example's keys. */
export async function startNodeServer(redis, { adapter = {} } = {}) {
  const store = redis.connect();
  const http = createServer();
  const io = new Server(http, { adapter: createAdapter(redis.connect(), redis.connect(), adapter) });
  // So that Redis's channels of rooms, which take no part in the example, are heard here too.
  io.of('/rooms').on('connection', (socket) => socket.on('join', (room, done) => (socket.join(room), done())));
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
      // A test that ends takes servers away while others are asked.
      const remaining = await io.in(userID).fetchSockets().catch(() => undefined);
      if (remaining === undefined || remaining.length > 0) return;
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
  const tidied = endsWithUs(() => io.close());
  const close = async () => {
    tidied();
    await io.close();
  };
  return { url: `http://127.0.0.1:${http.address().port}`, io, close };
}
