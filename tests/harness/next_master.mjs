// The death of a master alone: its workers live on until the next one takes them over.
import assert from 'node:assert/strict';
import { startCluster } from './cluster.mjs';
import { isAlive } from './proc.mjs';

/**
 * kill -9 of the master, and another with the same store and runtime directory, on a port of its own; `options` as they
 * were given to the first, which must have been started without `t`: both end with this test.
 */
export async function replaceMaster(t, first, options = {}) {
  const workers = first.workerPids();
  const masters = [first];
  t.after(async () => {
    for (const master of masters.toReversed()) await master.stop();
    for (const pid of workers.filter(isAlive)) process.kill(pid, 'SIGKILL');
  });
  first.process.kill('SIGKILL');
  await first.exited;
  const next = await startCluster({
    ...first.store,
    ...options,
    workers: workers.length,
    runtimeDir: first.runtimeDir,
  });
  masters.push(next);
  assert.deepEqual(next.workerPids(), [], 'the workers that were there are taken over');
  assert.ok(workers.every(isAlive), 'all of them');
  return next;
}
