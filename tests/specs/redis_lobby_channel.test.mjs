// The lobby's channel in Redis: other programs publish there, and hear what is said.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { LobbyUser, logIn, messenger, whoIs } from '../harness/login.mjs';
import { startRedis } from '../harness/redis.mjs';
import { until } from '../harness/wait.mjs';

async function lobbyOf(t, users) {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, balance: 'round-robin', t });
  const tabs = await Promise.all(
    Array.from({ length: users }, async (_, n) => LobbyUser.enter(cluster, { cookie: await logIn(cluster, `user ${n}`) })),
  );
  t.after(() => tabs.forEach((tab) => tab.close()));
  return { redis, cluster, tabs };
}

test('what another program publishes reaches every socket in the lobby once, and is not kept', async (t) => {
  const { redis, cluster, tabs } = await lobbyOf(t, 8);
  assert.equal(new Set(await cluster.servedBy(tabs.map((tab) => tab.clientEnd))).size, 4);
  const publisher = redis.connect();
  const foreign = { action: 'message', user: 'cron', msg: 'the backup is done' };
  for (const noise of ['', 'no JSON', '5', '"text"', '[1]', 'null', '{"half":', '\u0000\u00ff']) {
    await publisher.publish('chat', noise);
  }
  await publisher.publish('chat', JSON.stringify(foreign));
  await publisher.publish('chat', JSON.stringify(foreign));
  await publisher.publish('chat', JSON.stringify({ msg: 'odd', user: { name: 5 }, more: [1] }));
  await tabs[0].say('the end');
  for (const tab of tabs) {
    await tab.hears('the end');
    const heard = tab.heard.filter((line) => line.action !== 'control');
    assert.deepEqual(heard.slice(0, -1), [foreign, foreign, { msg: 'odd', user: { name: 5 }, more: [1] }]);
  }
  const kept = await tabs[0].call('join', { after: null });
  assert.deepEqual(kept.map((line) => line.msg), ['the end']);
});

test('what is said is on the channel once, as JSON text with the fields of the protocol', async (t) => {
  const { redis, tabs } = await lobbyOf(t, 2);
  const subscriber = redis.connect();
  const published = [];
  subscriber.on('message', (channel, text) => published.push([channel, text]));
  await subscriber.subscribe('chat');
  const { id, at } = await tabs[0].say('grüße "alle"', { id: 'm1' });
  await tabs[0].say('again', { id: 'm1' });
  await tabs[0].say('the end');
  await until(() => published.length >= 2, 'both are published');
  const text = `{"action":"message","user":"user 0","msg":"grüße \\"alle\\"","id":"${id}","at":${at}}`;
  assert.deepEqual(published[0], ['chat', text]);
  assert.equal(JSON.parse(published[1][1]).msg, 'the end');
});

test('what was said while a worker did not hear the channel is told when it hears again', async (t) => {
  const { redis, tabs } = await lobbyOf(t, 8);
  const look = redis.connect();
  await tabs[0].say('before');
  for (const tab of tabs) await tab.hears('before');
  // Stored by a worker whose publication none of them heard.
  const line = { action: 'message', user: 'user 0', msg: 'unheard', id: 'unheard-1', at: Date.now() };
  await look.rpush('cc:{lobby}:log', JSON.stringify(line));
  await look.client('KILL', 'TYPE', 'pubsub');
  for (const tab of tabs) await tab.hears('unheard');
  await tabs[0].say('after');
  for (const tab of tabs) {
    await tab.hears('after');
    assert.deepEqual(tab.messages.map((heard) => heard.msg), ['before', 'unheard', 'after']);
  }
});

test('a session whose end a worker did not hear is ended when it hears again', async (t) => {
  const { redis, cluster, tabs } = await lobbyOf(t, 1);
  const look = redis.connect();
  const cookie = await logIn(cluster, 'leaver');
  const socket = await messenger(cluster, cookie);
  t.after(() => socket.close());
  const key = `session:${socket.session.sessionID}`;
  // As the log-out does it, without its word to the workers.
  await look.multi().hset(key, 'ended', socket.userID, 'connected', 'false').hdel(key, 'userID').exec();
  assert.deepEqual(await whoIs(cluster, cookie), { user: null });
  await look.client('KILL', 'TYPE', 'pubsub');
  await until(() => socket.disconnects.includes('io server disconnect'), 'it is disconnected');
  assert.deepEqual(tabs[0].disconnects, [], 'and nobody else');
});

test('a session that Redis forgot is not taken for one that ended', async (t) => {
  const { redis, tabs } = await lobbyOf(t, 4);
  const look = redis.connect();
  await look.flushall();
  await look.client('KILL', 'TYPE', 'pubsub');
  await tabs[0].say('still here');
  for (const tab of tabs) {
    await tab.hears('still here');
    assert.deepEqual(tab.disconnects, []);
  }
});
