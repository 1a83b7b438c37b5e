// `--admin`: what monitoring is told is what was done, to the unit, in the form that Prometheus reads.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { CHECKOUT, finished, Run } from '../harness/run.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const PROMTOOL = process.env.PROMTOOL ?? join(CHECKOUT, 'target/tools/promtool/promtool');
const MONITORING = join(CHECKOUT, 'packaging/monitoring');

/** A cluster that is monitored through a Unix socket: `[cluster, admin]`. */
async function monitored(options) {
  const socketPath = join(temporaryDirectory(), 'admin.sock');
  const cluster = await startCluster({ ...options, args: ['--admin', `unix:${socketPath}`, ...(options.args ?? [])] });
  return [cluster, { socketPath }];
}

/** Every line of `/metrics`: a map from `name{label="value"}` to its number. */
async function metricsOf(admin) {
  const { status, headers, body } = await request(admin, '/metrics');
  assert.equal(status, 200);
  assert.equal(headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
  const lines = body.split('\n').filter((line) => line && !line.startsWith('#'));
  const numbers = new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]));
  return { body, numbers, of: (name) => numbers.get(`chat_cluster_${name}`) };
}

/** The sum over all workers. */
function overWorkers({ numbers }, name) {
  const lines = [...numbers].filter(([line]) => line.startsWith(`chat_cluster_worker_${name}{`));
  return lines.reduce((sum, [, number]) => sum + number, 0);
}

const counted = ['handoffs_total', 'messages_total', 'handoff_seconds_count', 'handshake_seconds_count', 'message_store_seconds_count', 'message_delivery_seconds_count'];

