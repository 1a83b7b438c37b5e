// Far more connections than there are descriptors, most of them up to no good, all at once. Who was there before
// notices nothing, who comes meanwhile gets in, and afterwards everything is as before.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { OtherProcess } from '../harness/other_process.mjs';
import { openDescriptors, proportionalKiB } from '../harness/proc.mjs';
import { until } from '../harness/wait.mjs';

const DESCRIPTORS = 256;
const SILENT = 5_000;
const WRITERS = 500;
const READERS = 200;
const FRAMES = 50;
const USERS = 100;

/** What readers who do not read are sent. The kernel holds some 2.6 MB for each, and 4 MB at most. */
const FEED = { bytes: 60_000, each: 10, few: 10, much: 100 };

/** How long it goes on; longer than a client may take nothing of what waits for it. */
const FLOOD_MS = 18_000;
const WRITE_TIMEOUT_S = 5;

/** What all processes together may have more than before, at any time and afterwards. */
const MEMORY_KIB = 128 * 1024;

const skip = (() => {
  const most = Number(/^Max open files +\d+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1] ?? Infinity);
  if (most < SILENT + 2_000) return `this process may open only ${most} files`;
  return Boolean(spawnSync('prlimit', ['--version']).error) && 'prlimit (util-linux) is not installed';
})();

const memoryKiB = (cluster) => [cluster.pid, ...cluster.workerPids()].reduce((sum, pid) => sum + proportionalKiB(pid), 0);

test('a flood of every kind with 256 descriptors a process: nobody who behaves notices', { skip }, async (t) => {
  const cluster = await startCluster({ args: ['--write-timeout', `${WRITE_TIMEOUT_S}s`], wrapper: ['prlimit', `--nofile=${DESCRIPTORS}:${DESCRIPTORS}`], t });
  const workers = cluster.workerPids().toSorted();
  const { url, host, port } = cluster;

  // Each in a process of its own: what is measured is not how busy a client is.
  const [users, flood] = ['chat_process.mjs', 'flood.mjs'].map((program) => new OtherProcess(program));
  t.after(() => Promise.all([users.stop(), flood.stop()]));
  await users.call('logIn', { url, name: 'user', count: USERS, ways: [TRANSPORTS.polling, TRANSPORTS.websocket], keepAlive: true });
  const observer = await ChatUser.logIn(cluster, { username: 'observer' });
  t.after(() => observer.close());
  const readers = await flood.call('logInReaders', { host, port, count: READERS });
  const before = { memory: memoryKiB(cluster), descriptors: openDescriptors(cluster.pid) };
  await users.call('start', { pauseMs: 1_000 });

  await flood.call('begin', { silent: SILENT, writers: WRITERS, frames: FRAMES });
  const fed = flood.call('feedReaders', FEED);
  const began = performance.now();
  let most = 0;
  const newcomers = [];
  while (performance.now() - began < FLOOD_MS) {
    const asked = performance.now();
    const newcomer = await ChatUser.logIn(cluster, { username: `newcomer ${newcomers.length}`, transports: ['websocket'] });
    newcomers.push(performance.now() - asked);
    newcomer.close();
    most = Math.max(most, memoryKiB(cluster));
    await sleep(500); // between two looks
  }
  await fed;
  const counts = await flood.call('counts');
  t.diagnostic(`${JSON.stringify(counts)}; log-ins meanwhile took ${newcomers.map(Math.round)} ms; memory ${before.memory} KiB, then at most ${most} KiB`);
  assert.ok(counts.silent >= SILENT && counts.writers >= WRITERS, JSON.stringify(counts));
  assert.ok(counts.refusedFrames >= FRAMES && counts.takenFrames === undefined, JSON.stringify(counts));
  const { errors, sent } = await users.call('progress');
  assert.deepEqual(errors, []);
  assert.ok(sent > (USERS * FLOOD_MS) / 1_000 / 4, `${sent} messages meanwhile`);
  assert.ok(most - before.memory < MEMORY_KIB, `from ${before.memory} to ${most} KiB`);

  // For whom more waits than the kernel holds, and who took none of it: long before the ping would tell.
  await until(() => {
    const gone = new Set(observer.received('user disconnected'));
    return readers.slice(0, FEED.few).every((userID) => gone.has(userID));
  }, 'readers who do not read are cut');

  await flood.call('end');
  await until(() => openDescriptors(cluster.pid) <= before.descriptors + 5, 'the master has its descriptors back');
  const asked = performance.now();
  const late = await Promise.all(Array.from({ length: 20 }, (_, n) => {
    const transports = Object.values(TRANSPORTS)[n % 3];
    return ChatUser.logIn(cluster, { username: `late ${n}`, transports });
  }));
  t.after(() => late.forEach((user) => user.close()));
  const took = performance.now() - asked;
  assert.ok(took < 4_000, `20 log-ins took ${took} ms`);
  assert.equal((await late[0].send(late[1], 'all is well')).ok, true);
  assert.ok(memoryKiB(cluster) - before.memory < MEMORY_KIB, `from ${before.memory} to ${memoryKiB(cluster)} KiB in the end`);

  await users.call('finish');
  assert.deepEqual(observer.disconnects, []);
  assert.deepEqual(cluster.workerPids().toSorted(), workers);
});
