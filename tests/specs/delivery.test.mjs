// Messages between users of different workers: every way to connect, every balancing method.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { readTag } from '../harness/polling_session.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const USERS = 48;
const MESSAGES_PER_PAIR = 5;

/** Who serves each user: a worker id from the tag of a polling session, a pid for a WebSocket. */
async function workersOf(cluster, users, transports) {
  if (transports[0] === 'polling') return users.map((user) => readTag(user.engine.id).worker);
  return await cluster.servedBy(users.map((user) => user.clientEnd));
}

/** Gives every user a partner on another worker, in turn over the other workers' users. */
function partners(users, workers) {
  return users.map((_, sender) => {
    const elsewhere = users.filter((_, recipient) => workers[recipient] !== workers[sender]);
    assert.ok(elsewhere.length > 0, 'the users are spread over more than one worker');
    return elsewhere[sender % elsewhere.length];
  });
}

for (const balance of ['least-connection', 'round-robin', 'random', 'client-hash']) {
  describe(`${balance}: ${USERS} users on 4 workers`, () => {
    let cluster;
    before(async () => {
      cluster = await startCluster({ balance });
    });
    after(() => cluster?.stop());

    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      test(`over ${name}, all messages arrive once and in order, and a refresh has them`, async () => {
        // One address would be one worker under client-hash: there, every user comes from another.
        const from = (index) => (balance === 'client-hash' ? `127.0.0.${2 + index}` : undefined);
        const names = Array.from({ length: USERS }, (_, index) => `${name} ${index}`);
        const users = await inParallel(names, 16, (username, index) =>
          ChatUser.logIn(cluster, { username, transports, localAddress: from(index) }),
        );
        let refreshed = [];
        try {
          const workers = await workersOf(cluster, users, transports);
          const to = partners(users, workers);

          await Promise.all(
            users.map(async (sender, index) => {
              // All at once: the order must come from the server, not from waiting for each acknowledgement.
              const acks = await Promise.all(
                Array.from({ length: MESSAGES_PER_PAIR }, (_, n) => sender.send(to[index], `${index}:${n}`)),
              );
              for (const ack of acks) assert.equal(ack.ok, true, JSON.stringify(ack));
            }),
          );

          const expected = users.map((user) =>
            users.flatMap((sender, index) =>
              to[index] === user ? Array.from({ length: MESSAGES_PER_PAIR }, (_, n) => `${index}:${n}`) : [],
            ),
          );
          await Promise.all(
            users.map((user, index) =>
              until(() => user.inbox.length >= expected[index].length, `${user.username} has all its messages`),
            ),
          );
          // Acknowledged calls behind the messages: a second copy of one would have come before their answers.
          await Promise.all(users.map((user) => user.history(user)));
          for (const [index, user] of users.entries()) {
            const contents = user.inbox.map((message) => message.content);
            assert.deepEqual([...contents].sort(), [...expected[index]].sort(), `${user.username}: each exactly once`);
            for (const [sender] of users.entries()) {
              const numbers = contents.filter((text) => text.startsWith(`${sender}:`)).map((text) => Number(text.split(':')[1]));
              assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b), 'in order per pair');
            }
            assert.deepEqual(user.disconnects, [], `${user.username} stayed connected`);
          }

          for (const user of users) user.close();
          refreshed = await inParallel(users, 16, (user, index) =>
            ChatUser.another(cluster, user, { transports, localAddress: from(index) }),
          );
          for (const [index, user] of refreshed.entries()) {
            assert.equal(user.userID, users[index].userID, 'the same user');
            const messages = user.entryOf(to[index]).messages;
            const mine = messages.filter((message) => message.from === user.userID).map((message) => message.content);
            assert.deepEqual(mine, Array.from({ length: MESSAGES_PER_PAIR }, (_, n) => `${index}:${n}`));
            const stored = user.users.flatMap((entry) => entry.messages).filter((message) => message.to === user.userID);
            assert.equal(stored.length, expected[index].length, 'all that was received is in the history');
          }
        } finally {
          for (const user of [...users, ...refreshed]) user.close();
        }
      });
    }
  });
}

test('with a worker each, a user sees who comes, who is there and who leaves', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', workers: 2, t });
  const first = await ChatUser.logIn(cluster, { username: 'first' });
  t.after(() => first.close());
  const second = await ChatUser.logIn(cluster, { username: 'second' });
  t.after(() => second.close());
  const [a, b] = await cluster.servedBy([first.clientEnd, second.clientEnd]);
  assert.notEqual(a, b);

  const announced = await first.got('user connected', ({ userID }) => userID === second.userID);
  assert.deepEqual(announced, { userID: second.userID, username: 'second', connected: true, messages: [] });
  assert.deepEqual(
    second.users.map(({ userID, username, connected }) => ({ userID, username, connected })).sort((x, y) => x.username.localeCompare(y.username)),
    [
      { userID: first.userID, username: 'first', connected: true },
      { userID: second.userID, username: 'second', connected: true },
    ],
    'everybody, oneself included',
  );

  second.close();
  // On servers that were used before, a farewell of then may still be on its way between them.
  await first.got('user disconnected', (userID) => userID === second.userID);
  const third = await ChatUser.logIn(cluster, { username: 'third' });
  t.after(() => third.close());
  assert.equal(third.entryOf(second).connected, false, 'who left is listed as away');
});
