// `chat-cluster migrate`: from the embedded store into a Redis, with everything that users see.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { startRedis } from '../harness/redis.mjs';
import { BINARY, Run, assertOneLine, finished } from '../harness/run.mjs';
import { conversation } from '../harness/stored_messages.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const HOUR_MS = 3_600_000;

async function redisServer(t) {
  const redis = await startRedis();
  t.after(() => redis.stop());
  return redis;
}

const migrate = (dataDir, redis, ...args) => finished(['migrate', '--from', dataDir, '--to', redis.url, ...args]);

/** What `user` sees of each conversation: a list of messages by the other's name. */
async function seenBy(user) {
  const seen = {};
  for (const { userID, username, messages } of user.users) {
    if (messages.length === 0) continue;
    assert.deepEqual(messages, await conversation(user, { userID }), 'the log-in and the pages agree');
    seen[username] = messages;
  }
  return seen;
}

/** An embedded store with users who have written to each other; returns them with what they saw. */
async function filledStore(t, { users: names = ['ann', 'Бен', '李 🦀'], messages = 30, args = [] } = {}) {
  const dataDir = temporaryDirectory();
  t.after(() => rmSync(dataDir, { recursive: true, force: true }));
  const cluster = await startCluster({ workers: 2, dataDir, args });
  try {
    const users = await inParallel(names, 10, (username) => ChatUser.logIn(cluster, { username }));
    await inParallel(users, 10, async (user, n) => {
      for (let m = 0; m < messages; m += 1) {
        const to = users[(n + 1 + (m % 2)) % users.length];
        const ack = await user.send(to, `${m}: Grüße\n"an" 🦀 \u{0} ${to.username}`, { id: `${n}-${m}` });
        assert.equal(ack.ok, true);
        user.last = { to, id: `${n}-${m}`, at: ack.at };
      }
    });
    for (const user of users) {
      const tab = await ChatUser.another(cluster, user);
      user.saw = await seenBy(tab);
      tab.close();
      user.close();
    }
    return { dataDir, users };
  } finally {
    await cluster.stop();
  }
}

/** On the Redis everybody is who they were, and sees what they saw. */
async function assertSame(t, redis, users) {
  const cluster = await startCluster({ workers: 2, redis, t });
  for (const user of users) {
    const back = await ChatUser.another(cluster, user);
    assert.deepEqual(back.session, user.session);
    assert.deepEqual(await seenBy(back), user.saw, user.username);
    back.close();
  }
  return cluster;
}

test('sessions and messages are copied with what is left of their time, and a second run adds nothing', async (t) => {
  const { dataDir, users } = await filledStore(t, { args: ['--session-ttl', '1h', '--message-ttl', '2h'] });
  const redis = await redisServer(t);
  const first = await migrate(dataDir, redis);
  assert.equal(first.code, 0, first.stderr);
  assert.equal(first.stderr, '', 'no bar where there is no terminal');
  assert.match(first.stdout, /^copied 3 sessions and 180 entries of the message lists of 3 users to redis:\S+ in [0-9.]+ s; 0 were there already, 0 sessions had expired\n$/);

  const connection = redis.connect();
  const dump = async () => {
    const keys = (await connection.keys('*')).sort();
    return await Promise.all(keys.map(async (key) => [key, await connection.dumpBuffer(key)]));
  };
  const before = await dump();
  const second = await migrate(dataDir, redis);
  assert.equal(second.code, 0, second.stderr);
  assert.match(second.stdout, /^copied 0 sessions and 0 entries .*; 183 were there already/);
  assert.deepEqual(await dump(), before);

  for (const user of users) {
    for (const [key, hours] of [[`session:${user.session.sessionID}`, 1], [`messages:${user.userID}`, 2]]) {
      const left = await connection.pttl(key);
      // The embedded store keeps messages up to a sixteenth longer than asked for.
      assert.ok(left > (hours - 0.1) * HOUR_MS && left <= (hours * HOUR_MS * 17) / 16, `${key}: ${left} ms`);
    }
  }

  const cluster = await assertSame(t, redis, users);
  // What was sent right before counts as sent.
  const [user] = users;
  const back = await ChatUser.another(cluster, user);
  t.after(() => back.close());
  const again = await back.send(user.last.to, 'once more', { id: user.last.id });
  assert.deepEqual(again, { ok: true, id: user.last.id, at: user.last.at });
  assert.deepEqual(await seenBy(back), user.saw);
});

