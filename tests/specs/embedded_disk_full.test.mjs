// A full disk: sends are refused and reads go on; when there is room again, so does sending, without a restart.
import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { NO_OWN_MOUNTS, seenBy, withOwnMounts } from '../harness/own_mounts.mjs';
import { finished, assertOneLine } from '../harness/run.mjs';
import { conversation } from '../harness/stored_messages.mjs';
import { until } from '../harness/wait.mjs';

const SMALL_DISK = 'mount -t tmpfs -o size=16m tmpfs "$1"';

/** Writes a file until nothing more fits. */
function fill(path) {
  const file = openSync(path, 'a');
  try {
    for (const size of [65_536, 4_096, 64, 1]) {
      const bytes = Buffer.alloc(size, 'x');
      for (let full = false; !full; ) {
        try {
          full = writeSync(file, bytes) < size;
        } catch (error) {
          if (error.code !== 'ENOSPC') throw error;
          full = true;
        }
      }
    }
  } finally {
    closeSync(file);
  }
}

test('while the disk is full sends are refused and reads go on; with room again sending works', { skip: NO_OWN_MOUNTS }, async (t) => {
  const dataDir = temporaryDirectory();
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', dataDir, wrapper: withOwnMounts(SMALL_DISK, dataDir), t });
  const [ann, ben] = [await ChatUser.logIn(cluster, { username: 'ann' }), await ChatUser.logIn(cluster, { username: 'ben' })];
  t.after(() => [ann, ben].forEach((user) => user.close()));
  const acked = [];
  let number = 0;
  /** Sends one message; returns its ack. */
  const send = async () => {
    const content = `${(number += 1)}`;
    const ack = await ann.send(ben, content);
    if (ack.ok) acked.push(content);
    return ack;
  };
  const contents = async (user, other) => (await conversation(user, other)).map(({ content }) => content);
  for (let n = 0; n < 50; n += 1) assert.equal((await send()).ok, true);

  const filler = seenBy(cluster.pid, join(dataDir, 'filler'));
  fill(filler);
  // The write-ahead log may have some room left.
  const refusal = await until(async () => {
    const ack = await send();
    return !ack.ok && ack;
  }, 'a send is refused');
  assert.equal(refusal.error.code, 'unavailable');
  for (let n = 0; n < 20; n += 1) assert.equal((await send()).error?.code, 'unavailable');
  await until(async () => (await request(cluster, '/healthz')).status === 503, 'the state of health says so');

  const stored = [...acked];
  assert.deepEqual(await contents(ben, ann), stored, 'the history is there');
  const tab = await ChatUser.another(cluster, ben);
  assert.deepEqual(tab.entryOf(ann).messages.map(({ content }) => content), stored, 'and who has a session can log in');
  tab.close();
  // A worker that dies meanwhile is replaced, and serves what can be served.
  const before = cluster.workersById();
  const [victim] = await cluster.servedBy([ben.clientEnd]);
  cluster.killWorker(victim);
  await cluster.workersReplaced(2, [victim]);
  await until(async () => ben.socket.connected && (await contents(ben, ann)).length === stored.length, 'ben is back and reads');
  assert.equal((await ben.send(ann, 'still full')).error?.code, 'unavailable');

  rmSync(filler);
  await until(async () => (await send()).ok, 'sending works again');
  assert.equal((await ben.send(ann, 'from ben')).ok, true);
  for (let n = 0; n < 50; n += 1) assert.equal((await send()).ok, true);
  await until(async () => (await request(cluster, '/healthz')).status === 200, 'the state of health says so, too');
  await ben.got('private message', ({ content }) => content === acked.at(-1));
  assert.deepEqual((await contents(ben, ann)).filter((content) => content !== 'from ben'), acked);
  const pids = cluster.workerPids();
  for (const [, pid] of before) if (pid !== victim) assert.ok(pids.includes(pid), 'nobody else was restarted');
  const log = cluster.output.split('\n');
  assert.equal(log.filter((line) => /cannot be written/.test(line) && /disk is full/.test(line)).length > 0, true, cluster.tail());
  assert.ok(log.length < 100, cluster.tail());

  // The last one to leave has to be able to put things in order.
  for (const user of [ann, ben]) user.close();
});

test('a small disk is filled by messages, and not by the write-ahead log', { skip: NO_OWN_MOUNTS }, async (t) => {
  const dataDir = temporaryDirectory();
  const cluster = await startCluster({ workers: 2, dataDir, wrapper: withOwnMounts(SMALL_DISK, dataDir), t });
  const [ann, ben] = [await ChatUser.logIn(cluster, { username: 'ann' }), await ChatUser.logIn(cluster, { username: 'ben' })];
  t.after(() => [ann, ben].forEach((user) => user.close()));
  const acked = [];
  const send = async () => {
    const ack = await ann.send(ben, `${acked.length} `.padEnd(60_000, '.'));
    if (ack.ok) acked.push(ack.id);
    return ack.ok;
  };
  await until(async () => !(await send()), 'the disk is full');
  t.diagnostic(`${acked.length} messages of 60 kB in 16 MiB`);
  assert.ok(acked.length >= 155, 'more than fit when all of them lie in the log, too');
  assert.deepEqual((await conversation(ben, ann)).map(({ id }) => id), acked);
});

test('a disk that is full at start is one line', { skip: NO_OWN_MOUNTS }, async (t) => {
  const [dataDir, runtimeDir] = [temporaryDirectory(), temporaryDirectory()];
  t.after(() => [dataDir, runtimeDir].forEach((path) => rmSync(path, { recursive: true, force: true })));
  const full = `${SMALL_DISK}; head -c 20m /dev/zero > "$1/filler" 2>/dev/null || true`;
  const args = ['--workers', '2', '--listen', '127.0.0.1:0', '--runtime-dir', runtimeDir, '--data-dir', dataDir];
  const result = await finished(args, { wrapper: withOwnMounts(full, dataDir) });
  assertOneLine(result, 1, new RegExp(dataDir));
  assert.match(result.stderr, /full|No space left/i);
  assert.deepEqual(readdirSync(dataDir), []);
});
