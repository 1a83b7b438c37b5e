// An event goes to a WebSocket at once when nothing waits before it, whatever the client did before; with the order kept.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { LobbyUser, logIn } from '../harness/login.mjs';
import { Member } from '../harness/member.mjs';
import { publish } from '../harness/publish.mjs';
import { until, within } from '../harness/wait.mjs';

const TOKEN = 'token-of-the-tests';

describe('events that go to clients at once', () => {
  let cluster;
  before(async () => {
    const args = ['--log-format', 'json', '--log-level', 'trace', '--publish-token', TOKEN];
    cluster = await startCluster({ workers: 1, args });
  });
  after(() => cluster?.stop());

  /** To how many sockets of a namespace events were delivered so far. */
  function delivered(namespace) {
    const lines = cluster.stderr.split('\n').filter((line) => line.includes('"delivered"'));
    const all = lines.map((line) => JSON.parse(line)).filter((line) => line.ns === namespace);
    const sum = (key) => all.reduce((sum, line) => sum + line[key], 0);
    return { atOnce: sum('at_once'), queued: sum('queued') };
  }

  /** Has events sent until one goes to so many sockets at once, and to no queue: what was said before may be on its way. */
  async function goesAtOnce(namespace, sockets, send) {
    await until(async () => {
      const before = delivered(namespace);
      await send();
      const now = await until(() => {
        const now = delivered(namespace);
        const [atOnce, queued] = [now.atOnce - before.atOnce, now.queued - before.queued];
        return atOnce + queued >= sockets && { atOnce, queued };
      }, 'an event is delivered');
      return now.atOnce === sockets && now.queued === 0;
    }, `an event goes to ${sockets} at once in ${namespace}`);
  }

  const toRoom = (namespace, roomCode, msg) => publish(cluster, { namespace, roomCode, event: 'note', msg }, { token: TOKEN });

  for (const kind of ['websocket', 'polling, then upgrade']) {
    const transports = TRANSPORTS[kind];

    /** The transport of a socket is the one that it will keep. */
    async function settled(client) {
      await until(() => client.socket.io.engine.transport.name === 'websocket', 'it is upgraded');
      return client;
    }

    test(`${kind}: private messages, after all that a client may ask`, async (t) => {
      const ann = await ChatUser.logIn(cluster, { username: `ann, ${kind}`, transports });
      const bea = await ChatUser.logIn(cluster, { username: `bea, ${kind}`, transports });
      t.after(() => [ann, bea].forEach((user) => user.close()));
      // A page that is large enough to go past the client's buffers.
      for (let n = 0; n < 3; n += 1) assert.equal((await ann.send(bea, 'x'.repeat(900))).ok, true);
      bea.socket.emit('private message', { content: 'no ack', to: ann.userID });
      bea.socket.emit('messages', { with: ann.userID });
      bea.socket.emit('users_page', {});
      bea.socket.emit('private message', 'not a message');
      for (const [event, payload] of [['messages', { with: ann.userID }], ['users_page', {}], ['private message', {}]]) {
        await bea.socket.timeout(10_000).emitWithAck(event, payload);
      }
      let sent = 0;
      await goesAtOnce('/', 1, async () => {
        await ann.send(bea, `message ${sent}`);
        sent += 1;
      });
      await until(() => bea.received('private message').length === 3 + sent, 'all came');
      const contents = bea.received('private message').slice(3).map(({ content }) => content);
      assert.deepEqual(contents, Array.from({ length: sent }, (_, n) => `message ${n}`));
    });

    test(`${kind}: the lobby`, async (t) => {
      const cookie = await logIn(cluster, `cid, ${kind}`);
      const cid = await settled(await LobbyUser.enter(cluster, { cookie, transports }));
      t.after(() => cid.close());
      cid.socket.emit('join', {});
      cid.socket.emit('chat', { msg: 'no ack' });
      cid.socket.emit('chat', { msg: 5 });
      await cid.call('join', {});
      await cid.call('chat', null);
      await goesAtOnce('/lobby', 1, () => cid.call('join', {}).then(() => cid.socket.emit('chat', { msg: 'hello' })));
    });

    test(`${kind}: rooms and workspaces`, async (t) => {
      const roomCode = kind.replaceAll(/[^a-z]/g, '_');
      const member = await settled(await Member.enter(cluster, '/rooms', { transports }));
      const cookie = await logIn(cluster, `dan, ${kind}`);
      const collaborator = await settled(await Member.enter(cluster, '/workspaces', { cookie, transports }));
      t.after(() => [member, collaborator].forEach((client) => client.close()));
      member.socket.emit('join', { roomCode: 'no ack' });
      member.socket.emit('join', { roomCode: 5 });
      member.socket.emit('leave', { roomCode: 'no ack' });
      await member.call('join', { roomCode: 5 });
      await member.call('join', { roomCode: 'another' });
      await member.call('leave', { roomCode: 'another' });
      await member.call('join', { roomCode });
      await goesAtOnce('/rooms', 1, () => toRoom('/rooms', roomCode, 'hello'));

      const ask = (event) => ({ event, payload: { workspaceId: 'w', appId: roomCode } });
      for (const request of [ask('SUBSCRIBE'), ask('nothing'), ask('UNSUBSCRIBE'), ask('SUBSCRIBE')]) {
        const answers = collaborator.heard.length;
        collaborator.socket.emit('application', request);
        await until(() => collaborator.heard.length > answers, 'an answer');
      }
      await goesAtOnce('/workspaces', 1, () => toRoom('/workspaces', `w:${roomCode}`, 'hello'));
    });
  }

  test('a client that reads late gets all of it whole and in order, at once or not', async (t) => {
    const roomCode = 'late';
    const late = await Member.enter(cluster, '/rooms', { reconnection: false });
    const prompt = await Member.enter(cluster, '/rooms');
    t.after(() => [late, prompt].forEach((member) => member.close()));
    for (const member of [late, prompt]) await member.call('join', { roomCode });
    const before = delivered('/rooms');
    const text = '.'.repeat(40_000);
    const answers = [];
    // 8 MB for each: more than the kernel's buffers take, and less than may wait. What it asks meanwhile is answered in between.
    late.socket.io.engine.transport.ws._socket.pause();
    for (let n = 0; n < 200; n += 1) {
      assert.equal((await toRoom('/rooms', roomCode, { n, text })).status, 200);
      if (n % 20 === 0) answers.push(new Promise((resolve) => late.socket.emit('join', { roomCode: `room ${n}` }, resolve)));
    }
    await prompt.hears('note', { n: 199, text });
    late.socket.io.engine.transport.ws._socket.resume();
    await late.hears('note', { n: 199, text });
    for (const member of [late, prompt]) {
      assert.deepEqual(member.heard, Array.from({ length: 200 }, (_, n) => ['note', { n, text }]));
    }
    assert.deepEqual(await within(Promise.all(answers), 'all is answered'), answers.map(() => ({ ok: true })));
    assert.deepEqual(late.disconnects, []);
    const now = await until(() => {
      const now = delivered('/rooms');
      return now.atOnce + now.queued === before.atOnce + before.queued + 400 && now;
    }, 'the log says so');
    // Both ways were taken.
    assert.ok(now.atOnce > before.atOnce && now.queued > before.queued, JSON.stringify([before, now]));
  });

  test('clients that poll get all through their queues', async (t) => {
    const member = await Member.enter(cluster, '/rooms', { transports: ['polling'] });
    t.after(() => member.close());
    await member.call('join', { roomCode: 'polled' });
    const before = delivered('/rooms');
    await toRoom('/rooms', 'polled', 'hello');
    await member.hears('note', 'hello');
    await until(() => delivered('/rooms').queued === before.queued + 1, 'the log says so');
    assert.equal(delivered('/rooms').atOnce, before.atOnce);
  });
});
