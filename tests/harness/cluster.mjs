// Starts the release binary as a user would, and ends it: with its own runtime directory and a port of the
// kernel's choosing, read from the line that says it is ready.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endsWithUs } from './leftovers.mjs';
import { childrenOf, holdersOf, isAlive, workersIn } from './proc.mjs';
import { startRedis } from './redis.mjs';
import { borrowRedisCluster } from './redis_cluster.mjs';
import { Run } from './run.mjs';
import { until, within } from './wait.mjs';

/** Where the clusters of the tests keep their state unless a test says so itself: `redis` or `embedded`. */
export const STORE = process.env.TEST_STORE ?? 'embedded';
if (!['embedded', 'redis', 'redis-cluster', 'redis-cluster-sharded'].includes(STORE)) {
  throw new Error(`TEST_STORE=${STORE}: embedded, redis, redis-cluster or redis-cluster-sharded`);
}
const SHARDED = STORE === 'redis-cluster-sharded' ? ['--sharded-pubsub'] : [];

/** A new Redis of the kind that this run of the tests is about. */
async function ownRedis() {
  return STORE.startsWith('redis-cluster') ? await borrowRedisCluster() : await startRedis();
}

export class Cluster extends Run {
  /**
   * `redis`: the server it uses, if any; `ca`: with TLS, the certificate to trust; `owned`: directories and
   * servers that end with it.
   */
  constructor(args, { redis, runtimeDir, dataDir, ca, owned = [], ...options }) {
    super(args, options);
    this.redis = redis;
    this.ca = ca;
    this.runtimeDir = runtimeDir;
    this.dataDir = dataDir;
    this.owned = owned;
  }

  async ready() {
    // Only the ready line goes to standard output; the log has standard error.
    const ready = () => /^.*(https?):\/\/(\[[0-9a-f:]+\]|[0-9.]+):(\d+).*$/m.exec(this.stdout);
    const [line, scheme, host, port] = await this.waitFor(ready, 'the ready line');
    this.readyLine = line;
    this.host = host.replace(/[[\]]/g, '');
    this.port = Number(port);
    this.url = `${scheme}://${host}:${port}`;
    return this;
  }

  /** What makes another cluster share this one's state: options of `startCluster`. */
  get store() {
    return { redis: this.redis, dataDir: this.dataDir };
  }

  /** Pids of the living worker processes. */
  workerPids() {
    return childrenOf(this.pid);
  }

  /** Living workers by worker id, as their locks in the runtime directory say. */
  workersById() {
    const pids = new Set(this.workerPids());
    return new Map([...workersIn(this.runtimeDir)].filter(([, pid]) => pids.has(pid)));
  }

  /** The pids of the workers that serve these client ends (`{localAddress, localPort}`); waits for the handoff. */
  async servedBy(clientEnds) {
    return await until(() => {
      const holders = holdersOf(clientEnds, this.port, this.workerPids());
      return holders.every((pid) => pid !== undefined) && holders;
    }, 'every connection is held by a worker');
  }

  /** kill -9, of a worker that may have died just now. */
  killWorker(pid) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }

  /** Waits until `count` workers live, none of them one of `gone`, and all hold their locks. */
  async workersReplaced(count, gone = []) {
    return await until(() => {
      const workers = this.workersById();
      return workers.size === count && ![...workers.values()].some((pid) => gone.includes(pid)) && workers;
    }, `${count} workers live`);
  }

  /**
   * SIGTERM, as an operator stops it. Throws unless it ends with exit code 0 within 10 s and leaves no
   * process behind.
   */
  async stop(signal = 'SIGTERM') {
    const workers = this.workerPids();
    try {
      if (this.process.exitCode === null && this.process.signalCode === null) {
        this.process.kill(signal);
        const { code, signal: killedBy } = await within(this.exited, `${signal} ends chat-cluster`, 10_000);
        if (code !== 0) throw new Error(`${signal}: exit code ${code}, signal ${killedBy}:\n${this.tail()}`);
        await until(() => !workers.some(isAlive), 'no worker outlives a stopped master', 2_000);
      }
    } catch (error) {
      error.message += `\n${this.tail()}`;
      throw error;
    } finally {
      await this.kill();
      for (const pid of workers.filter(isAlive)) process.kill(pid, 'SIGKILL');
      for (const end of this.owned) await end();
      rmSync(this.runtimeDir, { recursive: true, force: true });
    }
  }
}

/** A new, empty directory for a master's runtime files, or its data. */
export function temporaryDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'cc-run-'));
  endsWithUs(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A log-in brings the whole of each conversation, unless a test is about that: they look there for what was missed. */
const WHOLE_HISTORY = 10_000;

/**
 * A store of the kind that this run of the tests is about, for clusters that share it: options of
 * `startCluster`. Gone with the test.
 */
export async function emptyStore(t) {
  if (STORE === 'embedded') return { dataDir: temporaryDirectory() };
  const redis = await ownRedis();
  t.after(() => redis.stop());
  return { redis };
}

/**
 * Starts a cluster and waits until it is ready. `redis`: a server to share; `dataDir`: a directory to keep the
 * embedded store in. With neither it gets a store of its own, of the kind that this run of the tests is about,
 * which ends with it. `historyLimit`: null for the program's own. `listen`: instead of a port of the kernel's choosing,
 * or null; `certificate`: speak TLS, with this one. With a test context `t`, the cluster is stopped when that test ends.
 */
export async function startCluster(
  {
    workers = 4, listen = '127.0.0.1:0', balance, certificate, args = [], historyLimit = WHOLE_HISTORY, redis, dataDir, runtimeDir, t,
    ...options
  } = {},
) {
  const owned = [];
  if (!redis && !dataDir && STORE !== 'embedded') {
    redis = await ownRedis();
    owned.push(() => redis.stop());
  }
  if (!redis && !dataDir) {
    dataDir = temporaryDirectory();
    owned.push(() => rmSync(dataDir, { recursive: true, force: true }));
  }
  runtimeDir ??= temporaryDirectory();
  let cluster;
  try {
    cluster = new Cluster(
      [
        ...['--workers', workers, '--runtime-dir', runtimeDir],
        ...(listen ? ['--listen', listen] : []),
        ...(redis ? ['--redis', redis.url, ...(redis.url.startsWith('redis+cluster:') ? SHARDED : [])] : ['--data-dir', dataDir]),
        ...(historyLimit === null ? [] : ['--history-limit', historyLimit]),
        ...(balance ? ['--balance', balance] : []),
        ...(certificate?.args ?? []),
        ...args,
      ],
      { redis, runtimeDir, dataDir, ca: certificate?.pem, owned, ...options },
    );
    await cluster.ready();
  } catch (error) {
    await cluster?.kill();
    for (const end of owned) await end();
    throw error;
  }
  t?.after(() => cluster.stop());
  return cluster;
}
