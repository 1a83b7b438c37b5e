// kill -9 of a worker: its clients come back and have everything, the others notice nothing.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, PollingSession } from '../harness/polling_session.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const USERS = 24;

for (const [name, transports] of Object.entries(TRANSPORTS)) {
  test(`under traffic over ${name}, nothing that was acknowledged is lost`, async (t) => {
    const cluster = await startCluster({ balance: 'round-robin', t });
    const users = await inParallel(Array.from({ length: USERS }), 8, (_, n) =>
      ChatUser.logIn(cluster, { username: `user ${n}`, transports }),
    );
    t.after(() => users.forEach((user) => user.close()));

    // Pids of the workers in the order of the users, by whichever way tells.
    const byId = cluster.workersById();
    const serving = async () =>
      name === 'polling'
        ? users.map((user) => byId.get(Buffer.from(user.engine.id.slice(0, 4), 'base64url')[2]))
        : await cluster.servedBy(users.map((user) => user.clientEnd));
    const pids = await serving();
    const victim = pids[0];
    assert.ok(pids.includes(victim) && pids.some((pid) => pid !== victim));

    // Everyone sends to the next but five, one message after the other; what is not acknowledged is sent
    // again with the same id, as the protocol says.
    let running = true;
    const acked = users.map(() => []);
    const traffic = users.map(async (user, sender) => {
      const to = users[(sender + 5) % USERS];
      for (let n = 0; running; n += 1) {
        const message = { to: to.userID, content: `${sender}:${n}`, id: `m-${sender}-${n}` };
        await user.sendUntilStored(message);
        acked[(sender + 5) % USERS].push(message.content);
      }
    });
    const enough = (count) => until(() => acked.every((list) => list.length >= count), `${count} acknowledged each`);
    await enough(20);
    cluster.killWorker(victim);
    const struck = users.filter((_, n) => pids[n] === victim);
    await until(() => struck.every((user) => user.disconnects.length > 0 && user.socket.connected), 'its clients are back');
    await until(() => struck.every((user) => user.received('session').length === 2), 'and logged in again');
    const now = Math.max(...acked.map((list) => list.length));
    await enough(now + 20);
    running = false;
    await Promise.all(traffic);

    for (const [n, user] of users.entries()) {
      if (pids[n] === victim) {
        const [first, second] = user.received('session');
        assert.equal(second.userID, first.userID, 'the same user as before');
      } else {
        assert.deepEqual(user.disconnects, [], `user ${n} of another worker noticed nothing`);
      }
      // What came as events and what `users` brought after the return, together. What a sender had under way
      // when its worker died is looked for in the store: there is a test of its own for it below.
      const sender = (n + USERS - 5) % USERS;
      const seen = async () => {
        const lists = user.received('users').flatMap((list) => list.flatMap((entry) => entry.messages));
        const page = pids[sender] === victim ? await user.history(users[sender], { limit: 200 }) : [];
        return [...lists, ...user.inbox, ...page].filter((message) => message.to === user.userID).map((message) => message.content);
      };
      await until(async () => {
        const contents = await seen();
        return acked[n].every((content) => contents.includes(content));
      }, `user ${n} has all it was sent`);
      const events = user.inbox.filter((message) => message.to === user.userID).map((message) => message.id);
      assert.equal(new Set(events).size, events.length, `user ${n} got nothing twice`);
      const stored = await user.history(users[sender], { limit: 200 });
      const contents = stored.filter((message) => message.to === user.userID).map((message) => message.content);
      assert.equal(new Set(contents).size, contents.length, 'nothing is stored twice');
    }
  });
}

