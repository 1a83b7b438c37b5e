// Who is told of whom when there are more users than a roster has, and how much of the past comes with a log-in.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const names = (users) => users.map(({ username }) => username);
const ids = (messages) => messages.map(({ id }) => id);

/** Of one user, what a client was told as single events, in order. */
function toldOf(client, { userID }) {
  const of = (payload) => payload === userID || payload.userID === userID;
  const told = client.events.filter(({ event, payload }) => /^user /.test(event) && of(payload));
  return told.map(({ event }) => event);
}

describe('a roster of four', () => {
  const LIMIT = 4;
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin', workers: 3, args: ['--roster-limit', String(LIMIT)] });
  });
  after(() => cluster?.stop());

  /** New users, one after the other; they leave with the test. */
  async function logIn(t, ...usernames) {
    const users = [];
    for (const username of usernames) users.push(await ChatUser.logIn(cluster, { username }));
    t.after(() => users.forEach((user) => user.close()));
    return users;
  }

  /** By the time that this resolves, whatever was told before has come to all of these. */
  async function settled(...users) {
    for (const user of users) assert.ok((await user.send(user, 'to myself')).ok);
    const [visitor] = [await ChatUser.logIn(cluster, { username: 'sentinel' })];
    for (const user of users) {
      assert.ok((await visitor.send(user, 'done')).ok);
      await user.got('private message', ({ from }) => from === visitor.userID);
    }
    visitor.close();
  }

  test('up to the limit everybody knows everybody; beyond it, who was active last', async (t) => {
    const first = await logIn(t, 'a1', 'a2', 'a3', 'a4');
    assert.deepEqual(names(first[3].users), ['a4', 'a3', 'a2', 'a1'], 'me first, then who was active last');
    for (const later of first.slice(1)) await first[0].got('user connected', ({ userID }) => userID === later.userID);

    const [fifth, sixth] = await logIn(t, 'a5', 'a6');
    assert.deepEqual(names(fifth.users), ['a5', 'a4', 'a3', 'a2']);
    assert.deepEqual(names(sixth.users), ['a6', 'a5', 'a4', 'a3']);
    assert.ok(sixth.users.every(({ connected, messages }) => connected && messages.length === 0));
    // a4 is in the roster of all but the sixth's predecessors; a2 in no roster of the sixth.
    first[3].close();
    for (const user of [first[0], first[1], first[2], fifth, sixth]) {
      await user.got('user disconnected', (userID) => userID === first[3].userID);
    }
    first[1].close();
    for (const user of [first[0], first[2], fifth]) {
      await user.got('user disconnected', (userID) => userID === first[1].userID);
    }
    const [seventh] = await logIn(t, 'a7');
    await settled(first[0], fifth, sixth);
    assert.deepEqual(toldOf(sixth, first[1]), [], 'not in the roster');
    assert.deepEqual(toldOf(first[0], fifth), [], 'newcomers are told to nobody');
    assert.deepEqual(toldOf(fifth, sixth), []);
    // Who went was active, too.
    assert.deepEqual(names(seventh.users), ['a7', 'a2', 'a4', 'a6']);
    assert.deepEqual(seventh.users.map(({ connected }) => connected), [true, false, false, true]);
  });

  test('whom I write with I am told of, and they are introduced', async (t) => {
    const [old] = await logIn(t, 'b-old');
    await logIn(t, 'b1', 'b2', 'b3', 'b4', 'b5');
    const [young] = await logIn(t, 'b-young');
    assert.equal(young.entryOf(old), undefined);
    const tab = await ChatUser.another(cluster, old);
    t.after(() => tab.close());
    await old.send(young, 'hello', { id: 'm1' });
    await young.got('private message', ({ id }) => id === 'm1');
    const heard = young.events.map(({ event, payload }) => (payload.userID ?? payload.from) === old.userID && event);
    assert.deepEqual(heard.filter(Boolean), ['user connected', 'private message'], 'first who it is, once');
    await tab.got('user connected', ({ userID }) => userID === young.userID);
    await old.send(young, 'again', { id: 'm2' });
    await young.got('private message', ({ id }) => id === 'm2');
    assert.deepEqual(toldOf(young, old), ['user connected']);

    old.close();
    tab.close();
    await young.got('user disconnected', (userID) => userID === old.userID);
    young.close();
    await logIn(t, 'b6', 'b7', 'b8', 'b9');
    // Of the roster, but nobody's who was active last.
    const again = await ChatUser.another(cluster, young);
    t.after(() => again.close());
    const entry = again.entryOf(old);
    assert.deepEqual({ ...entry, messages: ids(entry.messages) }, {
      userID: old.userID, username: 'b-old', connected: false, messages: ['m1', 'm2'],
    });
    assert.deepEqual(names(again.users), ['b-young', 'b-old', 'b9', 'b8']);
    const back = await ChatUser.another(cluster, old);
    t.after(() => back.close());
    await again.got('user connected', ({ userID }) => userID === old.userID);
  });

  test('who writes is found among those who were active last', async (t) => {
    const [writer] = await logIn(t, 'c-writer');
    await logIn(t, 'c1', 'c2', 'c3', 'c4');
    // Those of other tests who leave are active as well.
    await until(async () => {
      await writer.send('nobody', 'I am active');
      const [user] = await logIn(t, 'c5');
      return user.entryOf(writer);
    }, 'the writer is in the roster');
  });
});

