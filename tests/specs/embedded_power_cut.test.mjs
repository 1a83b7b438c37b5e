// A power cut: of what was acknowledged, the disk has all with `--durability full`, and all but the last moments
// with `normal`. The disk is an ext4 image of its own, copied while everything runs: what the kernel had not
// handed to it by then is lost in the copy, as it is when the power goes.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { mount, newDisk, run } from '../harness/disk.mjs';
import { Load } from '../harness/load.mjs';
import { conversation } from '../harness/stored_messages.mjs';

/** What `normal` may lose: a second until the log is written, and what a busy machine adds to it, in ms. */
const MAY_LOSE_MS = 3_000;

/** Sends for some seconds, cuts the power at a moment under load, and returns what was acknowledged, and when it was cut. */
async function cut(t, durability) {
  const disk = newDisk();
  if (disk.failed) return disk;
  const dataDir = join(disk.path, 'data');
  const cluster = await startCluster({ dataDir, args: ['--durability', durability] });
  const load = await Load.start(t, cluster, { users: 20, rate: 1_000 });
  await load.progress(4_000);
  const copy = join(temporaryDirectory(), 'copy');
  t.after(() => rmSync(copy, { force: true }));
  // Nothing may change under the copying: a torn copy is more than a power cut. But the cluster must not end in
  // order either, which would write everything.
  const at = Date.now();
  const acked = load.users.map((user) => user.sent.filter(({ ackedAt }) => ackedAt !== undefined).map((message) => ({ ...message })));
  const pids = [cluster.pid, ...cluster.workerPids()];
  pids.forEach((pid) => process.kill(pid, 'SIGSTOP'));
  const failed = run('cp', '--sparse=always', disk.image, copy);
  pids.forEach((pid) => process.kill(pid, 'SIGKILL'));
  load.stop();
  await cluster.kill();
  assert.equal(failed, undefined);
  const { path } = mount(copy, 'after');
  return { at, acked, users: load.users, dataDir: join(path, 'data') };
}

/** Starts on what the disk had; returns the ids of each user's messages that are there, as `sender id`. */
async function storedAfter(t, { users, dataDir }) {
  const cluster = await startCluster({ dataDir, workers: 2, t });
  const stored = new Set();
  for (const user of users) {
    const back = await ChatUser.logIn(cluster, { auth: { sessionID: user.session.sessionID, username: user.username } });
    for (const other of new Set(user.sent.map(({ to }) => to))) {
      const messages = await conversation(back, { userID: other });
      for (const { id, from } of messages) if (from === user.userID) stored.add(id);
      const times = messages.map(({ at }) => at);
      assert.deepEqual(times, times.toSorted((a, b) => a - b), 'in order');
    }
    back.close();
  }
  return stored;
}

for (const durability of ['full', 'normal']) {
  test(`after a power cut, with ${durability} durability`, async (t) => {
    const power = await cut(t, durability);
    if (power.failed) return t.skip(`no disk of its own here: ${power.failed}`);
    const stored = await storedAfter(t, power);
    const all = power.acked.flat();
    assert.ok(all.length >= 3_000, `${all.length} messages were acknowledged`);
    const lost = all.filter(({ id }) => !stored.has(id));
    const oldest = Math.max(0, ...lost.map(({ ackedAt }) => power.at - ackedAt));
    t.diagnostic(`${lost.length} of ${all.length} lost, the oldest acknowledged ${oldest} ms before the cut`);
    if (durability === 'full') assert.equal(lost.length, 0);
    else assert.ok(oldest <= MAY_LOSE_MS, `lost what was acknowledged ${oldest} ms before`);
  });
}
