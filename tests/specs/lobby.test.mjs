// The lobby: everyone hears everyone once, in order, and who comes or comes back sees what was said.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { LobbyUser, logIn } from '../harness/login.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const KEPT = 200;
const texts = (lines) => lines.map((line) => line.msg);
const numbered = (from, to) => Array.from({ length: to - from }, (_, n) => `line ${from + n}`);

describe('the lobby', () => {
  let cluster;
  let ada;
  let bob;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
    ada = await LobbyUser.enter(cluster, { cookie: await logIn(cluster, 'ada') });
    bob = await LobbyUser.enter(cluster, { cookie: await logIn(cluster, 'bob'), transports: ['polling'] });
  });
  after(async () => {
    for (const user of [ada, bob]) user?.close();
    await cluster?.stop();
  });

  test('nobody enters without a login session', async () => {
    for (const options of [{}, { cookie: 'chat_session=bogus' }, { auth: { username: 'eve' } }]) {
      await assert.rejects(LobbyUser.enter(cluster, options), { message: 'not logged in' });
    }
  });

  test('everyone hears a message, the sender too, under the name of the session', async () => {
    const began = Date.now();
    const ack = await ada.say('hello', { user: 'eve', action: 'control', at: 1 });
    assert.deepEqual(Object.keys(ack).sort(), ['at', 'id', 'ok']);
    for (const user of [ada, bob]) {
      const line = await user.hears('hello');
      assert.deepEqual(line, { action: 'message', user: 'ada', msg: 'hello', id: ack.id, at: ack.at });
    }
    assert.match(ack.id, /^[A-Za-z0-9_-]{1,64}$/);
    assert.ok(ack.at >= began - 1_000 && ack.at <= Date.now() + 1_000);
  });

  test('the payload may be its JSON text, and no ack is needed', async () => {
    ada.socket.emit('chat', JSON.stringify({ msg: 'as text' }));
    ada.socket.emit('chat', { msg: 'as object' });
    await bob.hears('as object');
    assert.deepEqual(texts(bob.messages).slice(-2), ['as text', 'as object']);
  });

  test('any text arrives as it was', async () => {
    for (const msg of ['', '<script>alert(1)</script>', 'שלום 🧑‍🚀 \u0000\n\t"\\', 'x'.repeat(64 * 1024)]) {
      assert.equal((await ada.say(msg)).ok, true);
      await bob.hears(msg);
    }
  });

  test('what cannot be said is refused, each with its code', async () => {
    const table = [
      [{}, 'invalid'],
      ['not JSON', 'invalid'],
      [{ msg: 5 }, 'invalid'],
      [null, 'invalid'],
      [{ msg: 'x', id: 'a b' }, 'invalid'],
      [{ msg: 'x'.repeat(64 * 1024 + 1) }, 'too_large'],
    ];
    // What was said before may still be on its way to her; in order.
    await ada.say('before the refusals');
    await ada.hears('before the refusals');
    const heard = ada.messages.length;
    for (const [payload, code] of table) assert.equal((await ada.call('chat', payload)).error?.code, code);
    await ada.say('after the refusals');
    await ada.hears('after the refusals');
    assert.equal(ada.messages.length, heard + 1);
  });

  test('the same id again is the same message; of another sender it is another', async () => {
    const first = await ada.say('once', { id: 'same-id' });
    assert.deepEqual(await ada.say('twice', { id: 'same-id' }), first);
    assert.equal((await bob.say('of bob', { id: 'same-id' })).id, 'same-id');
    await ada.hears('of bob');
    assert.ok(!texts(ada.messages).includes('twice'));
    assert.equal(ada.messages.filter((line) => line.msg === 'once').length, 1);
  });

  test('who comes is announced once, and sees what was said; who is back, what was missed', async (t) => {
    const carl = await LobbyUser.enter(cluster, { cookie: await logIn(cluster, 'carl') });
    t.after(() => carl.close());
    const last = await ada.say('before carl');
    const kept = await carl.call('join', 'anything');
    assert.deepEqual(kept.at(-1), { action: 'message', user: 'ada', msg: 'before carl', id: last.id, at: last.at });
    for (const user of [ada, bob, carl]) {
      const control = await until(() => user.heard.find((line) => line.action === 'control' && line.user === 'carl'), 'carl is announced');
      assert.deepEqual(Object.keys(control).sort(), ['action', 'at', 'id', 'msg', 'user']);
      assert.match(control.msg, /joined/);
    }
    await ada.say('missed 1');
    await bob.say('missed 2');
    assert.deepEqual(texts(await carl.call('join', { after: last.id })), ['missed 1', 'missed 2']);
    assert.deepEqual(await carl.call('join', { after: (await ada.say('the last')).id }), []);
    assert.deepEqual(texts(await carl.call('join', { after: 'unknown' })), texts(await carl.call('join', { after: null })));
    carl.socket.emit('join');
    await ada.say('the end');
    await bob.hears('the end');
    const announced = bob.heard.filter((line) => line.action === 'control' && line.user === 'carl');
    assert.equal(announced.length, 1, 'once, whatever it asks for later');
    assert.ok(!(await ada.call('join', {})).some((line) => line.action === 'control'), 'not kept');
  });

  test('it keeps the last 200, the same on every worker', async (t) => {
    const senders = [ada, bob];
    for (const [n, msg] of numbered(0, KEPT + 5).entries()) await senders[n % 2].say(msg);
    const tabs = await Promise.all(
      Array.from({ length: 4 }, async (_, n) => LobbyUser.enter(cluster, { cookie: await logIn(cluster, `reader ${n}`) })),
    );
    t.after(() => tabs.forEach((tab) => tab.close()));
    assert.equal(new Set(await cluster.servedBy(tabs.map((tab) => tab.clientEnd))).size, 4);
    const seen = await Promise.all(tabs.map((tab) => tab.call('join', { after: 'long gone' })));
    for (const lines of seen) assert.deepEqual(lines, seen[0]);
    assert.deepEqual(texts(seen[0]), numbered(5, KEPT + 5));
  });
});

