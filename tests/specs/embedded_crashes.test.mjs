// kill -9 of everything, of workers one after the other, and a frozen process that holds the writers' lock:
// under 2,000 messages a second, what was acknowledged is in the embedded store, once and in order.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { Load } from '../harness/load.mjs';
import { flockHolder, isAlive, isStopped } from '../harness/proc.mjs';
import { assertAllStored } from '../harness/stored_messages.mjs';
import { until } from '../harness/wait.mjs';

const RATE = 2_000;

const random = (low, high) => low + Math.floor(Math.random() * (high - low));

/** Why workers died, by the master's log. */
function deaths(cluster) {
  return [...cluster.output.matchAll(/worker died .*cause="([^"]*)"/g)].map(([, cause]) => cause);
}

/** Acknowledged messages a second, of rounds `{acked, ms}` under load. A test that sends next to nothing shows nothing. */
function assertRate(t, rounds) {
  const sum = (what) => rounds.reduce((total, round) => total + round[what], 0);
  const rate = Math.round((sum('acked') / sum('ms')) * 1_000);
  t.diagnostic(`${sum('acked')} messages acknowledged, ${rate} a second under way`);
  assert.ok(rate >= RATE / 2, `${rate} messages a second, instead of about ${RATE}`);
}

test('killed ten times with all its workers, it has everything that was acknowledged', async (t) => {
  const [dataDir, runtimeDir] = [temporaryDirectory(), temporaryDirectory()];
  const start = (listen) => startCluster({ dataDir, runtimeDir, listen });
  let cluster = await start('127.0.0.1:0');
  t.after(() => cluster.stop());
  const server = { host: cluster.host, port: cluster.port };
  const load = await Load.start(t, server, { rate: RATE });

  const rounds = [];
  for (let round = 0; round < 10; round += 1) {
    const began = { acked: load.acked, at: performance.now() };
    await load.progress(random(1_500, 4_000));
    rounds.push({ acked: load.acked - began.acked, ms: performance.now() - began.at });
    await cluster.kill();
    cluster = await start(`${server.host}:${server.port}`);
    await until(() => load.users.every((user) => user.here), 'everyone is back');
  }
  await load.finish();
  for (const user of load.users) assert.equal(user.disconnects, 10, `${user.username}: cut off by each crash, and by nothing else`);
  load.assertNothingHeardTwice();
  await assertAllStored(cluster, load.users);
  assertRate(t, rounds);
});

test('with a worker killed every second for a minute, nothing is lost and the others hear everything once', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const load = await Load.start(t, cluster, { rate: RATE });
  const pids = await cluster.servedBy(load.users.map((user) => user.clientEnd));
  const [steady] = pids;
  const spared = load.users.filter((_, n) => pids[n] === steady);
  assert.ok(spared.length >= 5, `${spared.length} users are on the worker that is spared`);

  const began = { acked: load.acked, at: performance.now() };
  let killed = 0;
  for (let second = 0; second < 60; second += 1) {
    await sleep(1_000); // the pace of the killing
    // The oldest: those that die young are replaced after a pause, and at last there would be none.
    const [victim] = cluster.workerPids().filter((pid) => pid !== steady).sort((a, b) => a - b);
    if (victim === undefined) continue;
    cluster.killWorker(victim);
    killed += 1;
  }
  const rounds = [{ acked: load.acked - began.acked, ms: performance.now() - began.at }];
  assert.ok(killed >= 50, `${killed} workers were killed`);
  await cluster.waitFor(() => deaths(cluster).length >= killed, 'the master has seen each death');
  assert.deepEqual(deaths(cluster).filter((cause) => cause !== 'killed by SIGKILL'), [], 'nobody died of anything else');
  assert.equal(deaths(cluster).length, killed);
  await load.finish();
  for (const user of spared) assert.equal(user.disconnects, 0, `${user.username} noticed nothing`);
  await load.allHeardBy(spared);
  load.assertNothingHeardTwice();
  await assertAllStored(cluster, load.users);
  assertRate(t, rounds);
});

/** Stops workers, one at a time, until one of them stands still with the lock; the others go on. */
async function freezeHolder(cluster, lock) {
  return await until(async () => {
    for (const pid of cluster.workerPids()) {
      process.kill(pid, 'SIGSTOP');
      await until(() => isStopped(pid), 'a stopped process stands still');
      // Now it can neither take nor leave it.
      if (flockHolder(lock) === pid) return pid;
      process.kill(pid, 'SIGCONT');
    }
    return undefined;
  }, 'a worker is stopped while it holds the lock', 60_000);
}

test('a worker that freezes while it holds the lock of the writers is killed, and sending goes on', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const load = await Load.start(t, cluster, { rate: RATE });
  const rounds = [];
  for (let round = 0; round < 3; round += 1) {
    const began = { acked: load.acked, at: performance.now() };
    await load.progress(1_000);
    rounds.push({ acked: load.acked - began.acked, ms: performance.now() - began.at });
    const frozen = await freezeHolder(cluster, join(cluster.dataDir, 'writer.lock'));
    const froze = performance.now();
    await until(() => !isAlive(frozen), 'it is killed', 10_000);
    t.diagnostic(`killed after ${Math.round(performance.now() - froze)} ms`);
    await load.progress(1_000);
    await cluster.workersReplaced(4, [frozen]);
    await until(() => load.users.every((user) => user.here), 'everyone is back');
  }
  await load.finish();
  load.assertNothingHeardTwice();
  await assertAllStored(cluster, load.users);
  assertRate(t, rounds);
});

test('a worker that freezes without a lock is left alone, holds nobody up, and goes on when it thaws', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const load = await Load.start(t, cluster, { users: 20, rate: 200 });
  const pids = await cluster.servedBy(load.users.map((user) => user.clientEnd));
  const locks = ['writer.lock', 'upkeep.lock'].map((name) => join(cluster.dataDir, name));
  const frozen = await until(async () => {
    for (const pid of cluster.workerPids()) {
      process.kill(pid, 'SIGSTOP');
      await until(() => isStopped(pid), 'a stopped process stands still');
      if (!locks.some((lock) => flockHolder(lock) === pid)) return pid;
      process.kill(pid, 'SIGCONT');
    }
    return undefined;
  }, 'a worker is stopped while it holds no lock');
  t.after(() => isAlive(frozen) && process.kill(frozen, 'SIGCONT'));

  const [on, off] = [true, false].map((served) => load.users.filter((_, n) => (pids[n] === frozen) === served));
  const before = off.map((user) => user.acked);
  await sleep(4_000); // twice the time after which one with a lock is killed
  assert.ok(isAlive(frozen) && isStopped(frozen), 'it was left alone');
  assert.ok(off.every((user, n) => user.acked > before[n] + 20), 'the others go on');

  process.kill(frozen, 'SIGCONT');
  await until(() => on.every((user) => user.waiting < 5), 'it catches up');
  await load.finish();
  for (const user of load.users) assert.equal(user.disconnects, 0, `${user.username} stayed connected`);
  await load.allHeardBy(load.users);
  load.assertNothingHeardTwice();
  await assertAllStored(cluster, load.users);
  assert.ok(cluster.workerPids().includes(frozen), 'it still serves');
});
