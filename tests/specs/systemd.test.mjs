// The unit files under a real systemd, as they are in packaging/, but for the port.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { freePort } from '../harness/redis.mjs';
import { BINARY, CHECKOUT } from '../harness/run.mjs';
import { Systemd, whyNoSystemd } from '../harness/systemd.mjs';
import { until } from '../harness/wait.mjs';

const why = whyNoSystemd();

/** The service's log, in systemd's world. */
const LOG = '/run/chat-cluster.log';

/** A systemd with the units installed; `socket`: systemd listens. Gone with the test. */
async function installed(t, { socket }) {
  const directory = temporaryDirectory();
  const systemd = await Systemd.start(t, directory);
  const port = await freePort();
  const packaging = join(CHECKOUT, 'packaging/systemd');
  await systemd.install(BINARY, '/usr/bin/chat-cluster', '755');
  await systemd.install(join(packaging, 'chat-cluster.sysusers.conf'), '/etc/sysusers.d/chat-cluster.conf');
  await systemd.must('systemd-sysusers');
  const write = (text, to) => systemd.write(text, to);
  await systemd.install(join(packaging, 'chat-cluster.service'), '/etc/systemd/system/chat-cluster.service');
  await write(`CHAT_CLUSTER_WORKERS=2\nCHAT_CLUSTER_DRAIN_TIME=1s\n${socket ? '' : `CHAT_CLUSTER_LISTEN=127.0.0.1:${port}\n`}`, '/etc/chat-cluster/env');
  // So that a master that stands still is noticed within the test; and there is no journal.
  await write(`[Service]\nWatchdogSec=3\nStandardError=append:${LOG}\n`, '/etc/systemd/system/chat-cluster.service.d/test.conf');
  if (socket) {
    await systemd.install(join(packaging, 'chat-cluster.socket'), '/etc/systemd/system/chat-cluster.socket');
    await write(`[Socket]\nListenStream=\nListenStream=127.0.0.1:${port}\n`, '/etc/systemd/system/chat-cluster.socket.d/port.conf');
  }
  await systemd.must('systemctl', 'daemon-reload');
  if (socket) await systemd.must('systemctl', 'start', 'chat-cluster.socket');
  await systemd.must('systemctl', 'start', 'chat-cluster');
  return { systemd, server: { url: `http://127.0.0.1:${port}`, host: '127.0.0.1', port } };
}

/** The pids of the workers, as systemd's world has them. */
async function workers(systemd) {
  const main = await systemd.property('chat-cluster', 'MainPID');
  const all = (await systemd.must('sh', '-c', "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^/usr/bin/chat-cluster worker' && basename $p; done; true")).split('\n');
  return { main, all: all.filter(Boolean).toSorted() };
}

test('start, status, reload and stop', { skip: why }, async (t) => {
  const { systemd, server } = await installed(t, { socket: false });
  assert.equal(await systemd.property('chat-cluster', 'ActiveState'), 'active', 'started means ready');
  assert.equal((await request(server, '/healthz')).status, 200);
  const status = `2 of 2 workers ready at ${server.url}`;
  await until(async () => (await systemd.property('chat-cluster', 'StatusText')) === status, 'the status line says how it is');
  const before = await workers(systemd);
  assert.equal(before.all.length, 2);
  await systemd.must('systemctl', 'reload', 'chat-cluster');
  const after = await workers(systemd);
  assert.equal(after.main, before.main);
  assert.equal(after.all.length, 2);
  assert.ok(after.all.every((pid) => !before.all.includes(pid)), 'all workers are new');
  await systemd.must('systemctl', 'kill', '-s', 'USR2', '--kill-who=main', 'chat-cluster');
  await until(async () => /upgraded from/.test(await systemd.must('cat', LOG)), 'the master was upgraded');
  assert.deepEqual(await workers(systemd), after);
  await systemd.must('systemctl', 'stop', 'chat-cluster');
  assert.equal(await systemd.property('chat-cluster', 'Result'), 'success');
  assert.deepEqual((await workers(systemd)).all, []);
});

