// Workers that are there and take nothing, and workers that are not there at all.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, PollingSession } from '../harness/polling_session.mjs';
import { childrenOf, isAlive } from '../harness/proc.mjs';
import { inParallel, until } from '../harness/wait.mjs';

for (const balance of ['round-robin', 'least-connection', 'random']) {
  test(`${balance}: a frozen worker does not stall the accept loop`, async (t) => {
    const cluster = await startCluster({ balance, t });
    const [frozen] = cluster.workerPids();
    process.kill(frozen, 'SIGSTOP');
    t.after(() => isAlive(frozen) && process.kill(frozen, 'SIGCONT'));

    const ATTEMPTS = 600;
    const answered = [];
    const late = [];
    const attempts = Array.from({ length: ATTEMPTS }, async () => {
      const began = performance.now();
      const answer = await request(cluster, POLLING, { limitMs: 60_000 });
      assert.equal(answer.status, 200);
      (performance.now() - began < 5_000 ? answered : late).push(answer);
    });
    // Never more than 64 unsettled sockets a worker: all others are served meanwhile.
    await until(() => answered.length >= ATTEMPTS - 64, 'everyone but 64 is served beside the frozen worker');
    // A newcomer after that is served as well, now that the frozen worker is full.
    const began = performance.now();
    await inParallel(Array.from({ length: 50 }), 5, () => PollingSession.open(cluster));
    assert.ok(performance.now() - began < 10_000);

    // Once it moves again, or was replaced, those who waited for it are served too.
    process.kill(frozen, 'SIGCONT');
    await Promise.all(attempts);
    assert.equal(answered.length + late.length, ATTEMPTS);
  });
}

test('a worker that stands still is killed and replaced, and the log says what it did', async (t) => {
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', args: ['--stuck-time', '4s'], t });
  const ann = await ChatUser.logIn(cluster, { username: 'ann' });
  const ben = await ChatUser.logIn(cluster, { username: 'ben' });
  t.after(() => [ann, ben].forEach((user) => user.close()));
  const [stuck, other] = await cluster.servedBy([ann.clientEnd, ben.clientEnd]);
  assert.notEqual(stuck, other);
  process.kill(stuck, 'SIGSTOP');
  const [line] = await cluster.line(/.* is stuck.*/, 60_000);
  assert.match(line, new RegExp(`pid=${stuck}\\b`));
  assert.match(line, /state T \(stopped\)/);
  await cluster.workersReplaced(2, [stuck]);
  await until(() => ann.received('users').length === 2, 'its client is back');
  assert.equal((await ben.send(ann, 'here?')).ok, true);
  await ann.got('private message', ({ content }) => content === 'here?');
  assert.deepEqual(ben.disconnects, []);
  assert.ok(isAlive(other));
});

test('with no live worker the answer is 503 with Retry-After, at once, and then it works again', async (t) => {
  const cluster = await startCluster({ workers: 1, t });
  // Kills each replacement as it appears: the pauses before the next one grow, and in them nobody lives.
  const killAll = () => childrenOf(cluster.pid).forEach((pid) => cluster.killWorker(pid));
  let refusal;
  const killer = setInterval(killAll, 5);
  try {
    killAll();
    await until(async () => {
      const began = performance.now();
      const answer = await request(cluster, POLLING, { limitMs: 5_000 }).catch(() => undefined);
      // Who came while the next one was hoped for has waited for it.
      if (answer?.status !== 503 || performance.now() - began > 1_000) return false;
      refusal = answer;
      return true;
    }, 'a 503 at once');
  } finally {
    clearInterval(killer);
  }
  assert.match(refusal.headers['retry-after'], /^\d+$/);
  await until(async () => (await request(cluster, POLLING).catch(() => ({}))).status === 200, 'it works again');
  await until(async () => (await request(cluster, '/healthz')).status === 200, 'and is healthy');
});

test('a worker that keeps dying is tried again with growing pauses, and the log says so', async (t) => {
  const cluster = await startCluster({ workers: 2, t });
  const [steady, victim] = cluster.workerPids();
  const births = [];
  const known = new Set([steady, victim]);
  cluster.killWorker(victim);
  // Seven deaths right after birth; on a busy machine it may have served by then, and is tried again sooner.
  await until(() => {
    for (const pid of childrenOf(cluster.pid)) {
      if (known.has(pid)) continue;
      known.add(pid);
      births.push(performance.now());
      if (births.length < 8) cluster.killWorker(pid);
    }
    return births.length === 8;
  }, 'the eighth replacement', 60_000);
  const pauses = births.slice(1).map((birth, n) => birth - births[n]);
  assert.ok(pauses.at(-1) > 2 * pauses[0] || pauses.at(-1) > 1_000, `pauses in ms: ${pauses}`);
  assert.ok(isAlive(steady), 'the other worker is left alone');
  await cluster.workersReplaced(2);
  assert.ok((cluster.output.match(/signal|SIGKILL|killed/gi) ?? []).length >= 5, cluster.tail());
});
