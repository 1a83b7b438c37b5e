// One run: users who chat while the cluster is struck by the faults of a plan, and what the checker finds afterwards.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { newDisk, pauseDisk } from '../harness/disk.mjs';
import { OtherProcess } from '../harness/other_process.mjs';
import { childrenOf, isAlive } from '../harness/proc.mjs';
import { freePort, startRedis } from '../harness/redis.mjs';
import { until } from '../harness/wait.mjs';
import { check, ghosts } from './checker.mjs';
import { plan } from './plan.mjs';

const WORKERS = 4;
const PROCESSES = 4;

/** How long the cluster may take to be whole again once nothing strikes it any more, in ms. */
const SETTLE_MS = 60_000;

/** How long somebody who has gone may be listed as connected, in ms: a lease of 10 s, the grace, and what it takes to notice. */
const GHOST_MS = 30_000;

/** A cluster on a port of its own, whose parts can be taken away. */
class Subject {
  constructor(store) {
    this.store = store;
    this.frozen = new Set();
    this.masters = [];
  }

  /** What of it the faults can strike. */
  get has() {
    return [this.redis && 'redis', this.disk.path && 'disk'].filter(Boolean);
  }

  async start() {
    this.port = await freePort();
    // Without one it is all on the disk of the machine, which nobody may pause.
    this.disk = newDisk();
    const directory = this.disk.path ?? temporaryDirectory();
    if (this.store === 'redis') {
      // What it has confirmed must be there when it is back.
      const settings = ['--appendonly', 'yes', '--appendfsync', 'always', '--dir', directory];
      this.redis = await startRedis(await freePort(), settings);
    } else {
      this.dataDir = join(directory, 'data');
    }
    this.runtimeDir = temporaryDirectory();
    await this.startMaster();
  }

  async startMaster() {
    const { redis, dataDir, runtimeDir } = this;
    this.cluster = await startCluster({ redis, dataDir, runtimeDir, workers: WORKERS, listen: `127.0.0.1:${this.port}` });
    this.masters.push(this.cluster);
  }

  /** Living workers, also those of an earlier master. */
  workers() {
    const pids = [...this.cluster.workersById().values(), ...this.masters.flatMap(({ pid }) => childrenOf(pid))];
    return [...new Set([...pids, ...(this.adopted ?? [])])].filter((pid) => isAlive(pid) && !this.frozen.has(pid)).toSorted();
  }

  async strike({ name, pick, lasts, share }, clients) {
    const workers = this.workers();
    const worker = workers[Math.floor(pick * workers.length)];
    switch (name) {
      case 'kill a worker':
        if (worker) process.kill(worker, 'SIGKILL');
        return worker;
      case 'roll a worker':
        if (worker) process.kill(worker, 'SIGTERM');
        return worker;
      case 'freeze a worker':
        if (worker) await this.freeze(worker, lasts);
        return worker;
      case 'cut clients':
        await Promise.all(clients.map((process, n) => process.call('cut', { share, seed: Math.floor(pick * 1e9) + n })));
        return `${Math.round(share * 100)} %`;
      case 'kill the master': {
        this.adopted = workers;
        this.cluster.process.kill('SIGKILL');
        await this.cluster.exited;
        await this.startMaster();
        return this.cluster.pid;
      }
      case 'pause the disk': {
        const resume = pauseDisk(this.disk.path);
        await sleep(lasts); // it is paused for so long
        resume();
        return '';
      }
      case 'freeze Redis':
        await this.freeze(this.redis.process.pid, lasts);
        return this.redis.process.pid;
      case 'kill Redis':
        await this.redis.kill();
        await sleep(lasts); // it is away for so long
        await this.redis.start();
        return this.redis.process.pid;
      default:
        throw new Error(`no such fault: ${name}`);
    }
  }

  async freeze(pid, lasts) {
    this.frozen.add(pid);
    try {
      process.kill(pid, 'SIGSTOP');
      await sleep(lasts); // it is frozen for so long
      process.kill(pid, 'SIGCONT');
    } catch (error) {
      // A frozen worker may have been replaced.
      if (error.code !== 'ESRCH') throw error;
    } finally {
      this.frozen.delete(pid);
    }
  }