test('killed in the middle, over and over, it is completed by another run', async (t) => {
  const names = Array.from({ length: 60 }, (_, n) => `user ${n}`);
  const { dataDir, users } = await filledStore(t, { users: names, messages: 20 });
  const redis = await redisServer(t);
  const connection = redis.connect();
  let interrupted = 0;
  for (const share of [0.2, 0.5, 0.8]) {
    const run = new Run(['migrate', '--from', dataDir, '--to', redis.url]);
    const lists = async () => (await connection.keys('messages:*')).length;
    while (run.process.exitCode === null && (await lists()) < share * names.length);
    interrupted += run.process.exitCode === null ? 1 : 0;
    await run.kill();
  }
  t.diagnostic(`interrupted ${interrupted} times`);
  assert.ok(interrupted >= 1);
  const last = await migrate(dataDir, redis);
  assert.equal(last.code, 0, last.stderr);
  assert.deepEqual(await connection.keys('*migrating'), []);
  await assertSame(t, redis, users);
});

test('a Redis that is not empty is refused, and added to with --merge', async (t) => {
  const { dataDir, users } = await filledStore(t);
  const [user, other] = users;
  const redis = await redisServer(t);
  const connection = redis.connect();
  await connection.set('foreign', 'key');
  assertOneLine(await migrate(dataDir, redis), 1, /not empty.*--merge/);
  assert.deepEqual(await connection.keys('*'), ['foreign'], 'nothing was written');

  // Some of it is there already, between what came before and after.
  const entry = (message) => JSON.stringify(message);
  const saw = user.saw[other.username];
  const [early, late] = [0, saw.at(-1).at + 1].map((at) => ({ id: `at-${at}`, content: 'x', from: user.userID, to: other.userID, at }));
  // Of several of one millisecond, what is there already stays the first: so it is one that was.
  const known = saw.find(({ at }, n) => n > 0 && saw[n - 1].at < at);
  await connection.rpush(`messages:${user.userID}`, entry(early), entry(known), entry(late));
  const merged = await migrate(dataDir, redis, '--merge');
  assert.equal(merged.code, 0, merged.stderr);
  assert.match(merged.stdout, /^copied 3 sessions and 179 entries .*; 1 were there already/);
  assert.equal(await connection.get('foreign'), 'key');
  user.saw[other.username] = [early, ...saw, late];
  const cluster = await startCluster({ workers: 1, redis, t });
  const back = await ChatUser.another(cluster, user);
  t.after(() => back.close());
  assert.deepEqual(await seenBy(back), user.saw);
});

test('what cannot be done is one line', async (t) => {
  const redis = await redisServer(t);
  const nowhere = join(temporaryDirectory(), 'nowhere');
  assertOneLine(await migrate(nowhere, redis), 1, new RegExp(`${nowhere}.*chat\\.db`));
  const cluster = await startCluster({ workers: 1, dataDir: temporaryDirectory(), t });
  assertOneLine(await migrate(cluster.dataDir, redis), 1, /in use by the cluster whose runtime directory is/);
  assert.equal(await redis.connect().dbsize(), 0);
  await cluster.stop();
  await redis.stop();
  assertOneLine(await migrate(cluster.dataDir, redis), 1, /Redis at redis:/);
  const bad = await finished(['migrate', '--from', cluster.dataDir, '--to', 'http://x']);
  assertOneLine(bad, 1, /redis:\/\//);
});

test('on a terminal a bar shows how far it is', async (t) => {
  const { dataDir } = await filledStore(t);
  const redis = await redisServer(t);
  // The file that `script` writes what is shown to is the last word.
  const command = `'${BINARY}' migrate --from '${dataDir}' --to '${redis.url}'`;
  const shown = await finished([], { binary: '/dev/null', wrapper: ['script', '-qec', command] });
  assert.equal(shown.code, 0, shown.stdout);
  assert.match(shown.stdout, /3 of 3 users, 180 entries added/);
  assert.match(shown.stdout, /copied 3 sessions/);
  await until(async () => (await redis.connect().dbsize()) > 3, 'it was done');
});
