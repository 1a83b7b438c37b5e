// Two clusters on one Redis are one chat.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { startRedis } from '../harness/redis.mjs';
import { until } from '../harness/wait.mjs';

describe('two clusters on one Redis', () => {
  let redis;
  let here;
  let there;
  before(async () => {
    redis = await startRedis();
    [here, there] = await Promise.all([startCluster({ redis, workers: 2 }), startCluster({ redis, workers: 2 })]);
  });
  after(async () => {
    await Promise.all([here.stop(), there.stop()]);
    await redis.stop();
  });

  test('users of both see and message each other, and leave for each other', async (t) => {
    const ann = await ChatUser.logIn(here, { username: 'ann' });
    const ben = await ChatUser.logIn(there, { username: 'ben' });
    t.after(() => [ann, ben].forEach((user) => user.close()));
    await ann.got('user connected', ({ userID }) => userID === ben.userID);
    assert.equal(ben.entryOf(ann).connected, true);

    const ack = await ann.send(ben, 'to the other cluster');
    assert.equal(ack.ok, true);
    assert.deepEqual(await ben.got('private message'), {
      id: ack.id,
      at: ack.at,
      content: 'to the other cluster',
      from: ann.userID,
      to: ben.userID,
    });
    assert.equal((await ben.send(ann, 'and back')).ok, true);
    assert.equal((await ann.got('private message')).content, 'and back');
    assert.deepEqual(await ann.history(ben), await ben.history(ann), 'one history');

    ben.close();
    assert.equal(await ann.got('user disconnected'), ben.userID);
  });

  test('a user with tabs on both gets each message on all, and is gone only with the last tab', async (t) => {
    const watcher = await ChatUser.logIn(here, { username: 'watcher' });
    const tab = await ChatUser.logIn(here, { username: 'tabs' });
    const otherTab = await ChatUser.another(there, tab);
    t.after(() => [watcher, tab, otherTab].forEach((user) => user.close()));
    assert.equal(otherTab.userID, tab.userID);

    await watcher.send(tab, 'hello');
    await Promise.all([tab, otherTab].map((user) => user.got('private message', ({ content }) => content === 'hello')));
    await tab.send(watcher, 'from one tab');
    await otherTab.got('private message', ({ content }) => content === 'from one tab');
    assert.equal(tab.inbox.length, 1, 'the tab that sent it is not told');

    tab.close();
    // A round trip through the store and Redis behind the closing: a wrong farewell would have come by then.
    await otherTab.send(watcher, 'still here');
    await watcher.got('private message', ({ content }) => content === 'still here');
    const late = await ChatUser.logIn(here, { username: 'late' });
    t.after(() => late.close());
    assert.equal(late.entryOf(tab).connected, true);
    assert.ok(!watcher.received('user disconnected').includes(tab.userID));
    otherTab.close();
    await watcher.got('user disconnected', (userID) => userID === tab.userID);
    assert.equal(watcher.received('user disconnected').filter((userID) => userID === tab.userID).length, 1, 'said once');
  });

  test('a session made on one is known on the other', async (t) => {
    const user = await ChatUser.logIn(here, { username: 'mover' });
    user.close();
    const moved = await ChatUser.another(there, user);
    t.after(() => moved.close());
    assert.equal(moved.userID, user.userID);
    await until(() => moved.entryOf(user).username === 'mover', 'by the same name');
  });
});
