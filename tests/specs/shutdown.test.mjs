// SIGTERM and SIGINT: clients are let go so that they come back elsewhere, and the exit code is 0 within 10 s.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { emptyStore, startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { PollingSession } from '../harness/polling_session.mjs';
import { isAlive } from '../harness/proc.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { freePort } from '../harness/redis.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

/** Reasons after which the official client connects again by itself. */
const RETURNING = ['transport close', 'transport error'];

/** Who comes next, to the same store, sees all of `users` as away. Nobody may be using the store. */
async function assertAllAway(store, users) {
  const next = await startCluster({ ...store, workers: 1 });
  try {
    const visitor = await ChatUser.logIn(next, { username: 'visitor' });
    for (const user of users) assert.equal(visitor.entryOf(user)?.connected, false, `${user.username} is away`);
    visitor.close();
  } finally {
    await next.stop();
  }
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  test(`${signal}: clients on every transport are let go, and all processes end`, async (t) => {
    const cluster = await startCluster({ balance: 'round-robin', t });
    const users = [];
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      users.push(
        ...(await inParallel([1, 2, 3, 4], 4, (n) => ChatUser.logIn(cluster, { username: `${name} ${n}`, transports }))),
      );
    }
    t.after(() => users.forEach((user) => user.close()));
    // Others are in the middle of something: a head that is not complete, a session that says nothing.
    const hesitant = await RawConnection.open(cluster);
    await hesitant.write('GET /');
    await PollingSession.open(cluster);

    const workers = cluster.workerPids();
    const began = performance.now();
    cluster.process.kill(signal);
    const { code } = await within(cluster.exited, 'it ends', 10_000);
    assert.equal(code, 0, cluster.tail());
    assert.ok(performance.now() - began < 10_000);
    assert.ok(!workers.some(isAlive), 'no worker is left');
    await until(() => users.every((user) => user.disconnects.length > 0), 'every client was told');
    for (const user of users) {
      assert.ok(RETURNING.includes(user.disconnects[0]), `${user.username}: ${user.disconnects[0]}`);
      assert.ok(user.socket.active, `${user.username} tries again by itself`);
    }
    hesitant.destroy();
    assert.deepEqual(
      readdirSync(cluster.runtimeDir).filter((name) => /\.(http|bus)$/.test(name)),
      [],
      'no worker leaves its sockets behind',
    );
  });
}

test('clients find the next server on the same port, as the same users, and nobody is left as online', async (t) => {
  const store = await emptyStore(t);
  const port = await freePort();
  const start = () => startCluster({ ...store, workers: 2, listen: `127.0.0.1:${port}`, t });
  const first = await start();
  const users = [];
  for (const [name, transports] of Object.entries(TRANSPORTS)) users.push(await ChatUser.logIn(first, { username: name, transports }));
  t.after(() => users.forEach((user) => user.close()));
  const gone = await ChatUser.logIn(first, { username: 'gone', reconnection: false });
  await first.stop();

  await assertAllAway(store, [...users, gone]);
  const second = await start();
  await until(() => users.every((user) => user.received('session').length === 2), 'everyone is back');
  for (const user of users) {
    const [before, after] = user.received('session');
    assert.deepEqual(after, before);
  }
  assert.equal((await users[0].send(users[1], 'after the restart')).ok, true);
  await users[1].got('private message', ({ content }) => content === 'after the restart');
  const late = await ChatUser.logIn(second, { username: 'late' });
  t.after(() => late.close());
  assert.equal(late.entryOf(gone).connected, false);
});

test('Ctrl-C, which every process of the group receives, is the same', async (t) => {
  const cluster = await startCluster({ detached: true, t });
  const users = await inParallel([1, 2, 3, 4, 5, 6, 7, 8], 8, (n) => ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  const workers = cluster.workerPids();
  process.kill(-cluster.pid, 'SIGINT');
  const { code } = await within(cluster.exited, 'it ends', 10_000);
  assert.equal(code, 0, cluster.tail());
  assert.ok(!workers.some(isAlive));
  await until(() => users.every((user) => user.disconnects.length > 0), 'every client was told');
  for (const user of users) assert.ok(RETURNING.includes(user.disconnects[0]), user.disconnects[0]);
  await assertAllAway(cluster.store, users);
});

test('the port is free again at once, also with connections that ended just now', async (t) => {
  const cluster = await startCluster({ t });
  const users = await inParallel([1, 2, 3], 3, (n) => ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  await cluster.stop();
  const server = createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(cluster.port, '127.0.0.1', resolve));
  server.close();
});

test('300 clients are let go within the time, and all are marked as away', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const settings = Object.values(TRANSPORTS);
  const users = await inParallel(Array.from({ length: 300 }), 20, (_, n) =>
    ChatUser.logIn(cluster, { username: `user ${n}`, transports: settings[n % 3], reconnection: false }),
  );
  t.after(() => users.forEach((user) => user.close()));
  cluster.process.kill('SIGTERM');
  const { code } = await within(cluster.exited, 'it ends', 10_000);
  assert.equal(code, 0, cluster.tail());
  await until(() => users.every((user) => user.disconnects.length > 0), 'every client was told');
  for (const user of users) assert.ok(RETURNING.includes(user.disconnects[0]), `${user.username}: ${user.disconnects[0]}`);
  await assertAllAway(cluster.store, users);
});

test('new connections are refused from the signal on, and a frozen worker does not keep the end from coming', async (t) => {
  const cluster = await startCluster({ t });
  const [frozen] = cluster.workerPids();
  process.kill(frozen, 'SIGSTOP'); // keeps the end from coming too soon to be looked at
  cluster.process.kill('SIGTERM');
  await until(
    async () => (await request(cluster, '/healthz', { limitMs: 1_000 }).catch((error) => error)).code === 'ECONNREFUSED',
    'a connection is refused',
    3_000,
  );
  assert.ok(isAlive(cluster.pid), 'while it still ends');
  await within(cluster.exited, 'it ends', 10_000);
  assert.ok(!isAlive(frozen), 'the frozen worker is gone as well');
});
