// The commands and signals by which a running cluster is told what to do, and what they say.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import http from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { flockHolder, holdersOf, isAlive, workersIn } from '../harness/proc.mjs';
import { RawConnection } from '../harness/raw_connection.mjs';
import { BINARY, Run } from '../harness/run.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';
import { Subject } from '../operations/subject.mjs';

const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';

/** Reasons after which the official client connects again by itself. */
const RETURNING = ['transport close', 'transport error'];

test('without a cluster a command says so in one line', async () => {
  const nowhere = join(temporaryDirectory(), 'run');
  for (const directory of [nowhere, temporaryDirectory()]) {
    for (const command of [['reload'], ['scale', '3'], ['upgrade'], ['status'], ['status', '--watch', '--json']]) {
      const run = new Run([...command, '--runtime-dir', directory]);
      assert.equal((await run.ended).code, 1);
      assert.match(run.stderr, /^chat-cluster: no cluster runs in .*\n$/);
      assert.equal(run.stdout, '');
    }
  }
  for (const wrong of [['scale'], ['scale', '0'], ['scale', '129'], ['scale', 'many']]) {
    assert.equal((await new Run(wrong).ended).code, 2, wrong.join(' '));
  }
});

test('whatever else is sent to the control socket is refused, and costs nothing', async (t) => {
  const cluster = await startCluster({ workers: 1, t });
  const say = async (text) => {
    const socket = connect(join(cluster.runtimeDir, 'control.sock')).setEncoding('utf8');
    let answer = '';
    socket.on('data', (part) => (answer += part)).on('error', () => {});
    socket.write(text);
    // An error before it is expected of a line that is too long: nobody reads the rest.
    await within(new Promise((closed) => socket.once('close', closed)), 'the connection is closed');
    return answer;
  };
  for (const text of ['{}\n', '{"command":"explode"}\n', `${'x'.repeat(100_000)}\n`, '{"command":"scale","workers":-1}\n']) {
    assert.match(await say(text), /^\{"ok":false,"message":"no such request: .*"\}\n$|^$/, text.slice(0, 50));
  }
  assert.deepEqual(JSON.parse(await say('{"command":"scale","workers":0}\n')), { ok: false, message: '0 workers are not possible: 1 to 128' });
  // Who says nothing is not waited for by anybody else.
  const silent = connect(join(cluster.runtimeDir, 'control.sock'));
  assert.deepEqual(JSON.parse(await say('{"command":"scale","workers":2}\n')), { ok: true, message: 'scaled from 1 to 2 workers' });
  silent.destroy();
});

test('SIGHUP reloads: clients on every transport come back by themselves, as the same users', async (t) => {
  const subject = await Subject.start(t, { workers: 2, args: ['--drain-time', '1s'] });
  const users = await inParallel(Object.entries(TRANSPORTS), 3, ([name, transports]) =>
    ChatUser.logIn(subject.cluster, { username: name, transports }),
  );
  t.after(() => users.forEach((user) => user.close()));
  const watcher = await ChatUser.logIn(subject.cluster, { username: 'watcher' });
  t.after(() => watcher.close());
  const before = [...subject.workers().values()];
  process.kill(subject.master, 'SIGHUP');
  await subject.cluster.line(/the old workers have gone/);
  assert.ok(!before.some(isAlive));
  await until(() => users.every((user) => user.received('session').length === 2), 'everyone is back');
  for (const user of users) {
    const [first, second] = user.received('session');
    assert.deepEqual(second, first);
    assert.equal(user.disconnects.length, 1, `${user.username} was asked once`);
    assert.ok(RETURNING.includes(user.disconnects[0]), user.disconnects[0]);
  }
  // Longer than the grace period: nobody was ever told that somebody left.
  await until(() => watcher.socket.connected, 'the watcher is back');
  await new Promise((resolve) => setTimeout(resolve, 6_000));
  assert.deepEqual(watcher.received('user disconnected'), []);
});