test('counts and histograms are those of a known load, and outlive a worker', async (t) => {
  const [cluster, admin] = await monitored({ workers: 2, balance: 'round-robin', t });
  const users = await inParallel(Array.from({ length: 6 }), 6, (_, n) => ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  for (const [n, user] of users.entries()) {
    for (let m = 0; m <= n; m++) assert.ok((await user.send(users[0], 'x', { id: `${n}-${m}` })).ok);
  }
  // Sent again: neither stored nor delivered again.
  assert.ok((await users[1].send(users[0], 'x', { id: '1-0' })).ok);
  // All but the one to oneself come to a client; an acknowledgement may be there before.
  const busy = await until(async () => {
    const now = await metricsOf(admin);
    return now.of('message_delivery_seconds_count') === 20 && now;
  }, 'all are delivered');
  const expected = [6, 21, 6, 6, 21, 20];
  assert.deepEqual(counted.map((name) => busy.of(name)), expected);
  assert.deepEqual(counted.map((name) => overWorkers(busy, name)), expected);
  assert.deepEqual([busy.of('clients'), busy.of('connections'), overWorkers(busy, 'clients')], [6, 6, 6]);
  assert.deepEqual(['ready', 'stuck'].map((state) => busy.of(`workers{state="${state}"}`)), [2, 0]);
  assert.deepEqual([busy.of('workers_wanted'), busy.of('worker_starts_total'), busy.of('worker_deaths_total')], [2, 2, 0]);
  for (const name of ['handoff', 'handshake', 'message_store', 'message_delivery']) {
    const bucket = (le) => busy.of(`${name}_seconds_bucket{le="${le}"}`);
    assert.equal(bucket('+Inf'), busy.of(`${name}_seconds_count`), name);
    assert.ok(bucket('0.0001') <= bucket('0.0025') && bucket('0.0025') <= bucket('10'), 'cumulative');
    assert.ok(busy.of(`${name}_seconds_sum`) < 60, name);
  }
  assert.ok(busy.of('handoff_seconds_sum') > 0 && busy.of('message_store_seconds_sum') > 0, 'it takes time');

  // What a dead worker counted stays.
  const [id, pid] = [...cluster.workersById()][0];
  cluster.killWorker(pid);
  await cluster.workersReplaced(2, [pid]);
  const after = await until(async () => {
    const now = await metricsOf(admin);
    return now.of('workers{state="ready"}') === 2 && now.of('clients') === 6 && now;
  }, 'all are back');
  assert.deepEqual([after.of('messages_total'), after.of('message_store_seconds_count')], [21, 21]);
  assert.ok(overWorkers(after, 'messages_total') < 21, 'a new process begins at 0');
  assert.equal(after.of(`worker_messages_total{worker="${id}"}`) ?? 0, 0);
  assert.deepEqual([after.of('worker_starts_total'), after.of('worker_deaths_total')], [3, 1]);
  assert.equal(after.of('handshake_seconds_count'), 9, 'three came back');

  // What is refused is counted by its reason.
  assert.equal((await request(cluster, '/', { headers: { x: 'y'.repeat(20_000) } })).status, 431);
  assert.equal((await metricsOf(admin)).of('connections_refused_total{reason="head too large"}'), 1);
});

test('an upgrade begins counts of the cluster anew, and workers keep theirs', async (t) => {
  const [cluster, admin] = await monitored({ workers: 1, t });
  const user = await ChatUser.logIn(cluster, { username: 'ann' });
  t.after(() => user.close());
  for (let n = 0; n < 3; n++) await user.send(user, 'before');
  assert.equal((await finished(['upgrade', '--runtime-dir', cluster.runtimeDir])).code, 0);
  await until(async () => (await metricsOf(admin)).of('workers{state="ready"}') === 1, 'the worker has said Hello');
  await user.send(user, 'after');
  const now = await metricsOf(admin);
  assert.equal(now.of('messages_total'), 1);
  assert.equal(now.of('worker_messages_total{worker="0"}'), 4);
});

test('promtool finds nothing wrong, and documentation, rules and dashboard name what there is', async (t) => {
  assert.ok(existsSync(PROMTOOL), `${PROMTOOL} is missing: make tools-promtool`);
  const promtool = (args, input) => {
    const { status, stdout, stderr } = spawnSync(PROMTOOL, args, { input, encoding: 'utf8', cwd: MONITORING });
    assert.equal(status, 0, `promtool ${args.join(' ')}:\n${stdout}${stderr}`);
    return stdout + stderr;
  };
  const [, admin] = await monitored({ workers: 2, t });
  const { body } = await metricsOf(admin);
  assert.equal(promtool(['check', 'metrics'], body), '');
  promtool(['check', 'rules', 'alerts.yml']);
  promtool(['test', 'rules', 'alerts_test.yml']);
  promtool(['check', 'config', 'prometheus.yml']);

  const served = [...body.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name).toSorted();
  const named = (file) => new Set([...readFileSync(join(CHECKOUT, file), 'utf8').matchAll(/chat_cluster_\w+/g)].map(([name]) => name.replace(/_bucket$/, '')));
  const documented = [...named('docs/metrics.md')].filter((name) => name !== 'chat_cluster_worker_').toSorted();
  assert.deepEqual(documented, served);
  for (const file of ['packaging/monitoring/alerts.yml', 'packaging/monitoring/grafana-dashboard.json']) {
    const used = [...named(file)];
    assert.ok(used.length > 5, file);
    assert.deepEqual(used.filter((name) => !served.includes(name)), [], file);
  }
  const dashboard = JSON.parse(readFileSync(join(MONITORING, 'grafana-dashboard.json'), 'utf8'));
  assert.ok(dashboard.panels.every(({ targets }) => targets.length > 0));
});

test('status and health, and only health for clients', async (t) => {
  const [cluster, admin] = await monitored({ workers: 2, args: ['--stuck-time', '60s'], t });
  const answers = async (server, path, options) => (await request(server, path, options)).status;
  const status = JSON.parse((await request(admin, '/status')).body);
  const { stdout } = await finished(['status', '--json', '--runtime-dir', cluster.runtimeDir]);
  assert.deepEqual(Object.keys(status), Object.keys(JSON.parse(stdout)));
  assert.deepEqual(status.workers.map(({ id, pid }) => [id, pid]), JSON.parse(stdout).workers.map(({ id, pid }) => [id, pid]));
  assert.deepEqual([await answers(admin, '/healthz'), await answers(admin, '/readyz')], [200, 200]);
  assert.deepEqual([await answers(admin, '/'), await answers(admin, '/metrics/x')], [404, 404]);
  assert.equal(await answers(admin, '/metrics', { method: 'POST', body: 'x' }), 405);
  assert.deepEqual(await Promise.all(['/metrics', '/status', '/readyz', '/healthz'].map((path) => answers(cluster, path))), [404, 404, 404, 200]);

  // Others cannot even connect.
  const mode = (path) => statSync(path).mode & 0o777;
  assert.equal(mode(admin.socketPath), 0o600);
  assert.equal(mode(cluster.runtimeDir), 0o700);

  // Silent connections take no more than their share.
  const held = await inParallel(Array.from({ length: 63 }), 63, async () => {
    const socket = connect(admin.socketPath);
    await once(socket, 'connect');
    return socket;
  });
  assert.equal(await answers(admin, '/healthz'), 200);
  held.forEach((socket) => socket.destroy());

  // Whatever hangs is seen.
  const pids = cluster.workerPids();
  pids.forEach((pid) => process.kill(pid, 'SIGSTOP'));
  await until(async () => (await metricsOf(admin)).of('workers{state="stuck"}') === 2, 'they hang', 30_000);
  pids.forEach((pid) => process.kill(pid, 'SIGCONT'));
  await until(async () => (await answers(admin, '/readyz')) === 200, 'all is well again');
});

test('a cluster that stops is not ready any more, and one that cannot listen does not start', async (t) => {
  const [cluster, admin] = await monitored({ workers: 1, t });
  const user = await ChatUser.logIn(cluster, { username: 'ann' });
  t.after(() => user.close());
  process.kill(cluster.workerPids()[0], 'SIGSTOP');
  cluster.process.kill('SIGTERM');
  await until(async () => (await request(admin, '/readyz')).body === 'stopping\n', 'it says so');
  process.kill(cluster.workerPids()[0], 'SIGCONT');
  await cluster.exited;
  assert.ok(!existsSync(admin.socketPath), 'nothing is left');

  const other = temporaryDirectory();
  const taken = await startCluster({ workers: 1, t });
  const refused = new Run(['--listen', '127.0.0.1:0', '--workers', '1', '--runtime-dir', other, '--data-dir', other, '--admin', `${taken.host}:${taken.port}`]);
  const { code, stderr } = await refused.result();
  assert.equal(code, 1);
  assert.match(stderr, /^chat-cluster: cannot listen on 127\.0\.0\.1:\d+: Address already in use/m);
});
