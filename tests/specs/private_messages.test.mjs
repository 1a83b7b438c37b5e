// The private messaging of the protocol, word for word.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { until } from '../harness/wait.mjs';

const RANDOM_ID = /^[A-Za-z0-9_-]{22,64}$/; // 128 bits need 22 characters of base64url, more in hex

describe('private messages', () => {
  let cluster;
  let ann;
  let ben;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
    ann = await ChatUser.logIn(cluster, { username: 'ann' });
    ben = await ChatUser.logIn(cluster, { username: 'ben' });
  });
  after(async () => {
    for (const user of [ann, ben]) user?.close();
    await cluster?.stop();
  });

  async function refused(auth) {
    await assert.rejects(ChatUser.logIn(cluster, { auth }), { message: 'invalid username' }, JSON.stringify(auth));
  }

  test('a session has two random ids of its own', () => {
    assert.match(ann.session.sessionID, RANDOM_ID);
    assert.match(ann.session.userID, RANDOM_ID);
    assert.deepEqual(Object.keys(ann.session).sort(), ['sessionID', 'userID']);
    assert.equal(new Set([ann, ben].flatMap((user) => Object.values(user.session))).size, 4);
    assert.ok(!JSON.stringify([ann.users, ann.received('user connected')]).includes(ben.session.sessionID), 'secret');
  });

  test('a user needs a name of 1 to 64 characters after trimming, or a session that exists', async () => {
    for (const auth of [undefined, {}, { username: '' }, { username: '   ' }, { username: 'x'.repeat(65) }, { username: 7 }]) {
      await refused(auth);
    }
    await refused({ sessionID: 'nobodys' });
    await refused({ sessionID: '../../etc/passwd' });
    await refused({ sessionID: { $ne: '' } });
    for (const username of ['x', 'x'.repeat(64), `  ${'é'.repeat(64)}  `, '名前']) {
      const user = await ChatUser.logIn(cluster, { username });
      assert.equal(user.entryOf(user).username, username.trim());
      user.close();
    }
  });

  test('an unknown session with a name is a new session', async (t) => {
    const user = await ChatUser.logIn(cluster, { auth: { sessionID: 'nobodys', username: 'newcomer' } });
    t.after(() => user.close());
    assert.notEqual(user.session.sessionID, 'nobodys');
    assert.equal(user.entryOf(user).username, 'newcomer');
  });

  test('a message carries id, content, from, to and at, and its ack repeats id and at', async () => {
    const began = Date.now();
    const ack = await ann.send(ben, 'plain');
    assert.deepEqual(Object.keys(ack).sort(), ['at', 'id', 'ok']);
    assert.match(ack.id, /^[A-Za-z0-9_-]{1,64}$/);
    assert.ok(ack.at >= began - 1_000 && ack.at <= Date.now() + 1_000);
    assert.deepEqual(await ben.got('private message', ({ id }) => id === ack.id), {
      id: ack.id,
      content: 'plain',
      from: ann.userID,
      to: ben.userID,
      at: ack.at,
    });
    assert.deepEqual((await ann.history(ben)).at(-1), { id: ack.id, content: 'plain', from: ann.userID, to: ben.userID, at: ack.at });
  });

  test('without an acknowledgement callback a message is delivered all the same', async () => {
    ann.socket.emit('private message', { content: 'no callback', to: ben.userID });
    await ben.got('private message', ({ content }) => content === 'no callback');
  });

  test('the same id again is acknowledged the same, stored and delivered once', async () => {
    const id = 'my-own_id-1';
    const first = await ann.send(ben, 'once', { id });
    assert.equal(first.id, id);
    const again = await Promise.all([ann.send(ben, 'once', { id }), ann.send(ben, 'once', { id })]);
    assert.deepEqual(again, [first, first]);
    // From another tab, on another worker, after a return: the id is the sender's, not the connection's.
    const tab = await ChatUser.another(cluster, ann);
    assert.deepEqual(await tab.send(ben, 'once', { id }), first);
    tab.close();
    const marker = await ann.send(ben, 'behind it');
    await ben.got('private message', (message) => message.id === marker.id);
    assert.equal(ben.inbox.filter((message) => message.id === id).length, 1);
    assert.equal((await ann.history(ben)).filter((message) => message.id === id).length, 1);
    // Another sender may use the same id.
    assert.equal((await ben.send(ann, 'also', { id })).ok, true);
    await ann.got('private message', (message) => message.id === id);
  });

  test('many at once with one id are stored once', async () => {
    const acks = await Promise.all(Array.from({ length: 20 }, () => ann.send(ben, 'race', { id: 'race' })));
    assert.equal(new Set(acks.map((ack) => JSON.stringify(ack))).size, 1, JSON.stringify(acks[0]));
    assert.equal((await ben.history(ann)).filter((message) => message.id === 'race').length, 1);
  });

  test('what cannot be sent is refused by its acknowledgement, and not stored', async () => {
    const before = await ann.history(ben);
    const invalid = [
      undefined,
      null,
      'text',
      42,
      [],
      {},
      { content: 'nobody' },
      { to: ben.userID },
      { content: 7, to: ben.userID },
      { content: null, to: ben.userID },
      { content: { deep: 1 }, to: ben.userID },
      { content: 'x', to: '' },
      { content: 'x', to: 7 },
      { content: 'x', to: [ben.userID] },
      { content: 'x', to: 'not a valid id' },
      { content: 'x', to: 'a'.repeat(65) },
      { content: 'x', to: `${ben.userID}#` },
      { content: 'x', to: ben.userID, id: '' },
      { content: 'x', to: ben.userID, id: 'a'.repeat(65) },
      { content: 'x', to: ben.userID, id: 'a b' },
      { content: 'x', to: ben.userID, id: 7 },
    ];
    for (const payload of invalid) {
      const ack = await ann.call('private message', ...(payload === undefined ? [] : [payload]));
      assert.equal(ack.ok, false, JSON.stringify(payload));
      assert.equal(ack.error.code, 'invalid', JSON.stringify(payload));
      assert.equal(typeof ack.error.message, 'string');
    }
    const ack = await ann.send(ben, 'x'.repeat(64 * 1024 + 1));
    assert.equal(ack.error.code, 'too_large');
    assert.deepEqual(await ann.history(ben), before);
    // Bytes count, not characters: 64 KiB exactly is fine, in one byte a letter and in two.
    assert.equal((await ann.send(ben, 'x'.repeat(64 * 1024))).ok, true);
    assert.equal((await ann.send(ben, 'é'.repeat(32 * 1024))).ok, true);
    assert.equal((await ann.send(ben, `é${'x'.repeat(64 * 1024 - 1)}`)).error.code, 'too_large');
    assert.equal((await ann.send(ben, '')).ok, true, 'an empty message is a message');
    assert.deepEqual(ann.disconnects, []);
  });

  test('the name in a payload is ignored: the sender is the session', async () => {
    const ack = await ann.send(ben, 'honest', { from: ben.userID, at: 1 });
    const message = await ben.got('private message', ({ id }) => id === ack.id);
    assert.equal(message.from, ann.userID);
    assert.equal(message.at, ack.at);
    assert.ok(message.at > 1);
  });

  test('history comes in pages, the newest last', async (t) => {
    const [one, two] = [await ChatUser.logIn(cluster, { username: 'one' }), await ChatUser.logIn(cluster, { username: 'two' })];
    t.after(() => [one, two].forEach((user) => user.close()));
    const ids = [];
    for (let n = 0; n < 25; n += 1) ids.push((await (n % 2 ? one : two).send(n % 2 ? two : one, `${n}`)).id);
    await one.send(ann, 'another conversation');
    const page = async (range) => (await one.history(two, range)).map((message) => message.id);
    assert.deepEqual(await page({ limit: 10 }), ids.slice(15));
    assert.deepEqual(await page({ limit: 10, before: ids[15] }), ids.slice(5, 15));
    assert.deepEqual(await page({ limit: 10, before: ids[5] }), ids.slice(0, 5));
    assert.deepEqual(await page({ before: ids[0] }), []);
    assert.deepEqual(await page({}), ids);
    assert.deepEqual((await two.history(one)).map((message) => message.id), ids, 'the same for both');
    assert.deepEqual(await ann.history(two), [], 'and for nobody else');
  });

  test('a login sees what is sent while it is under way, once', async () => {
    const target = await ChatUser.logIn(cluster, { username: 'target' });
    let sent = 0;
    let running = true;
    const flood = (async () => {
      while (running) {
        await ann.send(target, `flood ${sent}`);
        sent += 1;
      }
    })();
    const tabs = [];
    for (let n = 0; n < 10; n += 1) tabs.push(await ChatUser.another(cluster, target));
    running = false;
    await flood;
    for (const tab of [target, ...tabs]) {
      await until(() => tab.inbox.some(({ content }) => content === `flood ${sent - 1}`) || tab.entryOf(ann).messages.length === sent, 'the last');
      const all = [...tab.entryOf(ann).messages, ...tab.inbox].map(({ content }) => content);
      assert.deepEqual(all, Array.from({ length: sent }, (_, n) => `flood ${n}`), 'snapshot and events meet without a gap or a double');
      tab.close();
    }
  });

  test('unknown events and binary attachments harm nobody', async () => {
    ann.socket.emit('no such event', { a: 1 });
    ann.socket.emit('private message', Buffer.alloc(1000), { binary: Buffer.from('x') });
    const ack = await ann.call('private message', { content: Buffer.from('bytes'), to: ben.userID });
    assert.equal(ack.error.code, 'invalid');
    assert.equal((await ann.send(ben, 'after that')).ok, true);
    assert.deepEqual(ann.disconnects, []);
  });
});
