// A Node.js cluster with the same chat: sticky sessions by @socket.io/sticky, events between the workers by the Redis
// adapter, sessions and messages in Redis.
//   node cluster.mjs WORKERS REDIS_SOCKET
import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import { setupMaster, setupWorker } from '@socket.io/sticky';
import { Redis } from 'ioredis';
import { Server } from 'socket.io';
import { serveChat } from './chat.mjs';

const [workers, redisSocket] = [Number(process.argv[2]), process.argv[3]];

if (cluster.isPrimary) {
  cluster.setupPrimary({ serialization: 'advanced' });
  const server = createServer();
  setupMaster(server, { loadBalancingMethod: 'least-connection' });
  for (let n = 0; n < workers; n += 1) cluster.fork();
  let ready = 0;
  cluster.on('message', (_worker, message) => {
    if (message !== 'ready') return;
    ready += 1;
    if (ready < workers) return;
    server.listen(0, '127.0.0.1', 4096, () => console.log(`ready at http://127.0.0.1:${server.address().port}`));
  });
  cluster.on('exit', (worker, code, signal) => {
    console.error(`worker ${worker.id} ended: ${code ?? signal}`);
    process.exit(1);
  });
} else {
  const io = new Server(createServer());
  const redis = new Redis(redisSocket);
  const subscriber = redis.duplicate();
  io.adapter(createAdapter(redis, subscriber));
  serveChat(io, redis);
  setupWorker(io);
  // The adapter's subscriptions and the connection are there once this is answered.
  await Promise.all([redis.ping(), subscriber.ping()]);
  process.send('ready');
}
