// A client that stays connected and reads nothing: it is cut, its user is shown as gone, and nobody else waits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { residentKiB } from '../harness/proc.mjs';
import { until } from '../harness/wait.mjs';

test('a reader that stalls is cut long before the ping would notice, and costs bounded memory', async (t) => {
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
  const sender = await ChatUser.logIn(cluster, { username: 'sender' });
  const stalled = await ChatUser.logIn(cluster, { username: 'stalled', reconnection: false });
  const reader = await ChatUser.logIn(cluster, { username: 'reader' });
  t.after(() => [sender, stalled, reader].forEach((user) => user.close()));
  const [, worker] = await cluster.servedBy([sender.clientEnd, stalled.clientEnd]);
  const before = residentKiB(worker);

  stalled.engine.transport.ws._socket.pause();
  const began = performance.now();
  // 30 MB: more than the kernel's buffers hold, so that the worker must hold or drop the rest.
  const content = '.'.repeat(60_000);
  for (let n = 0; n < 500; n += 1) assert.equal((await sender.send(stalled, content)).ok, true);
  await sender.send(reader, 'past the stalled one');
  await reader.got('private message');
  assert.equal(await sender.got('user disconnected', undefined, 40_000), stalled.userID);
  const took = performance.now() - began;
  assert.ok(took < 35_000, `${took} ms; the ping alone takes up to 45 s`);
  await until(() => residentKiB(worker) - before < 60_000, 'what was held for it is bounded');

  // All is in the store, for when it comes back.
  const back = await ChatUser.another(cluster, stalled);
  t.after(() => back.close());
  assert.equal((await back.history(sender, { limit: 200 })).length, 200);
});

for (const [name, stall] of [
  ['a WebSocket that is not read', (user) => user.engine.transport.ws._socket.pause()],
  // Its library polls no more; the poll that waits takes the first messages.
  ['a client that polls no more', (user) => (user.engine.transport.doPoll = () => {})],
]) {
  test(`${name} is sent away when --max-buffered bytes wait for it, and finds all when it is back`, async (t) => {
    const cluster = await startCluster({ workers: 2, args: ['--max-buffered', 2_000_000], t });
    const sender = await ChatUser.logIn(cluster, { username: 'sender' });
    const transports = name.includes('polls') ? ['polling'] : ['websocket'];
    const stalled = await ChatUser.logIn(cluster, { username: 'stalled', transports, reconnection: false });
    t.after(() => [sender, stalled].forEach((user) => user.close()));
    stall(stalled);
    const began = performance.now();
    const content = '.'.repeat(60_000);
    let sent = 0;
    // The kernel's buffers hold some megabytes, too.
    while (sender.received('user disconnected').length === 0) {
      assert.equal((await sender.send(stalled, content)).ok, true);
      sent += 1;
      assert.ok(sent < 400, `${sent} messages of 60 kB wait for it`);
    }
    const took = performance.now() - began;
    assert.ok(took < 14_000, `${took} ms: the write timeout is 15 s`);
    const back = await ChatUser.another(cluster, stalled);
    t.after(() => back.close());
    assert.equal((await back.history(sender, { limit: 200 })).length, Math.min(sent, 200));
  });
}
