// A short chaos run with a seed that is always the same; `make chaos` has longer ones with others.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../chaos/run.mjs';
import { STORE } from '../harness/cluster.mjs';

const skip = !['embedded', 'redis'].includes(STORE) && 'it kills a Redis, not a cluster of them';

test('nothing is lost, doubled or out of order, and nobody is a ghost, whatever is killed or frozen', { skip }, async (t) => {
  const lines = [];
  const { acked, refusals, faults, wrong } = await run({ store: STORE, seed: 20, seconds: 60, clients: 100, rate: 150, say: (line) => lines.push(line) });
  const timeline = lines.join('\n');
  t.diagnostic(`${acked} messages acknowledged, ${refusals} sent again, ${faults} faults`);
  assert.deepEqual(wrong, { lost: [], doubled: [], disordered: [], ghosts: [] }, timeline);
  assert.ok(acked > 1_000 && faults > 5, `${acked} messages, ${faults} faults\n${timeline}`);
});