describe('in batches', () => {
  test('of who is in the roster, to a client that asks for it', async (t) => {
    const cluster = await startCluster({ balance: 'round-robin', workers: 3, t, args: ['--roster-limit', '3'] });
    const crowd = [];
    for (const username of ['b1', 'b2', 'b3', 'early']) crowd.push(await ChatUser.logIn(cluster, { username }));
    const early = crowd.at(-1);
    const auth = { username: 'batched', presence: true };
    const batched = await ChatUser.logIn(cluster, { username: 'batched', auth });
    t.after(() => [...crowd, batched].forEach((user) => user.close()));
    const batches = [];
    batched.socket.on('presence', (batch) => batches.push(batch));
    const lastOf = (user) => batches.flat().filter(({ userID }) => userID === user.userID).at(-1);
    assert.equal(batched.entryOf(early).connected, true);
    early.close();
    await until(() => lastOf(early), 'the batch has come');
    assert.deepEqual(lastOf(early), { userID: early.userID, username: 'early', connected: false });
    const back = await ChatUser.another(cluster, early);
    t.after(() => back.close());
    await until(() => lastOf(early).connected, 'and the next');
    assert.deepEqual(toldOf(batched, early), []);
    assert.equal(lastOf(crowd[0]), undefined);
  });

  test('below the limit of everybody, and all others are told one by one', async (t) => {
    const cluster = await startCluster({ balance: 'round-robin', workers: 2, t });
    const single = await ChatUser.logIn(cluster, { username: 'single' });
    const auth = { username: 'batched', presence: true };
    const batched = [];
    for (let n = 0; n < 2; n += 1) batched.push(await ChatUser.logIn(cluster, { username: 'batched', auth }));
    const batches = batched.map((user) => {
      const told = [];
      user.socket.on('presence', (batch) => told.push(batch));
      return told;
    });
    const many = await inParallel(Array.from({ length: 40 }), 20, (_, n) => ChatUser.logIn(cluster, { username: `one of many ${n}` }));
    t.after(() => [single, ...batched, ...many].forEach((user) => user.close()));
    for (const user of many) {
      await single.got('user connected', ({ userID }) => userID === user.userID);
      assert.deepEqual(toldOf(single, user), ['user connected'], 'once');
      assert.deepEqual(toldOf(user, user), [], 'nobody is told of themselves');
    }
    for (const [n, told] of batches.entries()) {
      const known = () => new Set(told.flat().map(({ userID }) => userID));
      await until(() => many.every(({ userID }) => known().has(userID)), `batches come to ${n}`);
      assert.ok(told.length < many.length, `${told.length} batches`);
      assert.deepEqual(batched[n].received('user connected'), []);
    }
  });
});