  async stop() {
    const workers = this.workers();
    for (const master of this.masters.toReversed()) await master.stop();
    for (const pid of workers.filter(isAlive)) process.kill(pid, 'SIGKILL');
    await this.redis?.stop();
  }
}

/**
 * Runs once: `store` embedded or redis, for so many `seconds`, with so many `clients` who send about `rate` messages a
 * second together. `say` is told what happens, line by line. Returns `{acked, refusals, faults, wrong}`, where `wrong`
 * has lists of what is lost, doubled, disordered, and ghosts.
 */
export async function run({ store, seed, seconds, clients: count = 200, rate = 300, say = () => {} }) {
  const subject = new Subject(store);
  const clients = Array.from({ length: PROCESSES }, () => new OtherProcess('../chaos/clients.mjs'));
  const all = (command, options, limitMs) => Promise.all(clients.map((process, n) => process.call(command, options?.(n) ?? {}, limitMs)));
  try {
    await subject.start();
    const faults = plan({ seed, durationMs: seconds * 1_000, has: subject.has });
    if (subject.disk.failed) say(`the disk is not paused: ${subject.disk.failed}`);
    const { url } = subject.cluster;
    const ids = await all('logIn', (n) => ({ url, name: `client ${n}`, count: count / PROCESSES }), SETTLE_MS);
    await all('start', (n) => ({ others: ids.flat(), pauseMs: (count / rate) * 1_000, seed: seed + 1_000 * n }));
    const began = performance.now();
    for (const fault of faults) {
      await sleep(Math.max(0, fault.at - (performance.now() - began))); // until it is due
      const struck = await subject.strike(fault, clients);
      const what = [fault.name, struck, fault.lasts && `for ${fault.lasts} ms`].filter(Boolean).join(', ');
      say(`${((performance.now() - began) / 1_000).toFixed(1).padStart(6)} s  ${what}`);
    }
    await sleep(Math.max(0, seconds * 1_000 - (performance.now() - began))); // the rest of the run
    await all('finish', undefined, SETTLE_MS);
    const users = Object.assign({}, ...(await all('account', undefined, SETTLE_MS)));
    const due = {};
    for (const [from, { sent }] of Object.entries(users)) for (const { id, to } of sent) (due[to] ??= []).push(`${from} ${id}`);
    const settled = until(async () => (await all('haveHeard', () => ({ due }))).every(Boolean), 'everybody has heard all', SETTLE_MS);
    // What was not told by then is lost; the checker says which.
    await settled.catch(() => say('not everybody has heard all'));
    for (const told of await all('account', undefined, SETTLE_MS)) for (const [id, account] of Object.entries(told)) users[id].told = account.told;
    for (const lists of await all('stored', () => ({ url }), SETTLE_MS)) for (const [id, stored] of Object.entries(lists)) users[id].stored = stored;
    const wrong = check(users);
    wrong.ghosts = await ghostsOf(url, (await all('retire', () => ({ count: count / PROCESSES / 2 }))).flat());
    const sum = (of) => Object.values(users).reduce((total, user) => total + of(user), 0);
    return { acked: sum(({ sent }) => sent.length), refusals: sum(({ refusals }) => refusals), faults: faults.length, wrong };
  } finally {
    await Promise.all(clients.map((process) => process.stop()));
    await subject.stop();
  }
}

/** Who is listed wrongly when it should have been noticed. */
async function ghostsOf(url, connected) {
  let found;
  const none = until(async () => {
    const watcher = await ChatUser.logIn({ url }, { username: 'watcher' });
    const list = watcher.users.filter(({ username }) => username.startsWith('client '));
    watcher.close();
    found = ghosts(list, connected);
    return found.length === 0;
  }, 'nobody is listed wrongly', GHOST_MS);
  await none.catch(() => {});
  return found;
}
