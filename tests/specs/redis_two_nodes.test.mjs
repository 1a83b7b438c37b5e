// Two nodes on one Redis that know each other's address and one secret: whichever a request comes to, it is answered
// by the one that has its session. And what happens when one of them is not there, or somebody pretends to be one.
import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { Chatter } from '../harness/chatter.mjs';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { BEAT_MS, reaches } from '../harness/nodes.mjs';
import { PollingSession, readTag } from '../harness/polling_session.mjs';
import { isStopped } from '../harness/proc.mjs';
import { BehindProxy, textHeader } from '../harness/proxy_header.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { freePort, startRedis } from '../harness/redis.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

const SECRET = 'only the nodes of this test know';
const HEAD_TIMEOUT_S = 2;
const UNKNOWN = { code: 1, message: 'Session ID unknown' };

/** A node of two workers; `advertise` is its listener's own address unless it is said. */
async function startNode(redis, name, { host = '127.0.0.1', advertise, secret = SECRET, more = [], ...options } = {}) {
  const listen = `${host}:${await freePort()}`;
  const node = await startCluster({
    redis,
    workers: 2,
    balance: 'round-robin',
    listen,
    args: ['--node-name', name, '--advertise', advertise ?? listen, '--cluster-secret', secret, '--head-timeout', `${HEAD_TIMEOUT_S}s`, ...more],
    ...options,
  });
  const [address, port] = (advertise ?? listen).split(':');
  node.relay = { host: address, port: Number(port) };
  return node;
}

/** The answer is that the session is unknown, and comes within the time. */
async function assertUnknown(node, session, limitMs) {
  for (const options of [{}, { method: 'POST', body: '3' }]) {
    const began = performance.now();
    const answer = await request(node, session.path, options);
    const took = performance.now() - began;
    assert.equal(answer.status, 400, answer.body);
    assert.deepEqual(JSON.parse(answer.body), UNKNOWN);
    assert.ok(took < limitMs, `${took} ms`);
  }
}

/** The same session, as if its client were connected to another node. */
function through(node, session, options) {
  const elsewhere = new PollingSession(node, options);
  elsewhere.sid = session.sid;
  return elsewhere;
}

const pidsOf = (node) => [node.pid, ...node.workerPids()];

/** A caller that knows the bytes: `{hello, answer, last}` of one conversation, and the connection on which HTTP follows. */
async function callRelay(address, owner, secret) {
  const hello = Buffer.concat([Buffer.from([0, ...Buffer.from('sh'), 1, owner.node >> 8, owner.node & 255, owner.worker, 0]), randomBytes(16)]);
  const connection = await RawConnection.open(address);
  await connection.write(hello);
  await until(() => connection.received.length >= 48 || connection.closed, 'the owner answers a hello');
  const answer = connection.received.subarray(0, 48);
  const [nonce, proof] = [answer.subarray(0, 16), answer.subarray(16)];
  const prove = (role, ...said) => {
    const hmac = createHmac('sha256', secret).update(`chat-cluster relay 1: ${role}\0`);
    said.forEach((part) => hmac.update(part));
    return hmac.digest();
  };
  const client = Buffer.from([0, ...Buffer.from('sr'), 1, 0, 4, 192, 0, 2, 1, ...Buffer.alloc(12), 4, 1]);
  const last = Buffer.concat([prove('caller', hello, nonce, client), client]);
  return { connection, hello, answer, proof, expected: prove('owner', hello, nonce), last };
}

