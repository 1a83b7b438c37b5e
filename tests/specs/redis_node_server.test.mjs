// A JavaScript server in the way of the original example, on the same Redis: its users and ours are one chat.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { startNodeServer } from '../harness/node_server.mjs';
import { startRedis } from '../harness/redis.mjs';

describe('a Node server of the original example on the same Redis', () => {
  let redis;
  let cluster;
  let node;
  before(async () => {
    redis = await startRedis();
    cluster = await startCluster({ redis });
    node = await startNodeServer(redis);
  });
  after(async () => {
    await node?.close();
    await cluster?.stop();
    await redis.stop();
  });

  test('users of both see and message each other, and leave for each other', async (t) => {
    const rust = await ChatUser.logIn(cluster, { username: 'on rust' });
    const js = await ChatUser.logIn(node, { username: 'on node' });
    t.after(() => [rust, js].forEach((user) => user.close()));
    await rust.got('user connected', ({ userID }) => userID === js.userID);
    assert.equal(js.entryOf(rust).connected, true);

    const ack = await rust.send(js, 'from rust');
    assert.equal((await js.got('private message')).content, 'from rust');
    js.socket.emit('private message', { content: 'from node', to: rust.userID });
    assert.deepEqual(await rust.got('private message'), { content: 'from node', from: js.userID, to: rust.userID });

    // Our history shows both; what Node stored has no id and no time.
    const history = await rust.history(js);
    assert.deepEqual(history, [
      { id: ack.id, content: 'from rust', from: rust.userID, to: js.userID, at: ack.at },
      { content: 'from node', from: js.userID, to: rust.userID },
    ]);

    // A refresh on the other server is the same user with the same messages.
    const moved = await ChatUser.another(cluster, js);
    assert.equal(moved.userID, js.userID);
    assert.deepEqual(moved.entryOf(rust).messages.map(({ content }) => content), ['from rust', 'from node']);
    moved.close();

    js.close();
    await rust.got('user disconnected', (userID) => userID === js.userID);
    const watcher = await ChatUser.logIn(node, { username: 'watcher on node' });
    t.after(() => watcher.close());
    rust.close();
    await watcher.got('user disconnected', (userID) => userID === rust.userID);
  });

  test('who has a tab on each server is gone with the last of them, whichever that is', async (t) => {
    const watchers = [await ChatUser.logIn(cluster, { username: 'watches rust' }), await ChatUser.logIn(node, { username: 'watches node' })];
    t.after(() => watchers.forEach((user) => user.close()));
    const isListed = async (server, user) => {
      const looker = await ChatUser.logIn(server, { username: 'looks' });
      looker.close();
      return looker.entryOf(user).connected;
    };
    for (const [first, last] of [[cluster, node], [node, cluster]]) {
      const there = await ChatUser.logIn(last, { username: 'is on both' });
      const here = await ChatUser.another(first, there);
      assert.equal(here.userID, there.userID);
      here.close();
      // Another's end, on the same server, is told behind it.
      const other = await ChatUser.logIn(first, { username: 'comes and goes' });
      other.close();
      for (const watcher of watchers) {
        await watcher.got('user disconnected', (userID) => userID === other.userID);
        assert.ok(!watcher.received('user disconnected').includes(there.userID));
      }
      assert.equal(await isListed(cluster, there), true);
      assert.equal(await isListed(node, there), true);
      there.close();
      for (const watcher of watchers) await watcher.got('user disconnected', (userID) => userID === there.userID);
    }
  });

  test('Node\'s questions to all servers are not held up by us', async (t) => {
    // Being counted without answering would make these fail after 5 s.
    const rust = await ChatUser.logIn(cluster, { username: 'silent' });
    const js = await ChatUser.logIn(node, { username: 'asking' });
    t.after(() => [rust, js].forEach((user) => user.close()));
    const began = performance.now();
    js.close();
    await rust.got('user disconnected', (userID) => userID === js.userID);
    assert.ok(performance.now() - began < 4_000, 'the example asks for the remaining sockets before it says so');
  });
});