test('what a sender had under way when its worker died reaches a connected recipient all the same', async (t) => {
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
  const users = [];
  for (let n = 0; n < 8; n += 1) users.push(await ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  const pids = await cluster.servedBy(users.map((user) => user.clientEnd));
  const victim = pids[0];
  // Everyone of the worker that will die writes a lot to somebody of the other worker, all at once.
  const struck = users.filter((_, n) => pids[n] === victim);
  const safe = users.filter((_, n) => pids[n] !== victim);
  const COUNT = 100;
  let acknowledged = 0;
  const sending = struck.flatMap((user, sender) =>
    Array.from({ length: COUNT }, async (_, n) => {
      const message = { to: safe[sender].userID, content: `${n}`, id: `m-${sender}-${n}` };
      await user.sendUntilStored(message);
      acknowledged += 1;
    }),
  );
  await until(() => acknowledged > COUNT, 'the first are through');
  cluster.killWorker(victim);
  await Promise.all(sending);
  for (const user of safe) {
    await until(() => new Set(user.inbox.map(({ id }) => id)).size === COUNT, `${user.username} got all ${COUNT}`);
    assert.equal(user.inbox.length, COUNT, 'and none twice');
    assert.deepEqual(user.disconnects, []);
  }
});

test('a sid of the dead worker is unknown at once, before and after it was replaced', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const sessions = await inParallel(Array.from({ length: 8 }), 4, () => PollingSession.open(cluster));
  const byId = cluster.workersById();
  const [session] = sessions;
  const victim = byId.get(session.worker);
  const others = sessions.filter((other) => other.worker !== session.worker);

  // A poll that waits at the worker when it dies must end, not hang.
  await session.logIn('waiting');
  const waiting = await RawConnection.open(cluster);
  await waiting.write(`GET ${session.path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await cluster.servedBy([{ localAddress: waiting.socket.localAddress, localPort: waiting.socket.localPort }]);

  cluster.killWorker(victim);
  await waiting.lifetime(5_000);
  waiting.destroy();
  const unknown = async () => {
    const began = performance.now();
    const answer = await request(cluster, session.path, { limitMs: 5_000 });
    assert.equal(answer.status, 400);
    assert.deepEqual(JSON.parse(answer.body), { code: 1, message: 'Session ID unknown' });
    assert.ok(performance.now() - began < 2_000, 'promptly');
  };
  await unknown();
  await cluster.workersReplaced(4, [victim]);
  await unknown();
  // The replacement may have the dead worker's id, but not its sessions; those of the others live on.
  for (const other of others) await other.post('40');
  assert.equal((await request(cluster, POLLING)).status, 200);
});

test('a dead worker is replaced within a second, and the log says why', async (t) => {
  const cluster = await startCluster({ t });
  const before = cluster.workersById();
  const [id, victim] = [...before][2];
  const died = performance.now();
  cluster.killWorker(victim);
  await cluster.workersReplaced(4, [victim]);
  const took = performance.now() - died;
  assert.ok(took < 1_500, `${took} ms, of which the machine's own slowness is a part`);
  const after = cluster.workersById();
  for (const [other, pid] of before) if (other !== id) assert.equal(after.get(other), pid, 'the others are untouched');
  await cluster.line(new RegExp(`signal[^\\n]*9|SIGKILL|killed`, 'i'));
});

test('sockets that were on their way to a worker that dies go to another', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const [victim] = cluster.workerPids();
  // Frozen, it takes nothing: what is handed to it stays on the way until it dies.
  process.kill(victim, 'SIGSTOP');
  const answers = [];
  const requests = Array.from({ length: 40 }, async () => answers.push(await request(cluster, POLLING)));
  await until(() => answers.length === 30, 'the other three workers answer their share');
  cluster.killWorker(victim);
  await Promise.all(requests);
  assert.ok(answers.every((answer) => answer.status === 200), 'every single one is served');
});

test('a user who does not come back after their worker died is shown as gone', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', workers: 2, t });
  const watcher = await ChatUser.logIn(cluster, { username: 'watcher' });
  const leaving = await ChatUser.logIn(cluster, { username: 'leaving', reconnection: false });
  t.after(() => [watcher, leaving].forEach((user) => user.close()));
  const [here, there] = await cluster.servedBy([watcher.clientEnd, leaving.clientEnd]);
  assert.notEqual(here, there);
  cluster.killWorker(there);
  await until(() => leaving.disconnects.length === 1, 'the connection is gone');
  assert.equal(await watcher.got('user disconnected', undefined, 60_000), leaving.userID);
});
