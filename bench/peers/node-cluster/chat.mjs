// Private messaging as chat-cluster speaks it: sessions, presence, messages with ids and acks. What a Node.js program of this kind
// usually has; a message that is sent twice is stored twice.
import { randomBytes } from 'node:crypto';

const TTL_SECONDS = 24 * 60 * 60;
const CONTENT_MAX = 64 * 1024;
const ID = /^[A-Za-z0-9_-]{1,64}$/;

const randomId = () => randomBytes(16).toString('base64url');

function messagesOf(userID, stored) {
  const byOther = new Map();
  for (const text of stored) {
    const message = JSON.parse(text);
    const other = message.from === userID ? message.to : message.from;
    const known = byOther.get(other);
    if (known) known.push(message);
    else byOther.set(other, [message]);
  }
  return byOther;
}

async function allSessions(redis) {
  const keys = new Set();
  let cursor = '0';
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', 'session:*', 'COUNT', 1000);
    cursor = next;
    found.forEach((key) => keys.add(key));
  } while (cursor !== '0');
  const commands = [...keys].map((key) => ['hmget', key, 'userID', 'username', 'connected']);
  const results = await redis.pipeline(commands).exec();
  return results.map(([, fields]) => fields).filter(([userID]) => userID);
}

function saveSession(redis, { sessionID, userID, username }, connected) {
  const key = `session:${sessionID}`;
  return redis.multi().hset(key, { userID, username, connected }).expire(key, TTL_SECONDS).exec();
}

export function serveChat(io, redis) {
  io.use(async (socket, next) => {
    try {
      const { sessionID, username } = socket.handshake.auth;
      if (sessionID) {
        const [userID, name, connected] = await redis.hmget(`session:${sessionID}`, 'userID', 'username', 'connected');
        if (userID) {
          socket.data = { sessionID, userID, username: name, wasConnected: connected === 'true' };
          return next();
        }
      }
      if (typeof username !== 'string' || !username.trim()) return next(new Error('invalid username'));
      socket.data = { sessionID: randomId(), userID: randomId(), username: username.trim(), wasConnected: false };
      return next();
    } catch (error) {
      return next(error);
    }
  });

  io.on('connection', async (socket) => {
    const { sessionID, userID, username, wasConnected } = socket.data;

    socket.on('private message', async (message, ack) => {
      const { content, to, id = randomId() } = message ?? {};
      if (typeof content !== 'string' || content.length > CONTENT_MAX || !ID.test(to) || !ID.test(id)) {
        ack?.({ ok: false, error: { code: 'invalid', message: 'not a message' } });
        return;
      }
      const stored = { id, content, from: userID, to, at: Date.now() };
      const text = JSON.stringify(stored);
      try {
        await redis
          .multi()
          .rpush(`messages:${userID}`, text)
          .expire(`messages:${userID}`, TTL_SECONDS)
          .rpush(`messages:${to}`, text)
          .expire(`messages:${to}`, TTL_SECONDS)
          .exec();
      } catch (error) {
        ack?.({ ok: false, error: { code: 'unavailable', message: error.message } });
        return;
      }
      socket.to(to).to(userID).emit('private message', stored);
      ack?.({ ok: true, id, at: stored.at });
    });

    socket.on('disconnect', async () => {
      const sockets = await io.in(userID).allSockets();
      if (sockets.size > 0) return;
      socket.broadcast.emit('user disconnected', userID);
      await saveSession(redis, socket.data, 'false');
    });

    await saveSession(redis, socket.data, 'true');
    socket.emit('session', { sessionID, userID });
    socket.join(userID);
    const [stored, sessions] = await Promise.all([redis.lrange(`messages:${userID}`, 0, -1), allSessions(redis)]);
    const messages = messagesOf(userID, stored);
    const users = sessions.map(([id, name, connected]) => ({
      userID: id,
      username: name,
      connected: connected === 'true',
      messages: messages.get(id) ?? [],
    }));
    socket.emit('users', users);
    if (!wasConnected) socket.broadcast.emit('user connected', { userID, username, connected: true, messages: [] });
  });
}