describe('two nodes', () => {
  let redis;
  let a;
  let b;
  before(async () => {
    redis = await startRedis();
    const advertise = `127.0.0.2:${await freePort()}`;
    [a, b] = await Promise.all([startNode(redis, 'a'), startNode(redis, 'b', { host: '127.0.0.2', advertise })]);
    await Promise.all([reaches(a, b), reaches(b, a)]);
  });
  after(async () => {
    await Promise.all([a?.stop(), b?.stop()]);
    await redis?.stop();
  });

  test('each has a number, which stands in its session ids and in Redis', async (t) => {
    const [ours, theirs] = [readTag((await PollingSession.open(a)).sid).node, readTag((await PollingSession.open(b)).sid).node];
    assert.notEqual(ours, theirs);
    const register = await redis.connect().hgetall('cc:nodes');
    assert.deepEqual(Object.keys(register).toSorted(), ['a', 'b']);
    const entry = JSON.parse(register.a);
    assert.deepEqual([entry.id, entry.addr], [ours, `${a.relay.host}:${a.relay.port}`]);
    assert.ok(!JSON.stringify(register).includes(SECRET));

    const double = await startNode(redis, 'a', { t });
    const other = readTag((await PollingSession.open(double)).sid).node;
    assert.ok(![ours, theirs].includes(other), 'a second one of the same name, while the first lives, has another number');
  });

  test('each answers requests of the other\'s sessions: polls, POSTs, and 900 kB either way', async () => {
    for (const [owner, other] of [[a, b], [b, a]]) {
      const own = await PollingSession.open(owner);
      const session = through(other, own);
      const { userID } = await session.logIn('elsewhere');
      const contents = Array.from({ length: 14 }, (_, n) => `${n}`.padEnd(64_000, '.'));
      await session.post(...contents.map((content) => `42${JSON.stringify(['private message', { content, to: userID }])}`));
      const history = await session.call(7, 'messages', { with: userID });
      assert.deepEqual(history.map(({ content }) => content), contents);
      // The same client, on the node that has it.
      assert.equal((await own.call(8, 'messages', { with: userID })).length, 14);
      await session.close();
      await assertUnknown(owner, own, 2_000);
    }
  });

  test('a session of one node upgrades through the other, and what follows is carried unharmed', async (t) => {
    const session = await PollingSession.open(b);
    const recipient = await ChatUser.logIn(b, { username: 'recipient' });
    t.after(() => recipient.close());
    const { userID } = await through(a, session).logIn('upgrading');
    const ws = new WebSocket(`ws://${a.host}:${a.port}${session.path.replace('polling', 'websocket')}`);
    t.after(() => ws.terminate());
    const packets = [];
    ws.on('message', (packet) => packets.push(packet.toString()));
    await within(once(ws, 'open'), 'the upgrade is relayed');
    ws.send('2probe');
    await until(() => packets.includes('3probe'), 'the probe is answered');
    ws.send('5');
    const content = '☃'.padEnd(60_000, '.');
    for (let n = 0; n < 20; n += 1) ws.send(`42${n}${JSON.stringify(['private message', { content: content + n, to: recipient.userID }])}`);
    await until(() => recipient.inbox.length === 20, 'all of it arrives');
    assert.ok(recipient.inbox.every((message, n) => message.content === content + n));
    for (let n = 0; n < 20; n += 1) await recipient.send(userID, content + n);
    await until(() => packets.filter((packet) => packet.startsWith('42["private message"')).length === 20, 'and back');
    ws.close();
    await recipient.got('user disconnected', (gone) => gone === userID);
  });

  test('behind a balancer that takes them in turn, official clients chat without an error', async (t) => {
    let turn = 0;
    const balancer = net.createServer((client) => {
      const node = [a, b][turn++ % 2];
      const server = net.connect(node.port, node.host);
      for (const [from, to] of [[client, server], [server, client]]) {
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.on('close', () => to.destroy());
      }
    });
    balancer.listen(0, '127.0.0.1');
    await once(balancer, 'listening');
    t.after(() => balancer.close());
    const server = { host: '127.0.0.1', port: balancer.address().port, url: `http://127.0.0.1:${balancer.address().port}` };
    const ways = [TRANSPORTS.polling, TRANSPORTS['polling, then upgrade']];
    const users = await inParallel(Array.from({ length: 24 }), 8, async (_, n) => {
      const user = await ChatUser.logIn(server, { username: `turn ${n}`, transports: ways[n % 2] });
      t.after(() => user.close());
      return user;
    });
    assert.equal(new Set(users.map((user) => readTag(user.engine.id).node)).size, 2, 'there are users on both');
    const chatter = Chatter.start(t, users, { pauseMs: 300 });
    await until(() => chatter.sent.length > 250, '250 messages', 40_000);
    await chatter.finish();
    chatter.assertFlawless();
  });

  test('who knows the secret is let in, and what was overheard of it opens nothing', async (t) => {
    const { sid } = await PollingSession.open(b);
    const owner = readTag(sid);
    const { connection, hello, answer, proof, expected, last } = await callRelay(b.relay, owner, SECRET);
    t.after(() => connection.destroy());
    assert.deepEqual(proof, expected, 'the owner proves that it is one of them');
    assert.ok(!connection.text.includes(SECRET));
    const healthz = 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n';
    await connection.write(last);
    await connection.write(healthz);
    await until(() => connection.text.slice(48).startsWith('HTTP/1.1 200 '), 'it is served');

    const attempts = {
      'all that the caller said before, again': [hello, last],
      'the owner\'s own proof, sent back': [hello, Buffer.concat([proof, last.subarray(32)])],
      'no proof at all': [hello, Buffer.alloc(56)],
    };
    for (const [name, [first, second]] of Object.entries(attempts)) {
      const replay = await RawConnection.open(b.relay);
      await replay.write(first);
      await until(() => replay.received.length >= 48, 'the owner answers any hello');
      assert.notDeepEqual(replay.received.subarray(0, 48), answer, `${name}: its own part is new each time`);
      await replay.write([second, healthz]);
      await replay.lifetime();
      assert.equal(replay.received.length, 48, `${name}: not a byte more`);
      replay.destroy();
    }
    // Another client's address behind the right proof is not what was proven.
    const changed = await callRelay(b.relay, owner, SECRET);
    changed.last[32 + 6] ^= 1;
    await changed.connection.write([changed.last, healthz]);
    await changed.connection.lifetime();
    assert.equal(changed.connection.received.length, 48);
    const wrong = await callRelay(b.relay, owner, `${SECRET}!`);
    await wrong.connection.write([wrong.last, healthz]);
    await wrong.connection.lifetime();
    assert.equal(wrong.connection.received.length, 48);
  });

  test('whoever else calls where nodes call each other is closed within the head timeout, and harms nobody', async () => {
    const workers = [a, b].map((node) => node.workerPids());
    const session = await PollingSession.open(b);
    const own = readTag(session.sid);
    const hello = (node, worker) => Buffer.from([0, ...Buffer.from('sh'), 1, node >> 8, node & 255, worker, 0, ...randomBytes(16)]);
    const openings = {
      'nothing': Buffer.alloc(0),
      'half a hello': hello(own.node, own.worker).subarray(0, 12),
      'a hello and nothing more': hello(own.node, own.worker),
      'a hello and garbage': Buffer.concat([hello(own.node, own.worker), randomBytes(4_000)]),
      'a hello for a worker that is not there': hello(own.node, 200),
      'a hello for another node': hello(own.node + 1, own.worker),
      'a hello of another version': Buffer.from([0, ...Buffer.from('sh'), 9, ...randomBytes(20)]),
      'NUL bytes': Buffer.alloc(10_000),
      'random bytes': Buffer.from([0xfe, ...randomBytes(10_000)]),
    };
    const callers = Object.entries(openings).flatMap(([name, bytes]) => [a, b].flatMap((node) => Array.from({ length: 5 }, () => ({ name, bytes, node }))));
    await inParallel(callers, callers.length, async ({ name, bytes, node }) => {
      const connection = await RawConnection.open(node.relay);
      await connection.write(bytes);
      const lifetime = await connection.lifetime();
      assert.ok(lifetime < HEAD_TIMEOUT_S * 1_000 + 3_000, `${name}: ${lifetime} ms`);
      assert.ok([undefined, 400, 408].includes(connection.status), `${name}: ${connection.text}`);
      connection.destroy();
    });
    // b's is for nodes alone.
    const client = await RawConnection.open(b.relay);
    await client.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await client.lifetime();
    assert.equal(client.received.length, 0, 'a client gets nothing there');

    await through(a, session).logIn('as ever');
    assert.deepEqual([a, b].map((node) => node.workerPids()), workers);
  });

  test('nodes call each other where clients have to begin with a PROXY protocol header, and need none', async (t) => {
    const behind = await startNode(redis, 'behind a balancer', { more: ['--proxy-protocol'], t });
    const agent = new BehindProxy(textHeader('192.0.2.1'));
    t.after(() => agent.destroy());
    await reaches(a, behind, { agent });
    const session = await PollingSession.open(behind, { agent });
    await through(a, session).logIn('comes to a');
    const ours = await PollingSession.open(a);
    await through(behind, ours, { agent }).logIn('comes to the other');
  });

  test('nodes with another secret, or none, are refused at once and without a word', async (t) => {
    const stranger = await startNode(redis, 'stranger', { secret: `${SECRET}, they say`, t });
    const loner = await startCluster({ redis, workers: 2, args: ['--node-name', 'loner'], t });
    const theirs = await PollingSession.open(stranger);
    const ours = await PollingSession.open(b);
    await until(async () => {
      await assertUnknown(a, theirs, 2_000);
      return /does not know the cluster's secret/.test(a.output);
    }, 'the log says why', BEAT_MS);
    await assertUnknown(stranger, ours, 2_000);
    await assertUnknown(loner, ours, 2_000);
    await assertUnknown(a, await PollingSession.open(loner), 2_000);
    assert.ok(!a.output.includes(SECRET) && !stranger.output.includes(SECRET));
    await through(a, ours).logIn('those who know it are served');
  });
});