describe('all users, page by page', () => {
  let cluster;
  let users;
  let me;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin', workers: 2, args: ['--roster-limit', '3'] });
    users = await inParallel(Array.from({ length: 60 }), 8, (_, n) =>
      ChatUser.logIn(cluster, { username: `User ${String(n).padStart(2, '0')}` }),
    );
    me = await ChatUser.logIn(cluster, { username: 'Zoe Me' });
  });
  after(async () => {
    for (const user of [me, ...(users ?? [])]) user?.close();
    await cluster?.stop();
  });

  test('they come in the order of their names, everybody once', async () => {
    const found = [];
    for (let page; page?.length !== 0; found.push(...page)) {
      page = await me.call('users_page', { after: found.at(-1)?.userID, limit: 25 });
      assert.ok(page.length <= 25);
    }
    assert.deepEqual(names(found), [...users.map(({ username }) => username), 'Zoe Me']);
    assert.deepEqual(found[7], { userID: users[7].userID, username: 'User 07', connected: true, messages: [] });
  });

  test('they are found by how a word of their name begins', async () => {
    const find = async (query, more = {}) => names(await me.call('users_page', { query, ...more }));
    assert.deepEqual(await find('user 1', { limit: 3 }), ['User 10', 'User 11', 'User 12']);
    assert.deepEqual(await find('1'), Array.from({ length: 10 }, (_, n) => `User 1${n}`));
    assert.deepEqual(await find('ME'), ['Zoe Me']);
    assert.deepEqual(await find('nobody'), []);
    assert.equal((await find('user')).length, 50, 'so many unless it says how many');
    const { userID: after } = users.find(({ username }) => username === 'User 18');
    assert.deepEqual(await find('1', { after }), ['User 19']);
  });

  test('who has gone is still found', async () => {
    users[3].close();
    await until(async () => {
      const [user] = await me.call('users_page', { query: 'User 03' });
      return user.connected === false;
    }, 'shown as gone');
  });

  test('what is no request is refused', async () => {
    for (const payload of [[], 'x', { limit: 0 }, { after: 'not an id' }, { query: 7 }, { after: 'nobody' }]) {
      const { ok, error } = await me.call('users_page', payload);
      assert.deepEqual([ok, error.code], [false, 'invalid'], JSON.stringify(payload));
    }
    // Without an ack there is nothing to say.
    me.socket.emit('users_page', {});
    assert.equal((await me.call('users_page', null)).length, 50);
  });
});

describe('the past', () => {
  test('a log-in brings the newest of each conversation, and `messages` the rest', async (t) => {
    const cluster = await startCluster({ balance: 'round-robin', workers: 2, t, historyLimit: 5 });
    const [ann, ben, cyd] = await inParallel(['ann', 'ben', 'cyd'], 3, (username) => ChatUser.logIn(cluster, { username }));
    for (let n = 0; n < 12; n += 1) await ben.send(ann, 'hi', { id: `b${n}` });
    for (let n = 0; n < 3; n += 1) await cyd.send(ann, 'hi', { id: `c${n}` });
    const again = await ChatUser.another(cluster, ann);
    t.after(() => [ann, ben, cyd, again].forEach((user) => user.close()));
    assert.deepEqual(ids(again.entryOf(ben).messages), ['b7', 'b8', 'b9', 'b10', 'b11']);
    assert.deepEqual(ids(again.entryOf(cyd).messages), ['c0', 'c1', 'c2']);
    assert.deepEqual(ids(await again.history(ben, { before: 'b7', limit: 4 })), ['b3', 'b4', 'b5', 'b6']);
  });

  test('fifty, unless told otherwise', async (t) => {
    const cluster = await startCluster({ workers: 2, t, historyLimit: null });
    const [ann, ben] = await inParallel(['ann', 'ben'], 2, (username) => ChatUser.logIn(cluster, { username }));
    await inParallel(Array.from({ length: 60 }), 10, (_, n) => ben.send(ann, 'hi', { id: `m${n}` }));
    const again = await ChatUser.another(cluster, ann);
    t.after(() => [ann, ben, again].forEach((user) => user.close()));
    assert.equal(again.entryOf(ben).messages.length, 50);
    assert.equal((await again.history(ben, { limit: 200 })).length, 60);
  });

  test('--history-max is what is kept of a user', async (t) => {
    const cluster = await startCluster({ workers: 2, t, args: ['--history-max', '80'] });
    const [ann, ben] = await inParallel(['ann', 'ben'], 2, (username) => ChatUser.logIn(cluster, { username }));
    t.after(() => [ann, ben].forEach((user) => user.close()));
    for (let n = 0; n < 200; n += 1) await ben.send(ann, 'hi', { id: `m${n}` });
    let kept;
    await until(async () => {
      kept = ids(await ann.history(ben, { limit: 200 }));
      return kept.length <= 90;
    }, 'the oldest go');
    assert.ok(kept.length >= 80, `${kept.length} are kept`);
    assert.deepEqual(kept, Array.from({ length: kept.length }, (_, n) => `m${200 - kept.length + n}`));
  });
});
