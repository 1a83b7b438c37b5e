// Starts the release binary as a user would, and ends it: with its own runtime directory and a port of the
// kernel's choosing, read from the line that says it is ready.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { endsWithUs, processEndsWithUs } from './leftovers.mjs';
import { childrenOf, flockHolder, holdersOf, isAlive } from './proc.mjs';
import { startRedis } from './redis.mjs';
import { Hopeless, until, within } from './wait.mjs';

/** The root of the checkout. */
export const CHECKOUT = resolve(fileURLToPath(import.meta.url), '../../..');

/** The binary under test. */
export const BINARY = process.env.CHAT_CLUSTER_BINARY ?? join(CHECKOUT, 'target/release/chat-cluster');

/** This process's environment without anything that the binary reads, and with `extra`. */
function cleanEnvironment(extra) {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('CHAT_CLUSTER_') && !['REDIS_URL', 'PORT', 'XDG_RUNTIME_DIR'].includes(name),
  );
  return { ...Object.fromEntries(inherited), ...extra };
}

/** One run of the binary: its output, its end. */
export class Run {
  constructor(args, { env = {}, binary = BINARY, ...options } = {}) {
    if (!existsSync(binary)) throw new Error(`${binary} does not exist: make build`);
    this.stdout = '';
    this.stderr = '';
    this.process = spawn(binary, args, {
      ...options,
      env: cleanEnvironment(env),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.pid = this.process.pid;
    this.tidied = processEndsWithUs(this.pid);
    for (const name of ['stdout', 'stderr']) {
      this.process[name].setEncoding('utf8').on('data', (text) => {
        this[name] += text;
        if (process.env.SHOW_LOGS) process.stderr.write(text);
      });
    }
    /** `{code, signal}` once the process has ended and its output was read. */
    this.ended = new Promise((done) => this.process.once('close', (code, signal) => done({ code, signal })));
    // The workers share the output pipes, so `close` may come long after the master's own end.
    this.exited = new Promise((done) => this.process.once('exit', (code, signal) => done({ code, signal })));
  }

  get output() {
    return this.stdout + this.stderr;
  }

  /** Waits for something that can only come true while the process lives. */
  async waitFor(ask, what, limitMs) {
    const found = until(() => {
      if (this.process.exitCode !== null) throw new Hopeless(`chat-cluster ended with ${this.process.exitCode}`);
      return ask();
    }, what, limitMs);
    return await found.catch((error) => {
      error.message += `\n${this.tail()}`;
      throw error;
    });
  }

  /** Waits for a match of the pattern in what was written so far or is written from now on. */
  async line(pattern, limitMs) {
    return await this.waitFor(() => pattern.exec(this.output), `the output matches ${pattern}`, limitMs);
  }

  /** The last lines it wrote, for a failure's message. */
  tail() {
    return this.output.split('\n').slice(-25).join('\n');
  }

  /** Ends it whatever it is doing, workers included. */
  async kill() {
    const workers = childrenOf(this.pid);
    this.process.kill('SIGKILL');
    for (const pid of workers) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended with its master
      }
    }
    await within(this.exited, 'a killed process ends');
    this.tidied();
  }
}

export class Cluster extends Run {
  constructor(args, { redis, ownsRedis, runtimeDir, ...options }) {
    super(args, options);
    this.redis = redis;
    this.ownsRedis = ownsRedis;
    this.runtimeDir = runtimeDir;
  }

  async ready() {
    // Only the ready line goes to standard output; the log has standard error.
    const ready = () => /^.*http:\/\/(\[[0-9a-f:]+\]|[0-9.]+):(\d+).*$/m.exec(this.stdout);
    const [line, host, port] = await this.waitFor(ready, 'the ready line');
    this.readyLine = line;
    this.host = host.replace(/[[\]]/g, '');
    this.port = Number(port);
    this.url = `http://${host}:${port}`;
    return this;
  }

  /** Pids of the living worker processes. */
  workerPids() {
    return childrenOf(this.pid);
  }

  /** Living workers by worker id, as their locks in the runtime directory say. */
  workersById() {
    const pids = new Set(this.workerPids());
    const workers = new Map();
    for (const name of readdirSync(this.runtimeDir)) {
      const id = /^worker-(\d+)\.lock$/.exec(name)?.[1];
      const pid = id === undefined ? undefined : flockHolder(join(this.runtimeDir, name));
      if (pids.has(pid)) workers.set(Number(id), pid);
    }
    return workers;
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
      if (this.ownsRedis) await this.redis.stop();
      rmSync(this.runtimeDir, { recursive: true, force: true });
    }
  }
}

/** A new, empty directory for a master's runtime files. */
export function temporaryDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'cc-run-'));
  endsWithUs(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/**
 * Starts a cluster and waits until it is ready. `redis`: a server to share; without one it gets its own, which
 * ends with it. With a test context `t`, the cluster is stopped when that test ends.
 */
export async function startCluster({ workers = 4, balance, args = [], redis, t, ...options } = {}) {
  const ownsRedis = !redis;
  redis ??= await startRedis();
  const runtimeDir = temporaryDirectory();
  let cluster;
  try {
    cluster = new Cluster(
      [
        ...['--workers', workers, '--listen', '127.0.0.1:0', '--redis', redis.url, '--runtime-dir', runtimeDir],
        ...(balance ? ['--balance', balance] : []),
        ...args,
      ],
      { redis, ownsRedis, runtimeDir, ...options },
    );
    await cluster.ready();
  } catch (error) {
    await cluster?.kill();
    if (ownsRedis) await redis.stop();
    throw error;
  }
  t?.after(() => cluster.stop());
  return cluster;
}
