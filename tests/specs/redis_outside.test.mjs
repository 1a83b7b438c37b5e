// What other programs bring in by Redis: the channel of events for rooms, and the members of workspaces.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { logIn, whoIs } from '../harness/login.mjs';
import { Member } from '../harness/member.mjs';
import { startRedis } from '../harness/redis.mjs';
import { assertOneLine, finished } from '../harness/run.mjs';

test('an event on the channel livechat reaches every member of the room once', async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, balance: 'round-robin', t });
  const members = await Promise.all(Array.from({ length: 8 }, () => Member.enter(cluster, '/rooms')));
  t.after(() => members.forEach((member) => member.close()));
  for (const member of members) await member.call('join', { roomCode: 'room_1' });
  assert.equal(new Set(await cluster.servedBy(members.map((member) => member.clientEnd))).size, 4);
  const publisher = redis.connect();
  for (const noise of ['', '{', '[]', '{"namespace":"/rooms"}', '{"namespace":"/none","roomCode":"room_1","msg":1}']) {
    await publisher.publish('livechat', noise);
  }
  const event = { namespace: '/rooms', roomCode: 'room_1', msg: { sender: 'u_1', text: 'hi' } };
  await publisher.publish('livechat', JSON.stringify(event));
  await publisher.publish('livechat', JSON.stringify({ ...event, event: 'note', msg: 'the end' }));
  for (const member of members) {
    await member.hears('note', 'the end');
    assert.deepEqual(member.heard, [['MSG_TO_CLIENTS', event.msg], ['note', 'the end']]);
  }
});

test('with the policy redis-set only members of the set may subscribe', async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const cluster = await startCluster({ redis, workers: 2, args: ['--workspace-policy', 'redis-set'], t });
  const look = redis.connect();
  const cookie = await logIn(cluster, 'collaborator');
  const { userID } = await whoIs(cluster, cookie);
  await look.sadd('cc:workspace:mine', userID);
  await look.sadd('cc:workspace:theirs', 'somebody-else');
  const member = await Member.enter(cluster, '/workspaces', { cookie });
  t.after(() => member.close());
  for (const [workspaceId, status] of [['mine', 'SUCCESS'], ['theirs', 'ERROR'], ['nobodys', 'ERROR']]) {
    const request = { event: 'SUBSCRIBE', payload: { appId: 'app', workspaceId } };
    member.socket.emit('application', request);
    const message = status === 'ERROR' ? { message: 'not a member of this workspace' } : {};
    await member.hears('application_response', { status, ...request, ...message });
  }
});

test('the policy redis-set needs a Redis', async () => {
  const ended = await finished(['--workspace-policy', 'redis-set', '--listen', '127.0.0.1:0']);
  assertOneLine(ended, 2, /redis/);
});
