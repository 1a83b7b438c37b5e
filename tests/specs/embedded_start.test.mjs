// One command and nothing else: where the embedded store is kept, whose it is, what it survives, and what is said
// when it cannot be used.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, cpSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { Cluster, startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { NO_OWN_MOUNTS, withOwnMounts } from '../harness/own_mounts.mjs';
import { flockHolder, isAlive } from '../harness/proc.mjs';
import { assertOneLine, finished } from '../harness/run.mjs';
import { conversation } from '../harness/stored_messages.mjs';
import { inParallel, until } from '../harness/wait.mjs';

/** A new directory that ends with the test. */
function directory(t) {
  const path = temporaryDirectory();
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Starts with one worker, in a runtime directory of its own, with these variables and arguments. */
async function started(t, env, args = []) {
  const runtimeDir = temporaryDirectory();
  const cluster = new Cluster(['--workers', '1', '--listen', '127.0.0.1:0', '--runtime-dir', runtimeDir, ...args], { runtimeDir, env });
  t.after(() => cluster.stop());
  return await cluster.ready();
}

/** What `chat-cluster` says that cannot start on this data directory. */
async function refused(t, dataDir, options = {}) {
  return await finished(['--workers', '2', '--listen', '127.0.0.1:0', '--runtime-dir', directory(t), '--data-dir', dataDir], options);
}

test('in an empty directory, with a PATH, a HOME and nothing else running, there is a chat', { skip: NO_OWN_MOUNTS }, async (t) => {
  const [home, empty] = [directory(t), directory(t)];
  const cluster = new Cluster(['--workers', '4', '--listen', '127.0.0.1:0'], {
    runtimeDir: directory(t),
    cwd: empty,
    // Another cluster may be using the machine's own default runtime directory.
    wrapper: [...withOwnMounts('mount -t tmpfs tmpfs /run'), 'env', '-i', `PATH=${process.env.PATH}`, `HOME=${home}`],
  });
  t.after(() => cluster.stop());
  await cluster.ready();
  const state = join(home, '.local/state/chat-cluster');
  assert.match(cluster.readyLine, /4 workers/);
  assert.ok(cluster.readyLine.includes(`store ${state})`), cluster.readyLine);
  assert.equal((await request(cluster, '/healthz')).status, 200);

  const users = [];
  for (let n = 0; n < 4; n += 1) users.push(await ChatUser.logIn(cluster, { username: `user ${n}` }));
  t.after(() => users.forEach((user) => user.close()));
  assert.equal(new Set(await cluster.servedBy(users.map((user) => user.clientEnd))).size, 4, 'a worker each');
  for (const [n, user] of users.entries()) assert.equal((await user.send(users[(n + 1) % 4], `from ${n}`)).ok, true);
  for (const [n, user] of users.entries()) {
    const from = (n + 3) % 4;
    await user.got('private message', ({ content }) => content === `from ${from}`);
    assert.deepEqual((await user.history(users[from])).map(({ content }) => content), [`from ${from}`]);
  }

  assert.equal(statSync(state).mode & 0o777, 0o700);
  assert.ok(existsSync(join(state, 'chat.db')));
  assert.deepEqual(readdirSync(empty), [], 'the working directory stays empty');
  assert.deepEqual(readdirSync(home), ['.local']);
});

test('the data directory is the option\'s, its variable\'s, systemd\'s, XDG\'s or the home\'s, in this order', async (t) => {
  const place = directory(t);
  const at = (name) => join(place, name);
  const env = {
    HOME: at('home'),
    XDG_STATE_HOME: at('xdg'),
    STATE_DIRECTORY: at('systemd'),
    CHAT_CLUSTER_DATA_DIR: at('variable'),
  };
  mkdirSync(env.HOME);
  const expected = [
    [['--data-dir', at('option')], at('option')],
    [[], at('variable'), 'CHAT_CLUSTER_DATA_DIR'],
    [[], at('systemd'), 'STATE_DIRECTORY'],
    [[], at('xdg/chat-cluster'), 'XDG_STATE_HOME'],
    [[], at('home/.local/state/chat-cluster'), 'HOME'],
  ];
  for (const [args, path, variable] of expected) {
    const cluster = await started(t, env, args);
    assert.ok(cluster.readyLine.includes(`store ${path})`), cluster.readyLine);
    assert.ok(existsSync(join(path, 'chat.db')), path);
    assert.equal(statSync(path).mode & 0o777, 0o700);
    await cluster.stop();
    rmSync(path, { recursive: true });
    if (variable) delete env[variable];
  }
  assert.deepEqual(readdirSync(place), ['home', 'xdg'], 'no other was touched');

  const nowhere = await finished(['--listen', '127.0.0.1:0', '--runtime-dir', directory(t)], { wrapper: ['env', '-u', 'HOME'] });
  assertOneLine(nowhere, 2, /--data-dir/);
});

test('sessions, messages and history outlive a stop and a kill -9 of all', async (t) => {
  const dataDir = directory(t);
  const ended = [];
  let ann;
  let ben;
  for (const [round, end] of ['stop', 'kill', 'stop'].entries()) {
    const cluster = await startCluster({ workers: 2, dataDir, t });
    const logIn = async (username, known) =>
      known ? await ChatUser.another(cluster, known) : await ChatUser.logIn(cluster, { username });
    const [newAnn, newBen] = [await logIn('ann', ann), await logIn('ben', ben)];
    if (round > 0) {
      assert.deepEqual(newAnn.session, ann.session, 'the same user, of the same session');
      assert.deepEqual(newBen.entryOf(ann).messages, ended, 'the log-in has the messages');
      assert.deepEqual(await newAnn.history(newBen, { limit: 200 }), ended, 'and so has the history');
    }
    [ann, ben] = [newAnn, newBen];
    for (let n = 0; n < 30; n += 1) {
      const [from, to] = n % 2 ? [ann, ben] : [ben, ann];
      const content = `round ${round}, ${n}`;
      const { id, at } = await from.send(to, content);
      ended.push({ id, content, from: from.userID, to: to.userID, at });
    }
    [ann, ben].forEach((user) => user.close());
    await cluster[end]();
  }
  assert.equal(ended.length, 90);
});

describe('a data directory that another cluster uses', () => {
  /** The line must tell both directories; the cluster that was there first goes on. */
  function assertInUse(result, dataDir, runtimeDir) {
    assertOneLine(result, 1, /in use/);
    for (const named of [dataDir, runtimeDir]) assert.ok(result.stderr.includes(named), result.stderr);
  }

  test('is refused', async (t) => {
    const cluster = await startCluster({ workers: 2, t });
    const workers = cluster.workerPids();
    const user = await ChatUser.logIn(cluster, { username: 'first' });
    t.after(() => user.close());
    assertInUse(await refused(t, cluster.dataDir), cluster.dataDir, cluster.runtimeDir);
    assert.equal((await user.send(user, 'unharmed')).ok, true);
    assert.deepEqual(user.disconnects, []);
    assert.deepEqual(cluster.workerPids(), workers);
  });

  test('is refused while only its workers live, and theirs again with their runtime directory', async (t) => {
    const first = await startCluster({ workers: 2 });
    const { dataDir, runtimeDir } = first;
    const workers = first.workersById();
    const user = await ChatUser.logIn(first, { username: 'stays' });
    t.after(() => user.close());
    t.after(() => [...workers.values()].filter(isAlive).forEach((pid) => process.kill(pid, 'SIGKILL')));
    first.process.kill('SIGKILL');
    await first.exited;
    assertInUse(await refused(t, dataDir), dataDir, runtimeDir);
    assert.equal((await user.send(user, 'without a master')).ok, true);

    const second = await startCluster({ workers: 2, dataDir, runtimeDir });
    t.after(() => second.stop());
    assert.deepEqual(second.workerPids(), [], 'it needs no workers of its own');
    for (const [id, pid] of workers) assert.equal(flockHolder(join(runtimeDir, `worker-${id}.lock`)), pid);
    const newcomer = await ChatUser.logIn(second, { username: 'newcomer' });
    t.after(() => newcomer.close());
    assert.equal((await newcomer.send(user, 'through the new master')).ok, true);
    await user.got('private message', ({ content }) => content === 'through the new master');
    assert.deepEqual(user.disconnects, []);
    user.close();
    newcomer.close();
    await second.stop();
    await until(() => ![...workers.values()].some(isAlive), 'no worker is left', 2_000);
  });
});

describe('a data directory that cannot be written', () => {
  test('because something else is there', async (t) => {
    const file = join(directory(t), 'a-file');
    writeFileSync(file, 'precious');
    for (const path of [file, join(file, 'below')]) assertOneLine(await refused(t, path), 1, /a-file/);
    assert.equal(statSync(file).size, 8, 'not a byte of it is touched');
    assertOneLine(await refused(t, '/proc/chat-cluster-data'), 1, /\/proc\/chat-cluster-data/);
  });

  test('because it is mounted read-only', { skip: NO_OWN_MOUNTS }, async (t) => {
    const [empty, used] = [directory(t), directory(t)];
    await (await startCluster({ workers: 1, dataDir: used })).stop();
    for (const path of [empty, used]) {
      const wrapper = withOwnMounts('mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"', path);
      assertOneLine(await refused(t, path, { wrapper }), 1, new RegExp(`${path}.*read-only`, 'i'));
    }
    assert.deepEqual(readdirSync(empty), []);
  });
});

describe('a damaged database', () => {
  const LARGE = 60_000;

  /** Overwrites a part of the file with noise. */
  function scribble(path, from, to) {
    const file = openSync(path, 'r+');
    writeSync(file, randomBytes(to - from), 0, to - from, from);
    closeSync(file);
  }

  /** Sends until the log is copied into `chat.db` because it is long; then the file has messages. */
  async function fill(cluster) {
    const [ann, ben] = [await ChatUser.logIn(cluster, { username: 'ann' }), await ChatUser.logIn(cluster, { username: 'ben' })];
    const database = join(cluster.dataDir, 'chat.db');
    await until(async () => {
      await inParallel(Array.from({ length: 50 }), 10, (_, n) => ann.send(ben, `${n}`.padEnd(LARGE, '.')));
      return statSync(database).size > 100 * LARGE;
    }, 'the log was copied into the database', 60_000);
    return { ann, ben, database };
  }

  /** A data directory with some 10 MB of messages, without a log that could mend what is damaged. */
  async function filled(t) {
    const dataDir = directory(t);
    const cluster = await startCluster({ workers: 1, dataDir });
    const { ann, ben } = await fill(cluster);
    [ann, ben].forEach((user) => user.close());
    await cluster.stop();
    for (const name of ['chat.db-wal', 'chat.db-shm']) rmSync(join(dataDir, name), { force: true });
    return { dataDir, users: [ann, ben] };
  }

  /**
   * Logs in and sends; who cannot is told so. Whatever is acknowledged as stored is there, if the history can be
   * read at all. Nobody dies of it.
   */
  async function assertHonest(cluster, users) {
    const workers = cluster.workerPids();
    const outcomes = new Map();
    const count = (what) => outcomes.set(what, (outcomes.get(what) ?? 0) + 1);
    for (let n = 0; n < 100; n += 1) {
      const [from, to] = n % 2 ? users : [...users].reverse();
      const ack = await from.send(to, `sent ${n}`);
      assert.ok(ack.ok || ack.error.code === 'unavailable', JSON.stringify(ack));
      count(ack.ok ? 'stored' : 'unavailable');
      if (!ack.ok) continue;
      const page = await to.history(from, { limit: 200 });
      assert.ok(Array.isArray(page) || page.error.code === 'unavailable', JSON.stringify(page).slice(0, 200));
      if (Array.isArray(page)) assert.ok(page.some(({ id }) => id === ack.id), `what was acknowledged is in the history: ${n}`);
      count(Array.isArray(page) ? 'read' : 'unreadable');
    }
    assert.deepEqual(cluster.workerPids(), workers, 'no worker has died');
    return JSON.stringify(Object.fromEntries(outcomes));
  }

  test('is one line at start, when its beginning is damaged or it is cut short', async (t) => {
    const { dataDir } = await filled(t);
    const size = statSync(join(dataDir, 'chat.db')).size;
    const kinds = {
      'noise over the header': (path) => scribble(path, 0, 100),
      'noise over the first page': (path) => scribble(path, 0, 4_096),
      'cut within the header': (path) => truncateSync(path, 60),
      'cut in the first pages': (path) => truncateSync(path, 3 * 4_096),
      'cut in the middle': (path) => truncateSync(path, Math.floor(size / 2)),
      'cut by a page': (path) => truncateSync(path, size - 4_096),
    };
    for (const [name, damage] of Object.entries(kinds)) {
      const copy = join(directory(t), 'data');
      cpSync(dataDir, copy, { recursive: true });
      const path = join(copy, 'chat.db');
      damage(path);
      const damaged = statSync(path).size;
      const result = await refused(t, copy);
      t.diagnostic(`${name}: ${result.stderr.trim()}`);
      assertOneLine(result, 1, new RegExp(path));
      assert.equal(statSync(path).size, damaged, `${name}: it is left as it is, for whoever can mend it`);
    }
  });

  test('is noticed at start or lived with, when its middle is damaged', async (t) => {
    const { dataDir, users } = await filled(t);
    const path = join(dataDir, 'chat.db');
    const { size } = statSync(path);
    scribble(path, Math.floor(size / 4), Math.floor((size * 3) / 4));
    const runtimeDir = temporaryDirectory();
    const cluster = new Cluster(
      ['--workers', '2', '--listen', '127.0.0.1:0', '--runtime-dir', runtimeDir, '--data-dir', dataDir],
      { runtimeDir },
    );
    t.after(() => cluster.stop());
    if (!(await cluster.ready().then(() => true, () => false))) {
      const { code } = await cluster.ended;
      assertOneLine({ code, stdout: cluster.stdout, stderr: cluster.stderr }, 1, new RegExp(path));
      return;
    }
    // Whose messages cannot be read is not shown an empty history, as if there were none.
    const returning = users.map((user) =>
      ChatUser.logIn(cluster, { auth: { sessionID: user.session.sessionID, username: user.username } }),
    );
    for (const logIn of returning) logIn.then((user) => t.after(() => user.close()), () => {});
    const coming = ['carl', 'dora'].map((username) => ChatUser.logIn(cluster, { username }));
    for (const logIn of coming) logIn.then((user) => t.after(() => user.close()), () => {});
    const newcomers = (await Promise.allSettled(coming)).map(({ value }) => value);
    // Where each page is depends on when messages were moved: what all log-ins read may be among the damaged ones.
    if (newcomers.every(Boolean)) t.diagnostic(await assertHonest(cluster, newcomers));
    else assert.match(cluster.output, /damaged/, 'the operator is told');
    for (const back of await Promise.allSettled(returning)) {
      if (back.status === 'fulfilled') assert.ok(back.value.users.some(({ messages }) => messages.length > 0));
      else assert.match(cluster.output, /damaged/, 'the operator is told');
    }
    assert.ok(cluster.output.split('\n').length < 200, cluster.tail());
  });

  for (const [name, from] of Object.entries({ 'from its beginning': 0, 'behind its first pages': 40_960 })) {
    test(`while it is in use, ${name}: who cannot be served is told so, and no worker dies`, async (t) => {
      const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
      const { ann, ben, database } = await fill(cluster);
      t.after(() => [ann, ben].forEach((user) => user.close()));
      scribble(database, from, statSync(database).size);
      t.diagnostic(await assertHonest(cluster, [ann, ben]));
      assert.ok(cluster.output.split('\n').length < 200, cluster.tail());
    });
  }

  test('the history of a long conversation is whole after its log was copied', async (t) => {
    const cluster = await startCluster({ workers: 2, t });
    const { ann, ben } = await fill(cluster);
    const messages = await conversation(ben, ann);
    assert.equal(messages.length % 50, 0);
    assert.ok(messages.every(({ content }) => content.length === LARGE));
    [ann, ben].forEach((user) => user.close());
  });
});
