// A Redis that answers, but refuses: sends are refused in time, nobody is disconnected, and when it is well all goes on.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { freePort, startRedis } from '../harness/redis.mjs';
import { assertOneLine, finished } from '../harness/run.mjs';
import { conversation } from '../harness/stored_messages.mjs';
import { until } from '../harness/wait.mjs';

/** A send is answered within that time, whatever happens, in ms. */
const ANSWERED_MS = 3_000;

/** Lines that may be logged while a Redis refuses everything. */
const MAX_LINES = 60;

async function pair(t, cluster) {
  const ann = await ChatUser.logIn(cluster, { username: 'ann' });
  const ben = await ChatUser.logIn(cluster, { username: 'ben' });
  t.after(() => [ann, ben].forEach((user) => user.close()));
  return [ann, ben];
}

/** Sends for a while, each time in time refused as unavailable. */
async function assertRefused(ann, ben, id) {
  for (let n = 0; n < 20; n += 1) {
    const began = performance.now();
    const ack = await ann.send(ben, id, { id });
    assert.deepEqual([ack.ok, ack.error?.code], [false, 'unavailable']);
    assert.ok(performance.now() - began < ANSWERED_MS);
  }
}

/** Sends the same again until it is stored; the other has it once. */
async function assertGoesOn(ann, ben, id) {
  await until(async () => (await ann.send(ben, id, { id })).ok, 'it is stored', 60_000);
  await ben.got('private message', (message) => message.id === id);
  assert.equal(ben.inbox.filter((message) => message.id === id).length, 1);
  assert.equal((await conversation(ben, ann)).filter((message) => message.id === id).length, 1);
}

const REFUSALS = {
  'has no memory left (-OOM)': {
    begin: (control) => control.config('SET', 'maxmemory', '1'),
    end: (control) => control.config('SET', 'maxmemory', '0'),
  },
  'has become a replica (-READONLY)': {
    begin: (control) => control.replicaof('127.0.0.1', '1'),
    end: (control) => control.replicaof('NO', 'ONE'),
  },
  'cannot save (-MISCONF)': {
    // Its directory is gone, so what it is to save cannot be saved.
    begin: async (control) => {
      await control.config('SET', 'stop-writes-on-bgsave-error', 'yes');
      await control.config('SET', 'save', '1 1');
      await control.config('SET', 'rdbcompression', 'no');
      await control.bgsave().catch(() => {});
      await until(async () => /rdb_last_bgsave_status:err/.test(await control.info('persistence')), 'it could not be saved', 60_000);
    },
    end: (control) => control.config('SET', 'stop-writes-on-bgsave-error', 'no'),
    prepare: (redis) => redis.loseDirectory(),
  },
};

for (const [what, { prepare, begin, end }] of Object.entries(REFUSALS)) {
  test(`while Redis ${what}`, async (t) => {
    const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
    const [ann, ben] = await pair(t, cluster);
    assert.equal((await ann.send(ben, 'before', { id: 'before' })).ok, true);
    const control = cluster.redis.connect();
    await control.ping(); // it is connected
    prepare?.(cluster.redis);
    await begin(control);
    const lines = cluster.stderr.split('\n').length;
    await assertRefused(ann, ben, 'refused');
    // It can be read.
    assert.deepEqual((await conversation(ben, ann)).map(({ id }) => id), ['before']);
    const logged = cluster.stderr.split('\n').length - lines;
    assert.ok(logged <= MAX_LINES, `${logged} lines:\n${cluster.tail()}`);
    await end(control);
    await assertGoesOn(ann, ben, 'refused');
    assert.deepEqual([...ann.disconnects, ...ben.disconnects], []);
  });
}

test('while Redis loads its data (-LOADING)', async (t) => {
  const settings = ['--appendonly', 'yes', '--appendfsync', 'always'];
  const redis = await startRedis(await freePort(), settings);
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, workers: 2, t });
  const [ann, ben] = await pair(t, cluster);
  assert.equal((await ann.send(ben, 'before', { id: 'before' })).ok, true);
  const control = redis.connect();
  for (let n = 0; n < 200; n += 1) {
    const pipeline = control.pipeline();
    for (let m = 0; m < 100; m += 1) pipeline.set(`filler:${n}:${m}`, 'x'.repeat(100));
    await pipeline.exec();
  }
  await redis.kill();
  // Some 20,000 keys, 3 ms each, until it is told to go on; it looks for commands between them.
  redis.settings = [...settings, '--key-load-delay', '3000', '--loading-process-events-interval-bytes', '1024'];
  redis.begin();
  const looking = redis.connect({ enableReadyCheck: false });
  await until(async () => /loading:1/.test(await looking.info('persistence').catch(() => '')), 'it loads');
  await assertRefused(ann, ben, 'loading');
  assert.match(await looking.info('persistence'), /loading:1/);
  await looking.config('SET', 'key-load-delay', '0');
  await assertGoesOn(ann, ben, 'loading');
  assert.deepEqual((await conversation(ben, ann)).map(({ id }) => id), ['before', 'loading']);
  assert.deepEqual([...ann.disconnects, ...ben.disconnects], []);
});

test('when Redis comes back empty, who is connected is known again', async (t) => {
  const redis = await startRedis(await freePort());
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, workers: 2, t });
  const [ann, ben] = await pair(t, cluster);
  assert.equal((await ann.send(ben, 'forgotten')).ok, true);
  await redis.kill();
  await redis.start();
  const control = redis.connect();
  const known = async ({ session, username }) => {
    const hash = await control.hgetall(`session:${session.sessionID}`).catch(() => ({}));
    return hash.userID === session.userID && hash.username === username && hash.connected === 'true';
  };
  await until(async () => (await known(ann)) && (await known(ben)), 'the sessions are written back', 60_000);
  assert.deepEqual([...ann.disconnects, ...ben.disconnects], []);
  const again = await ChatUser.another(cluster, ann);
  t.after(() => again.close());
  assert.equal(again.userID, ann.userID);
  assert.equal(again.entryOf(ben)?.connected, true);
  await assertGoesOn(ann, ben, 'afterwards');
});

test('with --redis-wait a message is refused until a replica has it', async (t) => {
  const usage = await finished(['--redis-wait', '1', '--data-dir', temporaryDirectory(), '--listen', '127.0.0.1:0']);
  assertOneLine(usage, 2, /--redis/);

  const cluster = await startCluster({ workers: 2, balance: 'round-robin', args: ['--redis-wait', '1'], t });
  const [ann, ben] = await pair(t, cluster);
  const ack = await ann.send(ben, 'alone', { id: 'alone' });
  assert.deepEqual([ack.ok, ack.error?.code], [false, 'unavailable']);
  await cluster.line(/too few replicas/);
  const replica = await startRedis(await freePort(), ['--replicaof', '127.0.0.1', String(cluster.redis.port)]);
  t.after(() => replica.stop());
  await assertGoesOn(ann, ben, 'alone');
  assert.deepEqual([...ann.disconnects, ...ben.disconnects], []);
});
