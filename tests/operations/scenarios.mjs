// What operators do, and what happens to them, beneath a crowd: each returns what was found besides the crowd's account.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from '../harness/http.mjs';
import { descendants, holdersOf, isAlive, openDescriptors } from '../harness/proc.mjs';
import { until } from '../harness/wait.mjs';

/** How far from even the workers' clients may be. */
const EVEN = 0.2;

/** Workers that are not one of `before`; throws unless all are. */
function assertAllNew(subject, before) {
  const kept = [...subject.workers().values()].filter((pid) => before.includes(pid));
  assert.deepEqual(kept, [], 'all workers are new');
}

/** Rolling reloads, one after the other. */
export async function reloads(subject, { count }) {
  for (let n = 0; n < count; n += 1) {
    const before = [...subject.workers().values()];
    await subject.command('reload');
    assertAllNew(subject, before);
    assert.ok(!before.some(isAlive), 'the old ones have gone');
  }
}

/** How many clients each worker has; nothing while there is another number of workers. */
async function spread(subject, crowd, wanted) {
  const workers = subject.workers();
  if (workers.size !== wanted) return undefined;
  const counts = new Map([...workers.values()].map((pid) => [pid, 0]));
  const places = await crowd.places();
  const ends = places.filter(({ worker }) => worker === undefined);
  const holders = holdersOf(ends, subject.cluster.port, [...workers.values()]);
  const named = places.filter(({ worker }) => worker !== undefined).map(({ worker }) => workers.get(worker));
  for (const pid of [...holders, ...named]) if (counts.has(pid)) counts.set(pid, counts.get(pid) + 1);
  return [...counts.values()];
}

async function becomesEven(subject, crowd, workers, limitMs) {
  const began = performance.now();
  let counts;
  await until(
    async () => {
      counts = await spread(subject, crowd, workers);
      if (!counts) return false;
      const share = counts.reduce((sum, count) => sum + count, 0) / workers;
      return share > 0 && counts.every((count) => Math.abs(count - share) <= Math.max(EVEN * share, 1));
    },
    `clients are spread over ${workers} workers`,
    limitMs,
  ).catch((error) => {
    throw new Error(`${error.message}: ${counts}`);
  });
  return (performance.now() - began) / 1_000;
}

/** More workers, then fewer; the seconds until clients were spread evenly. */
export async function scaling(subject, { crowd, up, down, limitMs = 30_000 }) {
  await subject.command('scale', up);
  const upS = await becomesEven(subject, crowd, up, limitMs);
  await subject.command('scale', down);
  const downS = await becomesEven(subject, crowd, down, limitMs);
  return { upS, downS };
}

/** The master dies, and another takes the workers over after 3 s. */
export async function masterDies(subject) {
  const before = [...subject.workers().values()].toSorted();
  await subject.replaceMaster();
  assert.deepEqual([...subject.workers().values()].toSorted(), before, 'no worker was started or ended');
}

/** The master becomes a program of that version; its process and its workers stay. */
export async function upgrade(subject, { version }) {
  const before = [...subject.workers().values()].toSorted();
  const pid = subject.master;
  subject.replaceBinary(version);
  const said = await subject.command('upgrade');
  assert.match(said, new RegExp(`to ${version.replaceAll('.', '\\.')}`));
  assert.ok(isAlive(pid));
  assert.deepEqual([...subject.workers().values()].toSorted(), before, 'no worker was started or ended');
  // And what it starts is of that version, too.
  await subject.command('reload');
  assertAllNew(subject, before);
}

/** A program that is none: nothing changes. */
export async function brokenUpgrade(subject) {
  const before = [...subject.workers().values()].toSorted();
  for (const content of ['#!/bin/sh\nexit 3\n', '#!/bin/sh\necho hello\n', '\x7fELF and nothing else', '']) {
    subject.writeBinary(content);
    const { code, stderr } = await subject.run('upgrade');
    assert.equal(code, 1, stderr);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    await subject.cluster.line(/no upgrade; everything runs on as it was/);
    const reloaded = await subject.run('reload');
    assert.equal(reloaded.code, 1, 'nor can it be reloaded');
  }
  assert.deepEqual([...subject.workers().values()].toSorted(), before, 'no worker was started or ended');
  assert.equal((await request(subject.cluster, '/healthz')).status, 200);
}

/** One worker stands still; it is thawed afterwards, if it still lives. The seconds until all clients are served again. */
export async function workerFreezes(subject, { crowd, ms, clients }) {
  const [frozen] = subject.workers().values();
  const began = performance.now();
  process.kill(frozen, 'SIGSTOP');
  await sleep(1_000);
  await until(
    async () => !isAlive(frozen) && (await crowd.connected()) === clients,
    'the clients of the frozen worker are served by others',
    ms,
  );
  const servedS = (performance.now() - began) / 1_000;
  await sleep(Math.max(0, ms - servedS * 1_000));
  if (isAlive(frozen)) process.kill(frozen, 'SIGCONT');
  return { servedS };
}

/** The master stands still for so long. */
export async function masterFreezes(subject, { ms }) {
  const before = [...subject.workers().values()].toSorted();
  process.kill(subject.master, 'SIGSTOP');
  await sleep(ms);
  process.kill(subject.master, 'SIGCONT');
  await until(async () => (await request(subject.cluster, '/healthz')).status === 200, 'it serves');
  assert.deepEqual([...subject.workers().values()].toSorted(), before, 'no worker was started or ended');
}

/** What a cluster leaves behind when something is not cleared up. */
function belongings(subject) {
  const { runtimeDir, dataDir } = subject;
  const files = (directory) => (directory ? readdirSync(directory, { recursive: true }).length : 0);
  return {
    descriptors: openDescriptors(subject.master),
    runtimeFiles: files(runtimeDir),
    dataFiles: files(dataDir),
    processes: descendants(subject.master).length,
  };
}

/** Random workers are killed, so many in that time. What the cluster had before, and has afterwards. */
export async function kills(subject, { crowd, clients, count, overMs }) {
  const before = belongings(subject);
  for (let n = 0; n < count; n += 1) {
    const workers = [...subject.workers().values()];
    const victim = workers[Math.floor(Math.random() * workers.length)];
    if (victim !== undefined) subject.cluster.killWorker(victim);
    await sleep(overMs / count);
  }
  await crowd.allConnected(clients);
  let after;
  await until(() => {
    after = belongings(subject);
    return Object.entries(before).every(([name, number]) => after[name] <= number);
  }, 'nothing is left behind', 30_000).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify({ before, after })}`);
  });
  return { before, after };
}
