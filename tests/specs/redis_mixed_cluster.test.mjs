// Two JavaScript servers with the official adapter and four workers of ours on one Redis: one cluster, whoever asks.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Emitter } from '@socket.io/redis-emitter';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { Member } from '../harness/member.mjs';
import { startNodeServer } from '../harness/node_server.mjs';
import { startRedis } from '../harness/redis.mjs';
import { until, within } from '../harness/wait.mjs';

const WORKERS = 4;

/** Sorted, for comparison. */
const sorted = (values) => [...values].sort();

for (const [wire, adapter, args] of [
  ['as they are by default', {}, []],
  ['with a key of their own and answers on the specific channel', { key: 'app', publishOnSpecificResponseChannel: true }, ['--adapter-key', 'app']],
]) {
  describe(`a mixed cluster, ${wire}`, () => {
    let redis;
    let look;
    let cluster;
    let nodes;
    let ours; // two users on each worker
    let theirs; // one user on each Node server
    before(async () => {
      redis = await startRedis();
      look = redis.connect();
      cluster = await startCluster({ redis, workers: WORKERS, balance: 'round-robin', args });
      nodes = [await startNodeServer(redis, { adapter }), await startNodeServer(redis, { adapter })];
      ours = [];
      for (let n = 0; n < 2 * WORKERS; n += 1) ours.push(await ChatUser.logIn(cluster, { username: `ours ${n}` }));
      const pids = await cluster.servedBy(ours.map((user) => user.clientEnd));
      assert.equal(new Set(pids).size, WORKERS);
      theirs = [];
      for (const [n, node] of nodes.entries()) theirs.push(await ChatUser.logIn(node, { username: `theirs ${n}` }));
    });
    after(async () => {
      for (const user of [...ours, ...theirs]) user.close();
      for (const node of nodes) await node.close();
      await cluster.stop();
      await redis.stop();
    });

    const everyone = () => [...ours, ...theirs];

    /** Waits until so many processes of ours are subscribed to a room: a join from elsewhere takes a moment. */
    async function heardBy(room, workers, nsp = '/') {
      const channel = `${adapter.key ?? 'socket.io'}#${nsp}#${room}#`;
      await until(async () => (await look.call('PUBSUB', 'NUMSUB', channel))[1] === workers, `${workers} hear ${room}`);
    }

    /** What each of `users` hears of an event, until `mark`, which all hear, came. */
    function listening(users, event) {
      const heard = users.map(() => []);
      const offs = users.map((user, at) => {
        const listen = (...args) => heard[at].push(args);
        user.socket.on(event, listen);
        return () => user.socket.off(event, listen);
      });
      return async (flush) => {
        const marks = users.map((user) => new Promise((resolve) => user.socket.once('mark', resolve)));
        flush();
        await within(Promise.all(marks), 'the mark is heard by all');
        for (const off of offs) off();
        return heard;
      };
    }

    test('each counts all, and lists all sockets with id, rooms, handshake and data', async () => {
      for (const { io } of nodes) {
        assert.equal(await io.of('/').adapter.serverCount(), nodes.length + WORKERS);
        const sockets = await io.fetchSockets();
        assert.deepEqual(sorted(sockets.map(({ id }) => id)), sorted(everyone().map(({ socket }) => socket.id)));
        for (const user of ours) {
          const { handshake, rooms, data } = sockets.find(({ id }) => id === user.socket.id);
          assert.deepEqual(data, { userID: user.userID, username: user.username });
          assert.deepEqual(sorted(rooms), sorted([user.socket.id, user.userID]));
          assert.equal(handshake.address, '127.0.0.1');
          assert.equal(handshake.query.EIO, '4');
          assert.equal(handshake.headers.host, new URL(cluster.url).host);
          assert.deepEqual(handshake.auth, { username: user.username });
          assert.ok(Math.abs(Date.now() - handshake.issued) < 120_000);
          assert.ok(!JSON.stringify({ handshake, rooms, data }).includes(user.session.sessionID), 'a session is a secret');
        }
        const [found] = await io.in(ours[3].userID).fetchSockets();
        assert.equal(found.id, ours[3].socket.id);
        assert.deepEqual(await io.in(ours[3].userID).except(ours[3].socket.id).fetchSockets(), []);
        const rooms = await io.of('/').adapter.allRooms();
        for (const user of everyone()) assert.ok(rooms.has(user.userID) && rooms.has(user.socket.id));
      }
    });

    test('a cookie is told to nobody', async (t) => {
      const user = await ChatUser.logIn(cluster, { username: 'secretive', extraHeaders: { Cookie: 'secret=1', Authorization: 'secret 2' } });
      t.after(() => user.close());
      const [found] = await nodes[0].io.in(user.userID).fetchSockets();
      assert.equal(found.data.username, 'secretive');
      assert.doesNotMatch(JSON.stringify(found.handshake), /secret=1|secret 2/);
    });

    test('users of all servers message each other', async () => {
      const pairs = [[ours[0], theirs[0]], [theirs[1], ours[5]], [theirs[0], theirs[1]], [ours[1], ours[6]]];
      for (const [from, to] of pairs) {
        const content = `${from.username} to ${to.username}`;
        from.socket.emit('private message', { content, to: to.userID });
        await to.got('private message', (message) => message.content === content && message.from === from.userID);
      }
    });

    test('a remote socket is spoken to by its id', async () => {
      const [from] = nodes;
      const to = ours[2];
      const [remote] = await from.io.in(to.socket.id).fetchSockets();
      const events = listening([ours[1], to, ours[3]], 'note');
      remote.emit('note', 'by a remote socket');
      from.io.to(to.socket.id).emit('note', 'by its id');
      from.io.to([to.socket.id, ours[3].userID]).except(ours[3].socket.id).emit('note', 'of two');
      const heard = await events(() => from.io.emit('mark'));
      // A room's channel and everyone's keep no order between them.
      assert.deepEqual(heard.map((events) => sorted(events.flat())), [[], ['by a remote socket', 'by its id', 'of two'], []]);
    });

    test('sockets are joined, left and disconnected, by Node and by the emitter', async () => {
      const emitter = new Emitter(look, adapter.key ? { key: adapter.key } : {});
      const some = [ours[0], ours[1], ours[2], theirs[0]];
      for (const [name, origin] of [['node', nodes[1].io], ['emitter', emitter]]) {
        const room = `room of ${name}`;
        origin.in(some.map(({ userID }) => userID)).except(ours[2].userID).socketsJoin([room, 5]);
        await heardBy(room, 2);
        await heardBy('5', 2);
        let events = listening(everyone(), 'note');
        origin.to(room).emit('note', 1, { bin: Buffer.from([0, 255]) });
        origin.to('5').except(ours[0].userID).emit('note', 2);
        origin.to(room).to('nobody').emit('note', 3);
        let heard = await events(() => origin.emit('mark'));
        const numbers = heard.map((events) => sorted(events.map(([number]) => number)));
        assert.deepEqual(numbers.slice(0, 3), [[1, 3], [1, 2, 3], []]);
        const binary = heard[1].find(([number]) => number === 1)[1].bin;
        assert.deepEqual([...binary], [0, 255]);
        // Node's sockets are in the room 5, which is not '5' to Node.
        if (name === 'node') assert.deepEqual(numbers[2 * WORKERS], [1, 3]);

        origin.in(room).socketsLeave(room);
        await heardBy(room, 0);
        origin.in(ours.map(({ userID }) => userID)).socketsLeave(5);
        await heardBy('5', 0);
        events = listening(everyone(), 'note');
        origin.to(room).emit('note', 'to nobody');
        heard = await events(() => origin.emit('mark'));
        assert.deepEqual(heard.flat(), []);
      }

      for (const [origin, close] of [[nodes[0].io, false], [nodes[0].io, true], [emitter, true]]) {
        const user = await ChatUser.logIn(cluster, { username: 'is sent away' });
        origin.in(user.userID).disconnectSockets(close);
        await until(() => user.disconnects.length > 0, 'it is disconnected');
        assert.deepEqual(user.disconnects, ['io server disconnect']);
        for (const server of [ours[0], theirs[1]]) await server.got('user disconnected', (userID) => userID === user.userID);
        user.close();
      }
      assert.ok(everyone().every((user) => user.disconnects.length === 0), 'nobody else');
    });

    test('the emitter reaches everyone, rooms and namespaces, volatile and not', async (t) => {
      const emitter = new Emitter(look, adapter.key ? { key: adapter.key } : {});
      const members = [];
      for (let n = 0; n < WORKERS; n += 1) members.push(await Member.enter(cluster, '/rooms'));
      t.after(() => members.forEach((member) => member.close()));
      await members[0].call('join', { roomCode: 'r_0' });
      await members[1].call('join', { roomCode: 'r_1' });
      emitter.of('/rooms').to('r_0').emit('note', 'one room');
      emitter.of('/rooms').to(['r_0', 'r_1']).emit('note', 'two rooms');
      emitter.of('/rooms').except('r_0').emit('note', 'all but one');
      emitter.of('/rooms').volatile.compress(false).emit('note', 'all');
      const expected = [['one room', 'two rooms', 'all'], ['two rooms', 'all but one', 'all'], ['all but one', 'all'], ['all but one', 'all']];
      for (const [at, member] of members.entries()) {
        for (const text of expected[at]) assert.equal(await member.hears('note', text), 1);
        assert.equal(member.heard.length, expected[at].length);
      }
      const events = listening(everyone(), 'note');
      emitter.emit('note', 'to /');
      for (const heard of await events(() => emitter.emit('mark'))) assert.deepEqual(heard, [['to /']]);
    });

    test('clients of all servers acknowledge what Node asks them', async () => {
      const some = [ours[0], ours[3], ours[7], theirs[0], theirs[1]];
      for (const user of everyone()) {
        user.socket.on('question', (number, acknowledge) => acknowledge({ name: user.username, number, bin: Buffer.from([number]) }));
      }
      for (const { io } of nodes) {
        const answers = await io.to(some.map(({ userID }) => userID)).timeout(10_000).emitWithAck('question', 5);
        assert.deepEqual(sorted(answers.map(({ name }) => name)), sorted(some.map(({ username }) => username)));
        for (const { number, bin } of answers) assert.deepEqual([number, ...bin], [5, 5]);
        const all = await io.timeout(10_000).emitWithAck('question', 6);
        assert.equal(all.length, everyone().length);
      }
      // Who does not answer is missing, and nobody else.
      ours[3].socket.off('question');
      await assert.rejects(nodes[0].io.timeout(500).emitWithAck('question', 7), ({ responses }) => responses.length === everyone().length - 1);
    });

    test('an event from server to server is answered by all', async () => {
      for (const [at, { io }] of nodes.entries()) io.on('whoAreYou', (ask, answer) => answer(`node ${at} ${ask}`));
      for (const [at, { io }] of nodes.entries()) {
        const began = performance.now();
        const answers = await io.serverSideEmitWithAck('whoAreYou', '?');
        assert.equal(answers.length, nodes.length - 1 + WORKERS);
        // Ours have no such event: they answer with nothing rather than let the others wait.
        assert.deepEqual(answers.filter((answer) => answer !== undefined && answer !== null), [`node ${1 - at} ?`]);
        assert.ok(performance.now() - began < 4_000, 'not the 5 s of a timeout');
      }
    });

    test('Node asks as before when a worker has died', async () => {
      const [pid] = await cluster.servedBy([ours[7].clientEnd]);
      const lists = ours[7].received('users').length;
      cluster.killWorker(pid);
      // Back on another: by then Redis has seen the connections of the dead one end.
      await until(() => ours[7].received('users').length > lists, 'its user is back');
      await until(async () => (await nodes[0].io.of('/').adapter.serverCount()) === nodes.length + WORKERS, 'a new worker is there');
      const sockets = await nodes[0].io.fetchSockets();
      assert.ok(sockets.some(({ data }) => data.userID === ours[7].userID));
    });
  });
}
