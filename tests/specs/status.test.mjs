// `chat-cluster status`: what it says is what was done, to the unit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { cpuSeconds, residentKiB } from '../harness/proc.mjs';
import { finished, Run } from '../harness/run.mjs';
import { inParallel, until } from '../harness/wait.mjs';

/** What `status --json` says. */
async function statusOf(cluster) {
  const { code, stdout, stderr } = await finished(['status', '--json', '--runtime-dir', cluster.runtimeDir]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^\{.*\}\n$/);
  return JSON.parse(stdout);
}

const sum = (status, field) => status.workers.reduce((total, worker) => total + worker[field], 0);

test('clients, connections, handoffs and messages are those of a known load, and go when they leave', async (t) => {
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
  const idle = await statusOf(cluster);
  assert.equal(idle.pid, cluster.pid);
  assert.deepEqual([idle.wanted, idle.ready, idle.workers.length], [2, 2, 2]);
  for (const field of ['clients', 'connections', 'handoffs', 'relayed', 'messages']) assert.equal(sum(idle, field), 0, field);

  const users = await inParallel(Array.from({ length: 6 }), 6, (_, n) => ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  for (const [n, user] of users.entries()) {
    for (let m = 0; m <= n; m++) assert.ok((await user.send(users[0], 'x', { id: `${n}-${m}` })).ok);
  }
  // Sent again: stored once. Not a message: nothing.
  assert.ok((await users[1].send(users[0], 'x', { id: '1-0' })).ok);
  assert.equal((await users[1].call('private message', { to: users[0].userID })).ok, false);
  const busy = await statusOf(cluster);
  assert.deepEqual(
    ['clients', 'connections', 'handoffs', 'relayed', 'messages'].map((field) => sum(busy, field)),
    [6, 6, 6, 0, 21],
  );
  const workers = cluster.workersById();
  for (const worker of busy.workers) {
    assert.equal(worker.pid, workers.get(worker.id));
    assert.equal(worker.state, 'ready');
    assert.deepEqual([worker.clients, worker.handoffs], [3, 3], 'round-robin');
    assert.ok(worker.memory_bytes > 0.5 * 1024 * residentKiB(worker.pid) && worker.memory_bytes < 2 * 1024 * residentKiB(worker.pid));
    assert.ok(Math.abs(worker.cpu_s - cpuSeconds(worker.pid)) < 1, 'CPU time');
    assert.ok(worker.uptime_s < 120 && worker.event_loop_lag_us < 10e6);
  }
  users.forEach((user) => user.close());
  await until(async () => {
    const left = await statusOf(cluster);
    return sum(left, 'clients') === 0 && sum(left, 'connections') === 0 && sum(left, 'handoffs') === 6;
  }, 'they have left');
});

test('the state of a worker: ready, stuck, and another generation after a reload', async (t) => {
  const cluster = await startCluster({ workers: 2, args: ['--stuck-time', '60s', '--drain-time', '1s'], t });
  const { workers } = await statusOf(cluster);
  process.kill(workers[0].pid, 'SIGSTOP');
  await until(async () => (await statusOf(cluster)).workers[0].state === 'stuck', 'it is seen', 30_000);
  process.kill(workers[0].pid, 'SIGCONT');
  await until(async () => (await statusOf(cluster)).workers[0].state === 'ready', 'it is back');
  const reload = finished(['reload', '--runtime-dir', cluster.runtimeDir]);
  await until(async () => (await statusOf(cluster)).workers.some(({ state }) => state === 'draining'), 'one drains');
  assert.equal((await reload).code, 0);
  const after = await statusOf(cluster);
  const generations = after.workers.map(({ generation }) => generation).toSorted();
  assert.deepEqual(generations, [3, 4]);
  assert.ok(after.workers.every(({ state }) => state === 'ready'));
});

test('for people there is a table, and one that goes on', async (t) => {
  const cluster = await startCluster({ workers: 3, t });
  const { stdout } = await finished(['status', '--runtime-dir', cluster.runtimeDir]);
  const [head, empty, titles, ...rows] = stdout.trimEnd().split('\n');
  assert.match(head, new RegExp(`^chat-cluster \\S+, pid ${cluster.pid}, up \\S+: 3 of 3 workers ready; master `));
  assert.equal(empty, '');
  assert.match(titles, /^WORKER +PID +GEN +STATE +UP +CLIENTS +CONNS +HANDOFFS +RELAYED +MESSAGES +LAG +CPU +MEMORY$/);
  assert.equal(rows.length, 3);
  for (const row of rows) assert.match(row, /^ +\d+ +\d+ +\d+ {2}ready +\S+ +0 +0 +0 +0 +0 +\S+ms +\S+% +\S+M$/);

  const watch = new Run(['status', '--watch', '--runtime-dir', cluster.runtimeDir]);
  t.after(() => watch.kill());
  await watch.line(/MSG\/S/);
  const json = new Run(['status', '--watch', '--json', '--runtime-dir', cluster.runtimeDir]);
  t.after(() => json.kill());
  await until(() => json.stdout.split('\n').length > 2, 'two lines');
  assert.equal(JSON.parse(json.stdout.split('\n')[1]).workers.length, 3);
  watch.process.kill('SIGINT');
  await watch.exited;
});