test('a SIGHUP because the terminal was closed ends the cluster', { skip: !existsSync('/usr/bin/script') && 'no script here' }, async (t) => {
  const [runtimeDir, dataDir] = [temporaryDirectory(), temporaryDirectory()];
  const command = `${BINARY} --workers 2 --listen 127.0.0.1:0 --runtime-dir ${runtimeDir} --data-dir ${dataDir}`;
  const terminal = spawn('script', ['-qfc', `exec ${command}`, '/dev/null'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let shown = '';
  terminal.stdout.on('data', (text) => (shown += text));
  const master = await until(() => /is ready at/.test(shown) && flockHolder(join(runtimeDir, 'master.lock')), 'it is ready');
  const processes = [master, ...workersIn(runtimeDir).values()];
  t.after(() => [terminal.pid, ...processes].filter(isAlive).forEach((pid) => process.kill(pid, 'SIGKILL')));
  // From somebody who only wants new workers: the terminal is there.
  process.kill(master, 'SIGHUP');
  await until(() => /the old workers have gone/.test(shown), 'it has reloaded');
  processes.push(...workersIn(runtimeDir).values());
  terminal.kill('SIGKILL');
  await until(() => !processes.some(isAlive), 'everything has ended');
});

test('clients are asked one after the other, and all of them within the time', async (t) => {
  const subject = await Subject.start(t, { workers: 1, args: ['--drain-time', '6s'] });
  const users = await inParallel(Array.from({ length: 20 }), 10, (_, n) =>
    ChatUser.logIn(subject.cluster, { username: `user ${n}`, reconnectionDelay: 10, reconnectionDelayMax: 10 }),
  );
  t.after(() => users.forEach((user) => user.close()));
  const began = performance.now();
  const asked = users.map((user) => once(user.socket, 'disconnect').then(() => performance.now() - began));
  await subject.command('reload');
  const times = (await within(Promise.all(asked), 'everybody was asked')).toSorted((a, b) => a - b);
  // Nobody in the first second and a half after their log-in.
  assert.ok(times[4] < 4_000 && times[15] > 3_500, `spread out: ${times.map(Math.round)}`);
  assert.ok(times.at(-1) - times[0] > 3_500, `${times.map(Math.round)}`);
});

test('a handshake over a connection that an old worker still has is served, and asks for another connection', async (t) => {
  const subject = await Subject.start(t, { workers: 1, args: ['--drain-time', '5s'] });
  const stays = await ChatUser.logIn(subject.cluster, { username: 'stays' });
  t.after(() => stays.close());
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  assert.equal((await request(subject.cluster, '/healthz', { agent })).headers.connection, undefined, 'it stays open');
  const reload = subject.command('reload');
  await subject.cluster.line(/leaving exit=Drained/);
  const answer = await request(subject.cluster, HANDSHAKE, { agent });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.connection, 'close');
  assert.match(answer.body.toString(), /^0\{"sid":/);
  await reload;
});

test('a program that never becomes ready ends a reload, and what was there serves on', async (t) => {
  const subject = await Subject.start(t, { workers: 2, args: ['--drain-time', '1s'] });
  const user = await ChatUser.logIn(subject.cluster, { username: 'user' });
  t.after(() => user.close());
  const before = [...subject.workers().values()].toSorted();
  subject.writeBinary('#!/bin/sh\necho broken >&2\nexit 7\n');
  const { code, stderr } = await subject.run('reload');
  assert.equal(code, 1);
  assert.match(stderr, /^chat-cluster: the new worker ended before it was ready: exit code 7 \(0 of 2 workers were replaced\)\n$/);
  const scaled = await subject.run('scale', 1);
  assert.equal(scaled.code, 0, scaled.stderr);
  const [left] = [...subject.workers().values()];
  assert.ok(before.includes(left));
  await until(() => user.socket.connected, 'the user is served');
});

test('half a request outlives one upgrade after the other', async (t) => {
  const subject = await Subject.start(t, { workers: 1 });
  const halves = await inParallel([1, 2, 3], 3, async () => {
    const connection = await RawConnection.open(subject.cluster);
    await connection.write('GET /healthz HTTP/1.1\r\nHost: x\r\nConn');
    return connection;
  });
  t.after(() => halves.forEach((connection) => connection.destroy()));
  for (let n = 0; n < 3; n += 1) {
    const said = await subject.command('upgrade');
    assert.match(said, /^upgraded from (\S+) to \1/);
  }
  for (const connection of halves) {
    await connection.write('ection: close\r\n\r\n');
    await within(connection.ended, 'the answer has come');
    assert.equal(connection.status, 200);
  }
  assert.equal(await subject.command('scale', 2), 'scaled from 1 to 2 workers');
});

test('a cluster that was scaled keeps its size over an upgrade, and a master that starts anew has what it is told', async (t) => {
  const subject = await Subject.start(t, { workers: 1, args: ['--drain-time', '1s'] });
  await subject.command('scale', 3);
  const three = [...subject.workers().values()].toSorted();
  await subject.command('upgrade');
  assert.deepEqual([...subject.workers().values()].toSorted(), three);
  await subject.replaceMaster();
  await until(() => subject.workers().size === 1, 'the two that are too many leave');
  assert.ok(three.includes([...subject.workers().values()][0]));
});

test('clients are evened out when a scaling says so, and where that is possible', async (t) => {
  const subject = await Subject.start(t, { workers: 1 });
  const options = { reconnectionDelay: 10, reconnectionDelayMax: 10 };
  const users = await inParallel(Array.from({ length: 30 }), 10, (_, n) => ChatUser.logIn(subject.cluster, { username: `user ${n}`, ...options }));
  t.after(() => users.forEach((user) => user.close()));
  await subject.command('scale', 3, '--rebalance', 100);
  await until(() => users.every((user) => user.socket.connected && user.engine.transport.ws), 'everybody is connected');
  await until(() => {
    const connected = users.filter((user) => user.socket.connected).map((user) => user.clientEnd);
    const pids = [...subject.workers().values()];
    const holders = holdersOf(connected, subject.cluster.port, pids);
    return connected.length === users.length && pids.every((pid) => holders.filter((holder) => holder === pid).length >= 8);
  }, 'each of the three has its share');

  const hashed = await Subject.start(t, { workers: 1, args: ['--balance', 'client-hash'] });
  const { code, stderr } = await hashed.run('scale', 2, '--rebalance', 10);
  assert.equal(code, 1);
  assert.match(stderr, /^chat-cluster: rebalancing is of no use with client-hash or an affinity cookie: .*\n$/);
  assert.equal(hashed.workers().size, 1, 'nothing was done');
  const wrong = new Run(['--rebalance', '10', '--affinity-cookie', 'a']);
  assert.equal((await wrong.ended).code, 2);
});

test('workers without a master send their clients away after the orphan time', async (t) => {
  const subject = await Subject.start(t, { workers: 2, args: ['--orphan-time', '2s'] });
  const user = await ChatUser.logIn(subject.cluster, { username: 'user' });
  t.after(() => user.close());
  const workers = [...subject.workers().values()];
  process.kill(subject.master, 'SIGKILL');
  await subject.cluster.exited;
  assert.equal((await user.send(user, 'still served')).ok, true);
  await until(() => !workers.some(isAlive), 'the workers have left');
  assert.ok(RETURNING.includes(user.disconnects[0]), user.disconnects[0]);
});

test('clients who come before the first worker wait for it', async (t) => {
  const subject = await Subject.start(t, { workers: 1 });
  const [worker] = subject.workers().values();
  for (let n = 0; n < 5; n += 1) {
    process.kill([...subject.workers().values()][0], 'SIGKILL');
    assert.equal((await request(subject.cluster, '/healthz')).status, 200);
    await until(() => subject.workers().size === 1, 'it is replaced');
  }
  assert.ok(!isAlive(worker));
});
