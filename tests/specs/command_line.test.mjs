// The command line is a contract: options, variables, exit codes, one line for every error at start.
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { Cluster, startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { POLLING, readTag } from '../harness/polling_session.mjs';
import { freePort, startRedis } from '../harness/redis.mjs';
import { BINARY, Run, assertOneLine, finished } from '../harness/run.mjs';

const OPTIONS = [
  '--workers',
  '--listen',
  '--balance',
  '--redis',
  '--runtime-dir',
  '--cors-origin',
  '--ping-interval-ms',
  '--ping-timeout-ms',
  '--session-ttl',
  '--message-ttl',
  '--roster-limit',
  '--history-limit',
  '--history-max',
  '--presence-grace',
  '--stuck-time',
  '--redis-wait',
  '--log-format',
  '--log-level',
];

describe('the command line', () => {
  let redis;
  before(async () => {
    redis = await startRedis();
  });
  after(() => redis.stop());

  /** Starts with exactly these arguments and variables; ends with the test. */
  async function started(t, args, env = {}) {
    const runtimeDir = temporaryDirectory();
    const cluster = new Cluster(args, { runtimeDir, env: { CHAT_CLUSTER_RUNTIME_DIR: runtimeDir, ...env } });
    t.after(() => cluster.stop());
    return await cluster.ready();
  }

  test('--help lists every option with its variable and its default', async () => {
    const { code, stdout, stderr } = await finished(['--help']);
    assert.equal(code, 0);
    assert.equal(stderr, '');
    for (const option of OPTIONS) {
      assert.ok(stdout.includes(option), option);
      const variable = `CHAT_CLUSTER_${option.slice(2).replaceAll('-', '_').toUpperCase()}`;
      assert.ok(stdout.includes(variable), variable);
    }
    for (const word of ['least-connection', 'round-robin', 'random', 'client-hash', '127.0.0.1:3000', 'REDIS_URL', '24h']) {
      assert.ok(stdout.includes(word), word);
    }
    const version = await finished(['--version']);
    assert.match(version.stdout, /^chat-cluster \d+\.\d+\.\d+\n$/);
  });

  test('mistakes in usage are exit code 2 and name the option', async () => {
    const mistakes = [
      [['--no-such-option'], /--no-such-option/],
      [['--workers', '0'], /--workers/],
      [['--workers', '129'], /--workers/],
      [['--workers', 'many'], /--workers/],
      [['--balance', 'fair'], /--balance/],
      [['--listen', 'nowhere'], /--listen/],
      [['--listen', '127.0.0.1:99999'], /--listen/],
      [['--session-ttl', 'soon'], /--session-ttl/],
      [['--message-ttl', '0s'], /--message-ttl/],
      [['--roster-limit', '200000'], /--roster-limit/],
      [['--history-max', '0'], /--history-max/],
      [['--ping-interval-ms=-1'], /--ping-interval-ms/],
      [['--log-format', 'xml'], /--log-format/],
      [['--log-level', 'shouting'], /--log-level/],
      [['stray'], /stray/],
    ];
    for (const [args, names] of mistakes) {
      const { code, stdout, stderr } = await finished(['--redis', redis.url, ...args]);
      assert.equal(code, 2, `${args}: ${stderr}`);
      assert.equal(stdout, '');
      assert.match(stderr, names, `${args}`);
    }
    const { code, stderr } = await finished(['--redis', redis.url], { env: { CHAT_CLUSTER_WORKERS: 'none' } });
    assert.equal(code, 2, 'a variable is checked like its option');
    assert.match(stderr, /none/);
  });

  test('a URL that is none is one line', async () => {
    for (const url of ['http://127.0.0.1:1', 'redis://', 'redis://:port', 'nonsense', 'redis://127.0.0.1:notaport', 'redis://127.0.0.1/x']) {
      const result = await finished(['--redis', url, '--listen', '127.0.0.1:0', '--runtime-dir', temporaryDirectory()]);
      assert.ok([1, 2].includes(result.code), `${url}: ${result.code} ${result.stderr}`);
      assertOneLine({ ...result, stderr: result.stderr.split('\n')[0] }, result.code, /redis|URL/i);
      if (result.code === 1) assertOneLine(result, 1, /redis|URL/i);
    }
  });

  test('a password in the URL is shown nowhere', async (t) => {
    // Redis takes any password for a user that needs none.
    const url = redis.url.replace('://', '://default:hush-hush@');
    const cluster = await started(t, ['--workers', '1', '--listen', '127.0.0.1:0', '--log-level', 'debug', '--redis', url]);
    assert.ok(cluster.output.length > 0);
    assert.ok(!cluster.output.includes('hush-hush'), cluster.output);
  });

  test('a port that is taken is one line and exit code 1', async (t) => {
    const server = createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.after(() => server.close());
    const address = `127.0.0.1:${server.address().port}`;
    const runtimeDir = temporaryDirectory();
    assertOneLine(
      await finished(['--redis', redis.url, '--listen', address, '--runtime-dir', runtimeDir]),
      1,
      new RegExp(`${address}.*in use`, 'i'),
    );
  });

  test('a runtime directory in use by a living master is one line and exit code 1; a dead one\'s is taken over', async (t) => {
    const first = await startCluster({ redis, workers: 1, t });
    const args = ['--redis', redis.url, '--workers', '1', '--listen', '127.0.0.1:0', '--runtime-dir', first.runtimeDir];
    const second = await finished(args);
    assertOneLine(second, 1, /in use|running/i);
    assert.ok(second.stderr.includes(first.runtimeDir), second.stderr);
    assert.equal((await request(first, '/healthz')).status, 200, 'the first one is unharmed');

    await first.kill();
    const third = new Cluster(args, { redis, runtimeDir: first.runtimeDir });
    t.after(() => third.stop());
    await third.ready();
    assert.equal((await request(third, POLLING)).status, 200);
  });

  test('a runtime directory that others may enter, or that is no directory, is refused', async (t) => {
    const parent = temporaryDirectory();
    t.after(() => rmSync(parent, { recursive: true }));
    const file = join(parent, 'file');
    writeFileSync(file, '');
    assertOneLine(await finished(['--redis', redis.url, '--listen', '127.0.0.1:0', '--runtime-dir', file]), 1, /file/);
    assertOneLine(
      await finished(['--redis', redis.url, '--listen', '127.0.0.1:0', '--runtime-dir', join(parent, 'x'.repeat(120))]),
      1,
      /xxx/,
    );
    const open = join(parent, 'open');
    mkdirSync(open);
    chmodSync(open, 0o777);
    const run = new Run(['--redis', redis.url, '--workers', '1', '--listen', '127.0.0.1:0', '--runtime-dir', open]);
    t.after(() => run.kill());
    // Either it is refused, or it is made private before anything is put into it.
    const ready = run.waitFor(() => run.stdout.includes('http://'), 'the ready line').then(() => true, () => false);
    if (await ready) assert.equal(statSync(open).mode & 0o777, 0o700);
    else assertOneLine({ ...(await run.ended), stdout: run.stdout, stderr: run.stderr }, 1, /open/);
  });

  test('the ready line names the URL, the workers and the store, and is the only line on standard output', async (t) => {
    const cluster = await started(t, ['--workers', '3', '--listen', '127.0.0.1:0', '--redis', redis.url]);
    assert.ok(cluster.readyLine.includes(cluster.url), cluster.readyLine);
    assert.match(cluster.readyLine, /3 workers/);
    assert.match(cluster.readyLine, /redis/i);
    assert.equal(cluster.stdout.trimEnd().split('\n').length, 1, cluster.stdout);
    assert.equal(cluster.workerPids().length, 3);
    const health = await request(cluster, '/healthz');
    assert.equal(health.status, 200);
    assert.equal(health.body.trim(), 'ok');
  });

  test('every option has a variable, and an option wins over its variable', async (t) => {
    const env = {
      CHAT_CLUSTER_WORKERS: '2',
      CHAT_CLUSTER_LISTEN: '127.0.0.1:0',
      CHAT_CLUSTER_REDIS: redis.url,
      CHAT_CLUSTER_BALANCE: 'round-robin',
      CHAT_CLUSTER_PING_INTERVAL_MS: '7000',
      CHAT_CLUSTER_PING_TIMEOUT_MS: '3000',
      CHAT_CLUSTER_CORS_ORIGIN: 'https://chat.example',
      CHAT_CLUSTER_SESSION_TTL: '90s',
      CHAT_CLUSTER_MESSAGE_TTL: '2h',
      CHAT_CLUSTER_LOG_FORMAT: 'json',
      CHAT_CLUSTER_LOG_LEVEL: 'debug',
    };
    const cluster = await started(t, ['--workers', '3', '--ping-timeout-ms', '4000'], env);
    assert.equal(cluster.workerPids().length, 3);
    const handshakes = [];
    for (let n = 0; n < 3; n += 1) {
      const answer = await request(cluster, POLLING, { headers: { Origin: 'https://chat.example' } });
      assert.equal(answer.headers['access-control-allow-origin'], 'https://chat.example');
      handshakes.push(JSON.parse(answer.body.slice(1)));
    }
    assert.equal(handshakes[0].pingInterval, 7_000);
    assert.equal(handshakes[0].pingTimeout, 4_000);
    assert.deepEqual(handshakes.map(({ sid }) => readTag(sid).worker).sort(), [0, 1, 2], 'round-robin');
    for (const line of cluster.stderr.trim().split('\n')) JSON.parse(line);

    const user = await ChatUser.logIn(cluster, { username: 'variable' });
    await user.send(user, 'x');
    const connection = redis.connect();
    const ttls = [await connection.ttl(`session:${user.session.sessionID}`), await connection.ttl(`messages:${user.userID}`)];
    assert.ok(ttls[0] > 60 && ttls[0] <= 90 && ttls[1] > 7_100 && ttls[1] <= 7_200, `${ttls}`);
    user.close();
  });

  test('REDIS_URL and PORT count, and PORT alone means every address', async (t) => {
    const port = await freePort();
    const cluster = await started(t, ['--workers', '1'], { REDIS_URL: redis.url, PORT: String(port) });
    assert.equal(cluster.url, `http://0.0.0.0:${port}`);
    assert.equal((await request({ host: '127.0.0.9', port }, '/healthz')).status, 200);

    // --listen and CHAT_CLUSTER_LISTEN win over PORT, CHAT_CLUSTER_REDIS over REDIS_URL.
    const other = await started(t, ['--workers', '1', '--listen', '127.0.0.1:0'], {
      REDIS_URL: 'redis://127.0.0.1:1',
      CHAT_CLUSTER_REDIS: redis.url,
      PORT: String(port),
    });
    assert.notEqual(other.port, port);
    assert.equal((await request(other, '/healthz')).status, 200);
  });

  test('--listen is repeatable, and takes IPv6 and Unix sockets', async (t) => {
    const directory = temporaryDirectory();
    t.after(() => rmSync(directory, { recursive: true }));
    const socketPath = join(directory, 'listen.sock');
    const [port, port6] = [await freePort(), await freePort()];
    const cluster = await started(t, [
      ...['--workers', '2', '--redis', redis.url, '--balance', 'client-hash'],
      ...['--listen', `127.0.0.1:${port}`, '--listen', `[::1]:${port6}`, '--listen', `unix:${socketPath}`],
    ]);
    const users = [];
    for (const server of [{ host: '127.0.0.1', port }, { host: '::1', port: port6 }, { socketPath }]) {
      assert.equal((await request(server, '/healthz')).status, 200, JSON.stringify(server));
      assert.equal((await request(server, POLLING)).status, 200, JSON.stringify(server));
    }
    for (const url of [`http://127.0.0.1:${port}`, `http://[::1]:${port6}`]) {
      users.push(await ChatUser.logIn({ url }, { username: url, transports: ['polling', 'websocket'] }));
    }
    await users[0].send(users[1], 'across listeners');
    await users[1].got('private message');
    users.forEach((user) => user.close());
    await cluster.stop();
    assert.ok(!existsSync(socketPath), 'a Unix socket is removed at the end');
  });

  test('a Unix socket that a dead process left is taken over, a living one and any other file are not', async (t) => {
    const directory = temporaryDirectory();
    t.after(() => rmSync(directory, { recursive: true }));
    const socketPath = join(directory, 'listen.sock');
    const args = ['--workers', '1', '--redis', redis.url, '--listen', `unix:${socketPath}`, '--listen', '127.0.0.1:0'];
    const first = await started(t, args);
    const again = await finished([...args, '--runtime-dir', temporaryDirectory()]);
    assertOneLine(again, 1, /in use/i);
    await first.kill();
    await started(t, args);
    assert.equal((await request({ socketPath }, '/healthz')).status, 200);

    const file = join(directory, 'precious');
    writeFileSync(file, 'data');
    const refused = await finished(['--redis', redis.url, '--listen', `unix:${file}`, '--runtime-dir', temporaryDirectory()]);
    assertOneLine(refused, 1, /precious/);
    assert.equal(statSync(file).size, 4, 'not a byte of it is touched');
  });

  test('the default runtime directory is always the same, private, and owned by us', async (t) => {
    const runtime = temporaryDirectory();
    t.after(() => rmSync(runtime, { recursive: true }));
    const args = ['--workers', '1', '--redis', redis.url, '--listen', '127.0.0.1:0'];
    const cluster = new Cluster(args, { runtimeDir: temporaryDirectory(), env: { XDG_RUNTIME_DIR: runtime } });
    t.after(() => cluster.stop());
    await cluster.ready();
    const directory = join(runtime, 'chat-cluster');
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    assert.ok(readdirSync(directory).includes('master.lock'));
    assert.ok(readdirSync(directory).includes('worker-0.lock'));
    assertOneLine(await finished(args, { env: { XDG_RUNTIME_DIR: runtime } }), 1, /in use|running/i);

    // Somebody may have put a link there before us.
    const elsewhere = temporaryDirectory();
    const trap = temporaryDirectory();
    t.after(() => [elsewhere, trap].forEach((path) => rmSync(path, { recursive: true })));
    symlinkSync(trap, join(elsewhere, 'chat-cluster'));
    chmodSync(trap, 0o755);
    const run = await finished(args, { env: { XDG_RUNTIME_DIR: elsewhere } });
    assertOneLine(run, 1, /chat-cluster/);
  });

  test('without XDG_RUNTIME_DIR a user other than root gets one in the temporary directory, if it is theirs', async (t) => {
    const root = process.getuid() === 0;
    const uid = root ? 65_534 : process.getuid();
    const temporary = temporaryDirectory();
    t.after(() => rmSync(temporary, { recursive: true }));
    chmodSync(temporary, 0o1777);
    // The other user may not be able to enter the folder that the binary is in.
    const binary = join(temporary, 'chat-cluster-binary');
    copyFileSync(BINARY, binary);
    const args = ['--workers', '1', '--redis', redis.url, '--listen', '127.0.0.1:0'];
    const options = { env: { TMPDIR: temporary }, cwd: temporary, binary, ...(root ? { uid, gid: uid } : {}) };
    const directory = join(temporary, `chat-cluster-${uid}`);
    const cluster = new Cluster(args, { runtimeDir: directory, ...options });
    t.after(() => cluster.stop());
    await cluster.ready();
    assert.equal(statSync(directory).uid, uid);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    await cluster.stop();
    if (!root) return;

    // Anybody can make a directory of that name there: one that is somebody else's is not used.
    mkdirSync(directory, { recursive: true });
    chmodSync(directory, 0o777);
    assertOneLine(await finished(args, options), 1, new RegExp(directory));
    assert.deepEqual(readdirSync(directory), []);
  });

  test('without --workers there is one for every CPU', async (t) => {
    const cluster = await started(t, ['--listen', '127.0.0.1:0', '--redis', redis.url]);
    const { availableParallelism } = await import('node:os');
    assert.equal(cluster.workerPids().length, availableParallelism());
  });

  test('redis+unix reaches Redis by its socket', async (t) => {
    const cluster = await started(t, ['--workers', '1', '--listen', '127.0.0.1:0', '--redis', `redis+unix://${redis.socketPath}`]);
    const user = await ChatUser.logIn(cluster, { username: 'unix' });
    assert.equal((await user.send(user, 'x')).ok, true);
    user.close();
  });
});
