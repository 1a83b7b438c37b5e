// What the store has of messages whose senders kept account of them (see light_user.mjs), asked for as any user
// can: by logging in, and page by page.
import assert from 'node:assert/strict';
import { ChatUser } from './client.mjs';
import { inParallel } from './wait.mjs';

const PAGE = 200;

/** All of `user`'s conversation with another, oldest first. */
export async function conversation(user, other) {
  const newestFirst = [];
  for (let before; ; ) {
    const page = await user.history(other, { limit: PAGE, before });
    assert.ok(Array.isArray(page), `a page of history: ${JSON.stringify(page)}`);
    newestFirst.push(...page.reverse());
    if (page.length < PAGE) return newestFirst.reverse();
    before = newestFirst.at(-1).id;
  }
}

/**
 * Logs in as each of the users and looks at each conversation, from both sides, in pages and in the log-in's
 * `users`: exactly what was acknowledged, once, as it was sent and in its order. `users`: all that sent
 * something, each with `session` and `sent`, of which everything is acknowledged.
 *
 * A message that was refused once may stand behind ones that its sender sent later.
 */
export async function assertAllStored(cluster, users) {
  const byId = new Map(users.map((user) => [user.userID, user]));
  const views = new Map();
  await inParallel(users, 4, async (user) => {
    const back = await ChatUser.logIn(cluster, { username: user.username, auth: { sessionID: user.session.sessionID } });
    const others = new Set(user.sent.map(({ to }) => to));
    for (const other of users) if (other.sent.some(({ to }) => to === user.userID)) others.add(other.userID);
    for (const other of others) {
      const messages = await conversation(back, { userID: other });
      const known = back.entryOf({ userID: other })?.messages;
      assert.deepEqual(known, messages, `${user.username}: the log-in's list and the pages agree`);
      views.set(`${user.userID} ${other}`, messages);
    }
    back.close();
  });
  for (const [key, messages] of views) {
    const [mine, theirs] = key.split(' ');
    assert.deepEqual(messages, views.get(`${theirs} ${mine}`), 'both sides of a conversation have the same');
    assertOneSideStored(byId.get(mine), theirs, messages);
  }
}

/** That `messages` has exactly what `sender` sent to the user `to`. */
function assertOneSideStored(sender, to, messages) {
  const stored = messages.filter(({ from }) => from === sender.userID);
  const ids = new Set(stored.map(({ id }) => id));
  const name = `what ${sender.username} sent to ${to}`;
  assert.equal(ids.size, stored.length, `${name}: nothing twice`);
  const sent = sender.sent.filter((message) => message.to === to);
  const missing = sent.filter(({ id }) => !ids.has(id));
  assert.deepEqual(missing.slice(0, 5), [], `${name}: ${missing.length} of ${sent.length} that were acknowledged are missing`);
  assert.equal(stored.length, sent.length, `${name}: nothing that was never sent`);

  const numbers = new Map(sent.map((message) => [message.id, message]));
  let last = -1;
  for (const { id, content, at } of stored) {
    const message = numbers.get(id);
    assert.equal(content, message.content, `${name}: ${id}`);
    assert.equal(at, message.at, `${name}: the time of ${id} is that of its acknowledgement`);
    if (message.refusals > 0) continue;
    assert.ok(message.n > last, `${name}: ${id} is in its place`);
    last = message.n;
  }
}
