// Who is there: tabs, refreshes, farewells.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { inParallel, until } from '../harness/wait.mjs';

describe('presence', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
  });
  after(() => cluster?.stop());

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`over ${name}: gone only when the last of a user's tabs on any worker is`, async (t) => {
      const watcher = await ChatUser.logIn(cluster, { username: `watcher of ${name}`, transports });
      const first = await ChatUser.logIn(cluster, { username: `tabs over ${name}`, transports });
      const tabs = [first];
      for (let n = 0; n < 3; n += 1) tabs.push(await ChatUser.another(cluster, first, { transports }));
      t.after(() => [watcher, ...tabs].forEach((user) => user.close()));
      assert.deepEqual([...new Set(tabs.map((tab) => tab.userID))], [first.userID]);
      assert.equal(watcher.received('user connected').filter(({ userID }) => userID === first.userID).length >= 1, true);

      // Every tab of the recipient gets it once; of the sender's tabs, the others.
      await watcher.send(first, 'to all tabs');
      await Promise.all(tabs.map((tab) => tab.got('private message', ({ content }) => content === 'to all tabs')));
      await tabs[2].send(watcher, 'from tab 2');
      await watcher.got('private message', ({ content }) => content === 'from tab 2');
      for (const n of [0, 1, 3]) await tabs[n].got('private message', ({ content }) => content === 'from tab 2');
      assert.ok(!tabs[2].inbox.some(({ content }) => content === 'from tab 2'));

      for (const [n, tab] of tabs.slice(0, 3).entries()) {
        tab.close();
        // By the time this came round, a farewell for the closed tab would have come too.
        await tabs[3].send(watcher, `after ${n}`);
        await watcher.got('private message', ({ content }) => content === `after ${n}`);
        assert.ok(!watcher.received('user disconnected').includes(first.userID), `${n + 1} of 4 tabs closed`);
      }
      tabs[3].close();
      await watcher.got('user disconnected', (userID) => userID === first.userID);
      for (const tab of tabs) assert.equal(tab.inbox.filter(({ content }) => content === 'to all tabs').length, 1);
    });
  }

  test('a connection that is cut is a farewell too, and a return is announced', async (t) => {
    const watcher = await ChatUser.logIn(cluster, { username: 'watching cuts' });
    // Back so soon that the old connection's end is found later, it would not have been gone at all.
    const later = { reconnectionDelay: 2_000, reconnectionDelayMax: 2_000, randomizationFactor: 0 };
    const cut = await ChatUser.logIn(cluster, { username: 'cut', ...later });
    t.after(() => [watcher, cut].forEach((user) => user.close()));
    cut.engine.transport.ws._socket.destroy();
    await watcher.got('user disconnected', (userID) => userID === cut.userID);
    const connected = () => watcher.received('user connected').filter(({ userID }) => userID === cut.userID).length;
    await watcher.got('user connected', () => connected() === 2);
    assert.equal(cut.received('session').length, 2, 'the client came back by itself');
    assert.equal(cut.received('session')[1].userID, cut.received('session')[0].userID);
  });

  test('what was missed comes in `users` on return, never again as events', async (t) => {
    const sender = await ChatUser.logIn(cluster, { username: 'sender' });
    const away = await ChatUser.logIn(cluster, { username: 'away' });
    await sender.send(away, 'seen');
    await away.got('private message');
    away.close();
    await sender.got('user disconnected', (userID) => userID === away.userID);
    await sender.send(away, 'missed');
    const back = await ChatUser.another(cluster, away);
    t.after(() => [sender, back].forEach((user) => user.close()));
    assert.deepEqual(back.entryOf(sender).messages.map(({ content }) => content), ['seen', 'missed']);
    await sender.send(back, 'live');
    await back.got('private message', ({ content }) => content === 'live');
    assert.deepEqual(back.inbox.map(({ content }) => content), ['live']);
  });
});

// At the same time: most of it is waiting.
describe('presence over the end of a worker', { concurrency: true }, () => {
  for (const [what, signal] of [['leaves', 'SIGTERM'], ['dies', 'SIGKILL']]) {
    test(`when a worker ${what}, who comes back is never gone, and who does not is, once`, async (t) => {
      const own = await startCluster({ balance: 'round-robin', workers: 2, t });
      const watcher = await ChatUser.logIn(own, { username: 'watcher' });
      const comes = await ChatUser.logIn(own, { username: 'comes back' });
      const [here, there] = await own.servedBy([watcher.clientEnd, comes.clientEnd]);
      assert.notEqual(here, there);
      const others = await inParallel([1, 2, 3, 4], 1, (n) => ChatUser.logIn(own, { username: `other ${n}`, reconnection: false }));
      t.after(() => [watcher, comes, ...others].forEach((user) => user.close()));
      const serving = await own.servedBy(others.map((user) => user.clientEnd));
      const stays = others.filter((_, n) => serving[n] === there).map(({ userID }) => userID).toSorted();
      assert.ok(stays.length > 0, 'somebody is there who does not come back');

      process.kill(there, signal);
      await until(() => comes.received('session').length === 2, 'it is back');
      const gone = () => watcher.received('user disconnected').toSorted();
      await until(() => gone().length === stays.length, 'those who do not come back are gone', 60_000);
      assert.deepEqual(gone(), stays);
      // By the time that this came round, another farewell would have come too.
      await comes.send(watcher, 'still here');
      await watcher.got('private message', ({ content }) => content === 'still here');
      assert.deepEqual(gone(), stays);
    });
  }
});
