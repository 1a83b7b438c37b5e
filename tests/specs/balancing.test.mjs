// How new clients are spread over the workers. Polling clients are told apart by their tag, WebSockets by who
// holds the server's end of their connection.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { childrenOf, isAlive } from '../harness/proc.mjs';
import { PollingSession } from '../harness/polling_session.mjs';
import { openWebSocket } from '../harness/raw_websocket.mjs';
import { Hopeless, inParallel, until } from '../harness/wait.mjs';

/** How often each of the `keys` is in `values`. */
function counts(values, keys) {
  return [...keys].map((key) => values.filter((value) => value === key).length);
}

const difference = (numbers) => Math.max(...numbers) - Math.min(...numbers);

/** Opens WebSockets, `width` at a time, and returns them with the pid that serves each. */
async function openAndLocate(t, cluster, number, width) {
  const sockets = await inParallel(Array.from({ length: number }), width, () => openWebSocket(cluster));
  t.after(() => sockets.forEach((socket) => socket.close()));
  return { sockets, pids: await cluster.servedBy(sockets) };
}

test('round-robin spreads WebSockets exactly evenly', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const { pids } = await openAndLocate(t, cluster, 40, 1);
  assert.deepEqual(counts(pids, cluster.workerPids()), [10, 10, 10, 10]);
  const burst = await openAndLocate(t, cluster, 200, 200);
  assert.deepEqual(counts(burst.pids, cluster.workerPids()), [50, 50, 50, 50], 'in a burst too');
});

test('round-robin spreads polling handshakes exactly evenly', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const workers = [];
  for (let n = 0; n < 40; n += 1) workers.push((await PollingSession.open(cluster)).worker);
  assert.deepEqual(counts(workers, [0, 1, 2, 3]), [10, 10, 10, 10], 'worker ids are 0 to 3');
  const burst = await inParallel(Array.from({ length: 100 }), 100, () => PollingSession.open(cluster));
  const burstWorkers = burst.map((session) => session.worker);
  assert.deepEqual(counts(burstWorkers, [0, 1, 2, 3]), [25, 25, 25, 25], 'in a burst too');
});

test('least-connection keeps held WebSockets within 1, one after the other', async (t) => {
  const cluster = await startCluster({ balance: 'least-connection', t });
  const { pids } = await openAndLocate(t, cluster, 42, 1);
  assert.ok(difference(counts(pids, cluster.workerPids())) <= 1, `${counts(pids, cluster.workerPids())}`);
});

test('least-connection counts polling sessions, which hold no connection', async (t) => {
  const cluster = await startCluster({ balance: 'least-connection', t });
  const workers = [];
  for (let n = 0; n < 42; n += 1) workers.push((await PollingSession.open(cluster)).worker);
  assert.ok(difference(counts(workers, [0, 1, 2, 3])) <= 1, `${counts(workers, [0, 1, 2, 3])}`);
});

test('least-connection keeps a burst of 200 WebSockets within 1, also after a worker was replaced', async (t) => {
  const cluster = await startCluster({ balance: 'least-connection', t });
  const first = await openAndLocate(t, cluster, 200, 200);
  const spread = counts(first.pids, cluster.workerPids());
  assert.ok(difference(spread) <= 1, `200 at once: ${spread}`);

  const [victim] = cluster.workerPids();
  cluster.killWorker(victim);
  await cluster.workersReplaced(4, [victim]);
  // As many as were lost, one by one and then in a burst: the newcomer fills up, and all are even again.
  const refill = await openAndLocate(t, cluster, 50, 10);
  const again = counts([...first.pids, ...refill.pids], cluster.workerPids());
  assert.ok(difference(again) <= 1, `after the replacement: ${again}`);
  const more = await openAndLocate(t, cluster, 200, 200);
  const last = counts([...first.pids, ...refill.pids, ...more.pids], cluster.workerPids());
  assert.ok(difference(last) <= 1, `and 200 more at once: ${last}`);
});

test('random stays within statistical bounds', async (t) => {
  const cluster = await startCluster({ balance: 'random', t });
  const SESSIONS = 400;
  const sessions = await inParallel(Array.from({ length: SESSIONS }), 8, () => PollingSession.open(cluster));
  const spread = counts(sessions.map((session) => session.worker), [0, 1, 2, 3]);
  assert.equal(spread.reduce((a, b) => a + b), SESSIONS);
  const expected = SESSIONS / 4;
  const chiSquare = spread.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
  // 3 degrees of freedom: above 30 once in 700,000 runs. And not even: exactly 100 each once in 3,000 runs
  // of independent choices, so a round-robin in disguise is found by the order, not by the counts.
  assert.ok(chiSquare < 30, `${spread}`);
  const one = [];
  for (let n = 0; n < 40; n += 1) one.push((await PollingSession.open(cluster)).worker);
  const repeats = one.filter((worker, n) => n > 0 && worker === one[n - 1]).length;
  // 39 independent chances of 1/4: none at all once in 75,000 runs, more than 25 once in a million.
  assert.ok(repeats > 0 && repeats <= 25, `one after the other: ${one}`);
});

test('client-hash keeps each address on its worker, and a death moves only that worker\'s addresses', async (t) => {
  const cluster = await startCluster({ balance: 'client-hash', t });
  const addresses = Array.from({ length: 48 }, (_, n) => `127.0.0.${n + 2}`);
  const workerOf = async (localAddress) => (await PollingSession.open(cluster, { localAddress })).worker;

  const home = await inParallel(addresses, 8, workerOf);
  assert.ok(new Set(home).size === 4, 'all workers have addresses');
  for (let round = 0; round < 2; round += 1) {
    assert.deepEqual(await inParallel(addresses, 8, workerOf), home, 'an address always gets the same worker');
  }
  // WebSockets and polling agree: both ask for the same address.
  const byId = cluster.workersById();
  const sockets = await inParallel(addresses, 8, (localAddress) => openWebSocket(cluster, { localAddress }));
  t.after(() => sockets.forEach((socket) => socket.close()));
  assert.deepEqual(await cluster.servedBy(sockets), home.map((id) => byId.get(id)));

  // Its replacements die as well, for as long as the others are asked, so that the worker stays away.
  const deadId = home[0];
  const bystanders = new Set([...byId].filter(([id]) => id !== deadId).map(([, pid]) => pid));
  cluster.killWorker(byId.get(deadId));
  const killer = setInterval(() => {
    for (const pid of childrenOf(cluster.pid)) if (!bystanders.has(pid)) cluster.killWorker(pid);
  }, 1);
  let away;
  try {
    away = await inParallel(addresses, 8, workerOf);
  } finally {
    clearInterval(killer);
  }
  for (const [n, address] of addresses.entries()) {
    if (home[n] !== deadId) assert.equal(away[n], home[n], `${address} stays where it was`);
  }
  assert.ok(addresses.some((_, n) => home[n] === deadId && away[n] !== deadId), 'those of the dead worker are served by others');
  for (const pid of bystanders) assert.ok(isAlive(pid));

  // The replacement takes over the dead worker's addresses, and no others.
  await until(async () => {
    const now = await inParallel(addresses, 8, workerOf);
    for (const [n, address] of addresses.entries()) {
      if (home[n] !== deadId && now[n] !== home[n]) throw new Hopeless(`${address} moved, though its worker lives`);
    }
    return now.every((worker, n) => worker === home[n]);
  }, 'the addresses are back where they were');
});
