// A Redis Cluster that loses a primary: its replica takes over, and the chat goes on with everything it had.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { startRedisCluster } from '../harness/redis_cluster.mjs';
import { until } from '../harness/wait.mjs';

/** A failure is noticed after the cluster's own timeout, then elected upon; the machine may be busy. */
const FAILOVER_MS = 60_000;

test('a primary dies: nothing that was acknowledged is lost, and messages flow again', async (t) => {
  const redis = await startRedisCluster();
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, balance: 'round-robin', t });
  const users = [];
  for (let n = 0; n < 12; n += 1) users.push(await ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));

  // Twelve lists: on each of the three primaries there are some.
  const sent = new Map(users.map((user) => [user, []]));
  const round = async (name) => {
    for (const [n, from] of users.entries()) {
      const to = users[(n + 5) % users.length];
      const content = `${name} to ${to.username}`;
      // Sent again under the same id until it is stored, as a client does.
      await until(async () => (await from.send(to, content, { id: content.replaceAll(' ', '-') })).ok, `${content} is stored`, FAILOVER_MS);
      sent.get(to).push(content);
    }
  };
  await round('before');
  await Promise.all(users.map((user) => user.got('private message', ({ content }) => content === sent.get(user)[0])));

  // In reality a replica has what its primary has within a moment; what it has not yet is lost with it.
  await Promise.all(redis.primaries.map(({ connection }) => connection.call('WAIT', 1, 10_000)));
  await redis.primaries[0].kill();
  await round('during');
  await round('after');
  for (const user of users) {
    const expected = sent.get(user);
    await until(() => expected.every((content) => user.inbox.some((message) => message.content === content)), `${user.username} has all`, FAILOVER_MS);
    const contents = user.inbox.map(({ content }) => content);
    assert.equal(new Set(contents).size, contents.length, 'each once');
  }

  // What is stored is the same to who comes now.
  const again = await ChatUser.another(cluster, users[0]);
  t.after(() => again.close());
  const kept = again.users.flatMap(({ messages }) => messages).filter(({ to }) => to === users[0].userID);
  assert.deepEqual(kept.map(({ content }) => content).toSorted(), sent.get(users[0]).toSorted());
  assert.equal(again.users.length, users.length);
});