test('systemd holds the socket: the master is killed, and stands still, and no connection is refused', { skip: why }, async (t) => {
  const { systemd, server } = await installed(t, { socket: true });
  const user = await ChatUser.logIn(server, { username: 'user' });
  t.after(() => user.close());
  const { all } = await workers(systemd);
  for (const [signal, restarts] of [['KILL', '1'], ['STOP', '2']]) {
    await systemd.must('systemctl', 'kill', '-s', signal, '--kill-who=main', 'chat-cluster');
    // Nobody is there to accept it, and it is answered all the same.
    assert.equal((await request(server, '/healthz')).status, 200);
    await until(async () => (await systemd.property('chat-cluster', 'NRestarts')) === restarts, `restart ${restarts}`);
    await until(async () => (await systemd.property('chat-cluster', 'ActiveState')) === 'active', 'it is up');
    assert.deepEqual((await workers(systemd)).all, all, 'the same workers');
    assert.equal((await user.send(user, `after ${signal}`)).ok, true);
  }
  assert.deepEqual(user.disconnects, [], 'the connection never broke');
  await systemd.must('systemctl', 'stop', 'chat-cluster.socket', 'chat-cluster');
  assert.deepEqual((await workers(systemd)).all, []);
});

test('the Debian package: installed, started, upgraded without a refused connection, removed and purged', { skip: why }, async (t) => {
  const directory = temporaryDirectory();
  const { status, stdout, stderr } = spawnSync(join(CHECKOUT, 'scripts/deb.sh'), [directory], { env: { ...process.env, BINARY }, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  const deb = stdout.trim();
  const systemd = await Systemd.start(t, directory);
  const port = await freePort();
  await systemd.install(deb, '/tmp/chat-cluster.deb');
  const dpkg = (...words) => systemd.must('dpkg', ...words);
  await dpkg('--install', '/tmp/chat-cluster.deb');
  const exists = async (path) => (await systemd.run('test', '-e', path)).code === 0;
  for (const path of ['/usr/share/man/man1/chat-cluster.1.gz', '/usr/share/bash-completion/completions/chat-cluster', '/usr/share/doc/chat-cluster/copyright']) {
    assert.ok(await exists(path), path);
  }
  assert.equal(await systemd.must('stat', '-c', '%a %G', '/etc/chat-cluster'), '750 chat-cluster');
  await systemd.write(`workers = 2\nlisten = ["127.0.0.1:${port}"]\ndrain-time = "1s"\n`, '/etc/chat-cluster/chat-cluster.toml');
  await systemd.must('systemctl', 'start', 'chat-cluster');
  const server = { url: `http://127.0.0.1:${port}`, host: '127.0.0.1', port };
  assert.equal((await request(server, '/healthz')).status, 200);
  const before = await workers(systemd);
  assert.equal(before.all.length, 2, 'its file of options is read');

  // The same once more is an upgrade, in which the changed file of options stays.
  const user = await ChatUser.logIn(server, { username: 'ann' });
  t.after(() => user.close());
  await dpkg('--force-confold', '--install', '/tmp/chat-cluster.deb');
  const after = await workers(systemd);
  assert.equal(after.main, before.main);
  assert.ok(after.all.every((pid) => !before.all.includes(pid)), 'new workers');
  assert.equal((await user.send(user, 'still here')).ok, true);

  await dpkg('--remove', 'chat-cluster');
  assert.equal(await systemd.property('chat-cluster', 'ActiveState'), 'inactive');
  assert.ok(await exists('/var/lib/chat-cluster/chat.db'), 'what people wrote is there');
  await dpkg('--purge', 'chat-cluster');
  assert.ok(!(await exists('/var/lib/chat-cluster')) && !(await exists('/etc/chat-cluster')));
});
