// Sharded pub/sub: what workers tell each other costs one server of the Redis Cluster, and reaches as far as before.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { Member } from '../harness/member.mjs';
import { borrowRedisCluster } from '../harness/redis_cluster.mjs';
import { startRedis } from '../harness/redis.mjs';
import { assertOneLine, finished } from '../harness/run.mjs';

test('messages, presence and rooms go over shards, and nothing but our own channels over the whole cluster', async (t) => {
  const redis = await borrowRedisCluster();
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, balance: 'round-robin', args: ['--sharded-pubsub'], t });
  const users = [];
  for (let n = 0; n < 8; n += 1) users.push(await ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  for (const [n, from] of users.entries()) {
    const to = users[(n + 3) % users.length];
    const tab = n < 2 ? await ChatUser.another(cluster, to) : undefined;
    assert.equal((await from.send(to, `from ${n}`)).ok, true);
    for (const user of [to, tab].filter(Boolean)) await user.got('private message', ({ content }) => content === `from ${n}`);
    tab?.close();
    assert.equal(to.inbox.filter(({ content }) => content === `from ${n}`).length, 1);
  }
  const members = await Promise.all(Array.from({ length: 4 }, () => Member.enter(cluster, '/rooms')));
  t.after(() => members.forEach((member) => member.close()));
  for (const member of members) await member.call('join', { roomCode: 'r_1' });
  const look = redis.connect();
  // As other programs publish: not on a shard.
  await look.publish('livechat', JSON.stringify({ namespace: '/rooms', roomCode: 'r_1', msg: 'to all' }));
  for (const member of members) assert.equal(await member.hears('MSG_TO_CLIENTS', 'to all'), 1);

  const channels = [];
  const shards = [];
  for (const node of look.nodes('master')) {
    channels.push(...(await node.pubsub('CHANNELS')));
    const here = await node.pubsub('SHARDCHANNELS');
    assert.ok(here.length > 0, 'each server has some');
    shards.push(...here);
  }
  assert.deepEqual([...new Set(channels)].filter((channel) => channel.startsWith('socket.io')), []);
  assert.equal(new Set(shards).size, shards.length, 'each channel is on one server');
  assert.ok(shards.every((channel) => channel.startsWith('socket.io-sharded')));

  users[0].close();
  await users[5].got('user disconnected', (userID) => userID === users[0].userID);
});

test('it needs a Redis Cluster', async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  for (const store of [[], ['--redis', redis.url]]) {
    assertOneLine(await finished(['--sharded-pubsub', '--listen', '127.0.0.1:0', ...store]), 2, /Redis Cluster/);
  }
});
