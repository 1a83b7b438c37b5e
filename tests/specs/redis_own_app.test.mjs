// The example of an app that is not ours, with redis-adapter: four workers are one, and a program that publishes as Node servers do reaches them.
import assert from 'node:assert/strict';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { Emitter } from '@socket.io/redis-emitter';
import { io } from 'socket.io-client';
import { startRedis } from '../harness/redis.mjs';
import { CHECKOUT, Run } from '../harness/run.mjs';
import { inParallel, until } from '../harness/wait.mjs';

/** `make examples` puts it there. */
const APP = resolve(process.env.CARGO_TARGET_DIR ?? join(CHECKOUT, 'target'), 'debug/with_redis');

test('what one client says reaches those of all workers, and so does what an emitter says', async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const app = new Run(['127.0.0.1:0'], { binary: APP, env: { REDIS_URL: redis.url } });
  t.after(() => app.kill());
  const [, url] = await app.line(/ready at (http:\/\/127\.0\.0\.1:\d+)/);
  const clients = await inParallel(Array.from({ length: 12 }), 12, async () => {
    const socket = io(url, { forceNew: true });
    t.after(() => socket.disconnect());
    const heard = [];
    socket.on('said', (text) => heard.push(text));
    let joined;
    socket.on('joined', (ok) => (joined = ok));
    await until(() => joined !== undefined, 'it has joined');
    assert.equal(joined, true);
    return { socket, heard };
  });
  for (const [n, { socket }] of clients.entries()) assert.equal(await socket.timeout(10_000).emitWithAck('say', `${n}`), true);
  await until(() => clients.every(({ heard }) => heard.length === 12), 'all heard all');
  new Emitter(redis.connect()).to('everybody').emit('said', 'from a cron job');
  await until(() => clients.every(({ heard }) => heard.length === 13), 'all heard the emitter');
  for (const { heard } of clients) {
    assert.equal(heard.pop(), 'from a cron job');
    assert.deepEqual(heard.toSorted(), clients.map((_, n) => `${n}`).toSorted());
  }
});
