// The example of an app that is not ours: a cluster of four workers with nothing of the chat in it.
import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { io } from 'socket.io-client';
import { TRANSPORTS } from '../harness/client.mjs';
import { childrenOf, isAlive } from '../harness/proc.mjs';
import { CHECKOUT, Run } from '../harness/run.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

/** `make examples` puts it there. */
const APP = resolve(process.env.CARGO_TARGET_DIR ?? `${CHECKOUT}/target`, 'debug/your-own-app');

test('clients of every transport are served by all of its workers, and it ends with Ctrl-C', async (t) => {
  const app = new Run(['127.0.0.1:0'], { binary: APP });
  t.after(() => app.kill());
  const [, url] = await app.line(/ready at (http:\/\/127\.0\.0\.1:\d+)/);
  const workers = childrenOf(app.pid);
  assert.equal(workers.length, 4);

  const names = Object.keys(TRANSPORTS);
  const clients = await inParallel(Array.from({ length: 24 }), 24, async (_, n) => {
    const socket = io(url, { forceNew: true, transports: TRANSPORTS[names[n % names.length]], reconnectionDelay: 50, reconnectionDelayMax: 200 });
    t.after(() => socket.disconnect());
    await until(() => socket.connected, `client ${n} is connected`);
    return socket;
  });
  const echoes = await inParallel(clients, 24, (socket, n) => socket.timeout(10_000).emitWithAck('message-with-ack', `text ${n}`));
  assert.deepEqual(echoes, clients.map((_, n) => `text ${n}`));

  // Each connection of its own: nobody keeps one alive.
  const served = new Set();
  await until(async () => {
    served.add((await (await fetch(url, { headers: { connection: 'close' } })).text()).trim());
    return served.size === 4;
  }, 'every worker has answered');
  assert.deepEqual([...served].toSorted(), workers.map((pid) => `served by process ${pid}`).toSorted());

  process.kill(workers[0], 'SIGKILL');
  await until(() => childrenOf(app.pid).filter(isAlive).length === 4 && !isAlive(workers[0]), 'it is replaced');
  await inParallel(clients, 24, (socket, n) =>
    until(async () => (await socket.timeout(1_000).emitWithAck('message-with-ack', 'again').catch(() => '')) === 'again', `client ${n} goes on`, 60_000),
  );

  const all = childrenOf(app.pid);
  app.process.kill('SIGINT');
  const { code } = await within(app.exited, 'it ends');
  assert.equal(code, 0, app.tail());
  await until(() => !all.some(isAlive), 'no worker is left');
});