test('many who speak at once on all workers are heard by all, once, each in order', async (t) => {
  const cluster = await startCluster({ balance: 'round-robin', t });
  const names = Array.from({ length: 8 }, (_, n) => `user ${n}`);
  const users = await Promise.all(names.map(async (name) => LobbyUser.enter(cluster, { cookie: await logIn(cluster, name) })));
  t.after(() => users.forEach((user) => user.close()));
  const said = 50;
  await inParallel(users, users.length, async (user) => {
    for (let n = 0; n < said; n += 1) assert.equal((await user.say(`${n}`)).ok, true);
  });
  const all = users.length * said;
  await until(() => users.every((user) => user.messages.length >= all), 'all have heard all');
  for (const user of users) {
    assert.equal(user.messages.length, all, 'nothing twice');
    for (const name of names) {
      const ofOne = user.messages.filter((line) => line.user === name);
      assert.deepEqual(texts(ofOne), Array.from({ length: said }, (_, n) => `${n}`), name);
    }
  }
});

test('whose worker is killed comes back as the same user and gets what was said meanwhile', async (t) => {
  const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
  const cookies = [await logIn(cluster, 'speaker'), await logIn(cluster, 'victim')];
  // One after the other, with nothing in between: on the two workers.
  const speaker = await LobbyUser.enter(cluster, { cookie: cookies[0] });
  const victim = await LobbyUser.enter(cluster, { cookie: cookies[1] });
  t.after(() => [speaker, victim].forEach((user) => user.close()));
  const [speakers, victims] = await cluster.servedBy([speaker.clientEnd, victim.clientEnd]);
  assert.notEqual(speakers, victims);
  const last = await speaker.say('before');
  await victim.hears('before');
  victim.socket.io.reconnection(false);
  cluster.killWorker(victims);
  await until(() => victim.disconnects.length > 0, 'the victim is cut off');
  for (const msg of numbered(0, 10)) await speaker.say(msg);
  const back = new Promise((resolve) => victim.socket.once('connect', resolve));
  victim.socket.connect();
  await back;
  assert.deepEqual(texts(await victim.call('join', { after: last.id })), numbered(0, 10));
  await victim.say('I am back');
  assert.equal((await speaker.hears('I am back')).user, 'victim');
});
