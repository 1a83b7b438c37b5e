// Redis is not there yet, goes away, comes back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser } from '../harness/client.mjs';
import { Cluster, startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { freePort, startRedis } from '../harness/redis.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const health = async (cluster) => (await request(cluster, '/healthz', { limitMs: 5_000 }).catch(() => ({}))).status;

test('started before Redis, it waits, says so, is not healthy, and is ready when Redis comes', async (t) => {
  const [port, redisPort] = [await freePort(), await freePort()];
  const runtimeDir = temporaryDirectory();
  const cluster = new Cluster(
    ['--workers', 2, '--listen', `127.0.0.1:${port}`, '--redis', `redis://127.0.0.1:${redisPort}`, '--runtime-dir', runtimeDir],
    { runtimeDir },
  );
  t.after(() => cluster.stop());
  Object.assign(cluster, { host: '127.0.0.1', port });
  await cluster.line(/redis/i);
  await until(async () => (await health(cluster)) === 503, 'it answers, but is not healthy');
  assert.equal(cluster.stdout, '', 'it does not claim to be ready');

  const redis = await startRedis(redisPort);
  t.after(() => redis.stop());
  await cluster.ready();
  await until(async () => (await health(cluster)) === 200, 'it is healthy');
  const user = await ChatUser.logIn(cluster, { username: 'patient' });
  assert.equal((await user.send(user, 'hello')).ok, true);
  user.close();
});

test('while Redis is away sends are refused as unavailable; when it is back all goes on', async (t) => {
  let redis = await startRedis();
  const { port: redisPort } = redis;
  t.after(() => redis.stop());
  const runtimeDir = temporaryDirectory();
  const cluster = new Cluster(
    ['--workers', 2, '--listen', '127.0.0.1:0', '--redis', redis.url, '--runtime-dir', runtimeDir, '--balance', 'round-robin'],
    { runtimeDir },
  );
  t.after(() => cluster.stop());
  await cluster.ready();
  const ann = await ChatUser.logIn(cluster, { username: 'ann' });
  const ben = await ChatUser.logIn(cluster, { username: 'ben' });
  t.after(() => [ann, ben].forEach((user) => user.close()));

  await redis.stop();
  await until(async () => (await health(cluster)) === 503, 'it says that it is not healthy');
  const ack = await ann.socket.timeout(20_000).emitWithAck('private message', { content: 'lost?', to: ben.userID, id: 'again' });
  assert.equal(ack.ok, false);
  assert.equal(ack.error.code, 'unavailable');

  redis = await startRedis(redisPort);
  await until(async () => (await health(cluster)) === 200, 'it is healthy again');
  // As the protocol says: send again with the same id until it is known to be stored.
  await until(async () => {
    const again = await ann.socket.timeout(5_000).emitWithAck('private message', { content: 'lost?', to: ben.userID, id: 'again' });
    return again.ok;
  }, 'it is stored');
  const delivered = async () => {
    const content = `probe ${Math.random()}`;
    await ann.send(ben, content);
    return await ben.got('private message', (message) => message.content === content, 2_000).catch(() => false);
  };
  await until(delivered, 'messages reach the other worker again');
  assert.deepEqual([...ann.disconnects, ...ben.disconnects], [], 'nobody was thrown out');
});

/** Sends from every user to the next until `during` is done, and returns what was acknowledged, by recipient. */
async function trafficDuring(users, during) {
  let running = true;
  const acked = users.map(() => []);
  const senders = users.map(async (user, sender) => {
    const recipient = (sender + 1) % users.length;
    for (let n = 0; running; n += 1) {
      const message = { to: users[recipient].userID, content: `${sender}:${n}`, id: `m-${sender}-${n}` };
      await user.sendUntilStored(message, 10_000);
      acked[recipient].push(message.id);
    }
  });
  const progress = async () => {
    const goal = Math.min(...acked.map((ids) => ids.length)) + 50;
    await until(() => acked.every((ids) => ids.length >= goal), 'fifty more are acknowledged each');
  };
  await progress();
  await during(progress);
  await progress();
  running = false;
  await Promise.all(senders);
  return acked;
}

for (const [name, disturb] of Object.entries({
  'drops every subscriber': async (redis, progress) => {
    const control = redis.connect();
    for (let round = 0; round < 3; round += 1) {
      assert.ok((await control.client('KILL', 'TYPE', 'pubsub')) >= 2, 'there were subscribers to drop');
      await progress();
    }
  },
  'drops every connection': async (redis, progress) => {
    const control = redis.connect();
    await control.client('KILL', 'TYPE', 'pubsub');
    await control.client('KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await progress();
  },
  'freezes for 3 s': async (redis, progress) => {
    redis.process.kill('SIGSTOP');
    await sleep(3_000); // the length of the freeze
    redis.process.kill('SIGCONT');
    await progress();
  },
})) {
  test(`when Redis ${name} under traffic, what was acknowledged is stored once and delivery goes on`, async (t) => {
    const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
    const users = await inParallel(Array.from({ length: 12 }), 1, (_, n) => ChatUser.logIn(cluster, { username: `user ${n}` }));
    t.after(() => users.forEach((user) => user.close()));
    const acked = await trafficDuring(users, (progress) => disturb(cluster.redis, progress));
    const redis = cluster.redis.connect();
    for (const [n, user] of users.entries()) {
      const sender = users[(n + users.length - 1) % users.length];
      const list = (await redis.lrange(`messages:${user.userID}`, 0, -1)).map(JSON.parse);
      const stored = list.filter((message) => message.to === user.userID).map((message) => message.id);
      assert.deepEqual(stored, acked[n], `${user.username}: each once, in the order they were sent`);
      const received = user.inbox.filter((message) => message.to === user.userID).map((message) => message.id);
      assert.equal(new Set(received).size, received.length, `${user.username} has none twice`);
      assert.deepEqual(user.disconnects, [], `${user.username} stayed connected`);
      const { id } = await sender.send(user, 'afterwards');
      await user.got('private message', (message) => message.id === id);
    }
  });
}