test('a node keeps its number by its name, over a restart and over a crash', async (t) => {
  const redis = await startRedis();
  const numberOf = async (node) => readTag((await PollingSession.open(node)).sid).node;
  const first = await startNode(redis, 'first', { t });
  const second = await startNode(redis, 'second');
  const number = await numberOf(second);
  assert.notEqual(number, await numberOf(first));
  await second.stop();
  // Somebody new in between gets a number of its own.
  const third = await startNode(redis, 'third', { t });
  assert.ok(![number, await numberOf(first)].includes(await numberOf(third)));

  const runtimeDir = temporaryDirectory();
  const again = await startNode(redis, 'second', { runtimeDir });
  assert.equal(await numberOf(again), number, 'after a stop, on another machine');
  for (const pid of pidsOf(again)) process.kill(pid, 'SIGKILL');
  await again.exited;
  const crashed = await startNode(redis, 'second', { runtimeDir, t });
  assert.equal(await numberOf(crashed), number, 'after a crash, at once');
  // Behind the clusters: they end in the order of their beginning.
  t.after(() => redis.stop());
});

describe('a node that comes and goes', () => {
  let redis;
  let a;
  before(async () => {
    redis = await startRedis();
    a = await startNode(redis, 'a');
  });
  after(async () => {
    await a?.stop();
    await redis?.stop();
  });

  test('is stopped: its sessions are unknown at once, and its clients come back on the other', async (t) => {
    const b = await startNode(redis, 'b');
    await reaches(a, b);
    const session = await PollingSession.open(b);
    const poll = through(a, session);
    await poll.logIn('left');
    await b.stop();
    await assertUnknown(a, session, 1_000);
    const user = await ChatUser.logIn(a, { username: 'after it' });
    t.after(() => user.close());
  });

  // A balancer sends it clients as soon as it listens.
  test('has just come: its sessions are known to the other at once', async () => {
    const b = await startNode(redis, 'newcomer');
    try {
      await through(a, await PollingSession.open(b)).logIn('early');
    } finally {
      await b.stop();
    }
  });

  test('is killed, all of it: its sessions are unknown at once, and those that were upgraded through the other are cut', async () => {
    const b = await startNode(redis, 'b');
    await reaches(a, b);
    const session = await PollingSession.open(b);
    const relayed = through(a, session);
    await relayed.logIn('cut');
    const ws = new WebSocket(`ws://${a.host}:${a.port}${session.path.replace('polling', 'websocket')}`);
    await within(once(ws, 'open'), 'the upgrade is relayed');
    ws.send('2probe');
    await within(once(ws, 'message'), 'the probe is answered');
    ws.send('5');
    const closed = once(ws, 'close');
    for (const pid of pidsOf(b)) process.kill(pid, 'SIGKILL');
    await b.exited;
    await assertUnknown(a, session, 1_000);
    await within(closed, 'the WebSocket ends, too', 2_000);
    await b.stop();
  });

  test('stands still: its sessions are unknown within seconds, and what was under way ends', async (t) => {
    const b = await startNode(redis, 'b');
    const pids = pidsOf(b);
    t.after(async () => {
      pids.forEach((pid) => process.kill(pid, 'SIGCONT'));
      await b.stop();
    });
    await reaches(a, b);
    const session = await PollingSession.open(b);
    await through(a, session).logIn('stuck');
    const ws = new WebSocket(`ws://${a.host}:${a.port}/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`);
    await within(once(ws, 'open'), 'the upgrade is relayed');
    t.after(() => ws.terminate());
    const closed = once(ws, 'close');
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    await until(() => pids.every(isStopped), 'b stands still');
    await assertUnknown(a, session, 4_000);
    await within(closed, 'the WebSocket that a carries for it ends', 30_000);
    // Dead by now, as far as the others know: nobody waits for it.
    await assertUnknown(a, session, 1_000);
    assert.equal((await request(a, '/healthz')).status, 200);
  });
});
