// What others see in Redis: keys, times to live, channels, and the bytes on them.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { decode } from '@msgpack/msgpack';
import { Emitter } from '@socket.io/redis-emitter';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { until } from '../harness/wait.mjs';

const DAY = 24 * 60 * 60;

/** Records what is published, like `redis-cli PSUBSCRIBE`: `{channel, bytes}`. */
async function record(redis, pattern) {
  const connection = redis.connect();
  const published = [];
  connection.on('pmessageBuffer', (_, channel, bytes) => published.push({ channel: channel.toString(), bytes }));
  await connection.psubscribe(pattern);
  return published;
}

describe('Redis', () => {
  let cluster;
  let redis;
  let published;
  let ann;
  let ben;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
    redis = cluster.redis.connect();
    published = await record(cluster.redis, 'socket.io#*');
    ann = await ChatUser.logIn(cluster, { username: 'ann' });
    ben = await ChatUser.logIn(cluster, { username: 'ben' });
  });
  after(async () => {
    for (const user of [ann, ben]) user?.close();
    await cluster?.stop();
  });

  test('a session is a hash that expires after 24 h', async () => {
    const key = `session:${ann.session.sessionID}`;
    assert.equal(await redis.type(key), 'hash');
    assert.deepEqual(await redis.hgetall(key), { userID: ann.userID, username: 'ann', connected: 'true' });
    const ttl = await redis.ttl(key);
    assert.ok(ttl > DAY - 60 && ttl <= DAY, `${ttl}`);
  });

  test('it is no longer connected once its user left, and is again on return', async () => {
    const user = await ChatUser.logIn(cluster, { username: 'leaver' });
    const key = `session:${user.session.sessionID}`;
    user.close();
    await until(async () => (await redis.hget(key, 'connected')) === 'false', 'the session is marked as away');
    const back = await ChatUser.another(cluster, user);
    assert.equal(await redis.hget(key, 'connected'), 'true');
    back.close();
    await until(async () => (await redis.hget(key, 'connected')) === 'false', 'and away again');
    const ttl = await redis.ttl(key);
    assert.ok(ttl > DAY - 60 && ttl <= DAY, `the time to live is renewed: ${ttl}`);
  });

  test('messages are JSON in a list of each of their two users, and expire after 24 h', async () => {
    const acks = [await ann.send(ben, 'first'), await ben.send(ann, 'second "quoted" ☃')];
    for (const user of [ann, ben]) {
      const key = `messages:${user.userID}`;
      assert.equal(await redis.type(key), 'list');
      assert.deepEqual((await redis.lrange(key, 0, -1)).map(JSON.parse), [
        { id: acks[0].id, content: 'first', from: ann.userID, to: ben.userID, at: acks[0].at },
        { id: acks[1].id, content: 'second "quoted" ☃', from: ben.userID, to: ann.userID, at: acks[1].at },
      ]);
      const ttl = await redis.ttl(key);
      assert.ok(ttl > DAY - 60 && ttl <= DAY, `${ttl}`);
    }
    await ann.send(ann, 'a note to myself');
    const own = (await redis.lrange(`messages:${ann.userID}`, 0, -1)).filter((entry) => entry.includes('a note to myself'));
    assert.ok(own.length >= 1);
    assert.equal((await ann.history(ann)).length, 1, 'shown once, even where it is stored twice');
  });

  test('every other key is ours by its prefix, and none stays for ever', async () => {
    for (const key of await redis.keys('*')) {
      assert.match(key, /^(session|messages|cc):/);
      if (/^(session|messages):/.test(key)) assert.ok((await redis.ttl(key)) > 0, `${key} expires`);
    }
  });

  test('workers subscribe to the base channel, to requests and answers, and to the rooms they host, to no pattern', async () => {
    // Our own recorder is the only pattern.
    assert.equal(await redis.pubsub('NUMPAT'), 1);
    const channels = () => redis.pubsub('CHANNELS', 'socket.io*');
    const user = await ChatUser.logIn(cluster, { username: 'room' });
    const room = `socket.io#/#${user.userID}#`;
    assert.deepEqual(await redis.pubsub('NUMSUB', 'socket.io#/#', room), ['socket.io#/#', 4, room, 1]);
    const tabs = [];
    for (let n = 0; n < 3; n += 1) tabs.push(await ChatUser.another(cluster, user));
    assert.equal((await redis.pubsub('NUMSUB', room))[1], 4, 'round-robin: now every worker hosts a tab');
    const asked = ['socket.io-request#/#', 'socket.io-response#/#', 'socket.io-node#'];
    assert.deepEqual(await redis.pubsub('NUMSUB', ...asked), asked.flatMap((channel) => [channel, 4]));
    const own = (await channels()).filter((channel) => /^socket\.io-response#\/#.{6}#$/.test(channel));
    assert.equal(own.length, 4, 'each its own');
    const socket = `socket.io#/#${tabs[0].socket.id}#`;
    assert.equal((await redis.pubsub('NUMSUB', socket))[1], 1, 'a socket is a room');
    for (const tab of [user, ...tabs]) tab.close();
    await until(async () => !(await channels()).includes(room), 'a room that nobody is in is unsubscribed');
    assert.ok((await channels()).includes(`socket.io#/#${ann.userID}#`));
  });

  test('what is published is the JavaScript adapter\'s msgpack', async () => {
    published.length = 0;
    const ack = await ann.send(ben, 'on the wire');
    const newcomer = await ChatUser.logIn(cluster, { username: 'newcomer' });
    newcomer.close();
    await ann.got('user disconnected', (userID) => userID === newcomer.userID);
    const packets = () => published.map(({ channel, bytes }) => ({ channel, packet: decode(bytes) }));
    // Another one, of a tab that was closed before, may come late.
    const isFarewell = ({ packet: [, { data }] }) => data[0] === 'user disconnected' && data[1] === newcomer.userID;
    await until(() => packets().some(isFarewell), 'the farewell is published');
    for (const { channel, packet } of packets()) {
      assert.equal(packet.length, 3);
      const [uid, { type, data, nsp }, { rooms, except, flags }] = packet;
      assert.match(uid, /^.{6}$/, 'a node is named as a JavaScript one is');
      assert.equal(type, 2);
      assert.equal(nsp, '/');
      assert.ok(Array.isArray(data) && typeof data[0] === 'string');
      assert.ok(Array.isArray(rooms) && Array.isArray(except));
      assert.equal(typeof flags, 'object');
      // One room has its own channel, anything else the base channel.
      assert.equal(channel, rooms.length === 1 ? `socket.io#/#${rooms[0]}#` : 'socket.io#/#');
    }
    const of = (event) => packets().filter(({ packet }) => packet[1].data[0] === event);
    const [{ packet: message }] = of('private message');
    assert.deepEqual(message[1].data[1], { id: ack.id, content: 'on the wire', from: ann.userID, to: ben.userID, at: ack.at });
    assert.deepEqual(
      [...new Set(of('private message').flatMap(({ packet }) => packet[2].rooms))].sort(),
      [ann.userID, ben.userID].sort(),
      'to the rooms of both users',
    );
    assert.deepEqual(of('user connected')[0].packet[1].data[1], {
      userID: newcomer.userID,
      username: 'newcomer',
      connected: true,
      messages: [],
    });
    assert.equal(packets().filter(isFarewell).length, 1);
  });

  test('the JavaScript emitter reaches rooms, everyone, and everyone but a room', async () => {
    const emitter = new Emitter(redis);
    emitter.to(ann.userID).emit('private message', { content: 'to a room', from: 'emitter', to: ann.userID });
    await ann.got('private message', ({ content }) => content === 'to a room');
    emitter.emit('user connected', { userID: 'emitted', username: 'emitted', connected: true, messages: [] });
    for (const user of [ann, ben]) await user.got('user connected', ({ userID }) => userID === 'emitted');
    emitter.except(ann.userID).emit('user disconnected', 'emitted');
    await ben.got('user disconnected', (userID) => userID === 'emitted');
    emitter.to([ann.userID, ben.userID]).emit('private message', { content: 'to two rooms', from: 'emitter', to: ann.userID });
    for (const user of [ann, ben]) await user.got('private message', ({ content }) => content === 'to two rooms');
    assert.ok(!ann.received('user disconnected').includes('emitted'));
    assert.ok(!ben.inbox.some(({ content }) => content === 'to a room'));
  });

  test('bytes that are no packet at all harm nobody', async () => {
    const garbage = ['', '{}', '\x93', 'x'.repeat(100_000), Buffer.from('93a3616263c0c0', 'hex'), Buffer.from('ddffffffff', 'hex')];
    for (const channel of ['socket.io#/#', `socket.io#/#${ann.userID}#`]) for (const bytes of garbage) await redis.publish(channel, bytes);
    assert.equal((await ben.send(ann, 'after garbage')).ok, true);
    await ann.got('private message', ({ content }) => content === 'after garbage');
    assert.deepEqual([...ann.disconnects, ...ben.disconnects], []);
  });

  test('what a Node server stored has no id and at, and is shown without', async () => {
    const stranger = 'aaaaaaaaaaaaaaaa';
    await redis.hset('session:stored-by-node', { userID: stranger, username: 'node', connected: 'false' });
    await redis.rpush(`messages:${ann.userID}`, JSON.stringify({ content: 'old', from: stranger, to: ann.userID }));
    // It is found by one of the workers, which looks around from time to time.
    const entry = await until(async () => {
      const again = await ChatUser.another(cluster, ann);
      again.close();
      return again.users.find((entry) => entry.userID === stranger);
    }, 'the user is found by its session');
    assert.deepEqual(entry, {
      userID: stranger,
      username: 'node',
      connected: false,
      messages: [{ content: 'old', from: stranger, to: ann.userID }],
    });
    // And what a Node server made a session of logs in here.
    const node = await ChatUser.logIn(cluster, { auth: { sessionID: 'stored-by-node' } });
    assert.deepEqual(node.session, { sessionID: 'stored-by-node', userID: stranger });
    node.close();
  });
});

test('--session-ttl and --message-ttl set the times to live, and a session lives while a socket of it does', async (t) => {
  const cluster = await startCluster({ workers: 2, args: ['--session-ttl', '4s', '--message-ttl', '7d'], t });
  const redis = cluster.redis.connect();
  const user = await ChatUser.logIn(cluster, { username: 'short' });
  t.after(() => user.close());
  const key = `session:${user.session.sessionID}`;
  assert.ok((await redis.pttl(key)) <= 4_000);
  await user.send(user, 'kept for a week');
  const ttl = await redis.ttl(`messages:${user.userID}`);
  assert.ok(ttl > 7 * DAY - 60 && ttl <= 7 * DAY, `${ttl}`);

  // Twice its time to live later it is still there: it was renewed meanwhile.
  let renewals = 0;
  let last = Infinity;
  const from = Date.now();
  await until(async () => {
    const now = await redis.pttl(key);
    assert.ok(now > 0, 'the session of a connected user does not expire');
    if (now > last) renewals += 1;
    last = now;
    return Date.now() - from > 8_000;
  }, 'two lifetimes pass');
  assert.ok(renewals >= 2, `${renewals}`);
  user.close();
  await until(async () => (await redis.exists(key)) === 0, 'and it expires after its user left');
});
