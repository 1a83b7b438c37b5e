// What a log-in asks of Redis does not depend on how many users there are.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { FarAway } from '../harness/far_away.mjs';
import { startRedis } from '../harness/redis.mjs';
import { inParallel } from '../harness/wait.mjs';

/** How often Redis was asked to do what, by command. */
async function asked(redis) {
  const commands = await redis.info('commandstats');
  return new Map([...commands.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)].map(([, name, number]) => [name, Number(number)]));
}

/** What comes by the clock, and not with log-ins: of each command, while a hundred log in. */
const BY_THE_CLOCK = 50;

test('the thousandth asks as much as the hundredth', async (t) => {
  const cluster = await startCluster({ workers: 2, t, args: ['--roster-limit', '20'] });
  const redis = cluster.redis.connect();
  const users = [];
  t.after(() => users.forEach((user) => user.close()));
  const logIn = async (count) => {
    const numbers = Array.from({ length: count }, (_, n) => users.length + n);
    users.push(...(await inParallel(numbers, 10, (n) => ChatUser.logIn(cluster, { username: `user ${n}` }))));
  };
  const costOf = async (count) => {
    const before = await asked(redis);
    await logIn(count);
    const after = await asked(redis);
    return new Map([...after].map(([name, number]) => [name, number - (before.get(name) ?? 0)]));
  };
  await logIn(100);
  const early = await costOf(100);
  await logIn(700);
  const late = await costOf(100);
  for (const [name, calls] of late) {
    // The sessions on a page that somebody looks at who does so by the clock; see below.
    if (name === 'hmget') continue;
    const most = (early.get(name) ?? 0) * 1.2 + BY_THE_CLOCK;
    assert.ok(calls <= most, `${name}: ${early.get(name)}, then ${calls}`);
  }
  // What looks at all users does so now and then, in one worker, and not for a log-in.
  for (const name of ['scan', 'zscan', 'mget']) {
    assert.ok((late.get(name) ?? 0) <= BY_THE_CLOCK, `${late.get(name)} ${name}`);
  }
  assert.equal(late.get('keys'), undefined);
});

test('a log-in waits for Redis three times at most', async (t) => {
  const DELAY_MS = 400;
  const redis = await startRedis();
  t.after(() => redis.stop());
  const farAway = await FarAway.start(t, redis.port);
  const cluster = await startCluster({
    workers: 1,
    t,
    redis: { url: `redis://127.0.0.1:${farAway.port}` },
    args: ['--roster-limit', '5'],
  });
  const logIn = (username) => ChatUser.logIn(cluster, { username });
  const old = await logIn('old');
  const others = await inParallel(Array.from({ length: 8 }), 1, (_, n) => logIn(`other ${n}`));
  // A partner who is not in the roster, and some messages.
  for (let n = 0; n < 20; n += 1) await others[7].send(old, `message ${n}`);
  t.after(() => [old, ...others].forEach((user) => user.close()));
  await old.got('private message', ({ content }) => content === 'message 19');

  farAway.delayMs = DELAY_MS;
  const waitsOf = async (logIn) => {
    const began = performance.now();
    const user = await logIn();
    const waits = Math.floor((performance.now() - began) / DELAY_MS);
    t.after(() => user.close());
    return { user, waits };
  };
  const back = await waitsOf(() => ChatUser.another(cluster, others[7]));
  const again = await waitsOf(() => ChatUser.another(cluster, others[7]));
  assert.equal(back.user.entryOf(old).messages.length, 20);
  const fresh = await waitsOf(() => logIn('new'));
  farAway.delayMs = 0;
  // One that takes much longer than it has to is not for Redis.
  assert.ok(Math.min(back.waits, again.waits) <= 3, `${back.waits} and ${again.waits} waits`);
  assert.ok(fresh.waits <= 3, `${fresh.waits} waits of a new user`);
});
