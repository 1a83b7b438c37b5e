// The cluster that operations are done to: from a binary of its own, which can be replaced, on a port that outlives it.
import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { emptyStore, startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { childrenOf, isAlive, workersIn } from '../harness/proc.mjs';
import { freePort } from '../harness/redis.mjs';
import { BINARY } from '../harness/run.mjs';
import { until, within } from '../harness/wait.mjs';

/**
 * The least of a service manager that holds the listening socket, descriptor 3, and starts a master again 3 s after it has
 * died.
 */
const MANAGER = `export LISTEN_FDS=1
until sh -c 'export LISTEN_PID=$$; exec "$@"' sh "$@"; do sleep 3; done`;

export class Subject {
  /** `t`: the test that it ends with; `args`: more of the command line; `passSocket`: a service manager holds the socket. */
  static async start(t, { workers = 4, args = [], passSocket = false } = {}) {
    const subject = new Subject();
    subject.options = { workers, args };
    subject.passSocket = passSocket;
    subject.store = await emptyStore(t);
    subject.directory = temporaryDirectory();
    subject.binary = join(subject.directory, 'chat-cluster');
    subject.runtimeDir = join(subject.directory, 'run');
    subject.listen = `127.0.0.1:${await freePort()}`;
    copyFileSync(BINARY, subject.binary);
    await subject.startMaster();
    t.after(() => subject.stop());
    return subject;
  }

  async startMaster() {
    const { binary, runtimeDir, listen, options } = this;
    const started = { ...this.store, ...options, binary, runtimeDir };
    if (!this.passSocket) {
      this.cluster = await startCluster({ ...started, listen });
      return;
    }
    const server = createServer();
    await new Promise((resolve) => server.listen(Number(listen.split(':')[1]), '127.0.0.1', 511, resolve));
    const passed = [server._handle.fd];
    this.cluster = await startCluster({ ...started, listen: null, passed, wrapper: ['sh', '-c', MANAGER, 'sh'] });
    // From here on the service manager's alone. Nothing has connected: the cluster was not known to be there.
    server.close();
  }

  /** The master's pid: a child of the service manager, where there is one. */
  get master() {
    return this.passSocket ? childrenOf(this.cluster.pid)[0] : this.cluster.pid;
  }

  /** Where the embedded store is, if that is the one. */
  get dataDir() {
    return this.store.dataDir;
  }

  /** Where clients find it, for another process. */
  get server() {
    const { url, host, port } = this.cluster;
    return { url, host, port };
  }

  /** Living workers by id, whoever started them. */
  workers() {
    return workersIn(this.runtimeDir);
  }

  /** A command of the operator's; throws with what it said unless it succeeded. Its output. */
  async command(...words) {
    const { code, stdout, stderr } = await this.run(...words);
    if (code !== 0) throw new Error(`chat-cluster ${words.join(' ')}: ${code} ${stdout}${stderr}\n${this.cluster.tail()}`);
    return stdout.trim();
  }

  /** The same, whatever comes of it: `{code, stdout, stderr}`. */
  async run(...words) {
    return await new Promise((resolve) => {
      execFile(BINARY, [...words.map(String), '--runtime-dir', this.runtimeDir], { timeout: 120_000 }, (error, stdout, stderr) =>
        resolve({ code: error ? error.code : 0, stdout, stderr }),
      );
    });
  }

  /** From now on the file on disk is the same program with another version string of the same length. */
  replaceBinary(version) {
    const bytes = readFileSync(BINARY);
    const own = execFileSync(BINARY, ['--version'], { encoding: 'utf8' }).trim().split(' ').at(-1);
    if (version.length !== own.length) throw new Error(`${version} is not as long as ${own}`);
    const [from, to] = [Buffer.from(own), Buffer.from(version)];
    for (let at = bytes.indexOf(from); at !== -1; at = bytes.indexOf(from, at + to.length)) to.copy(bytes, at);
    this.writeBinary(bytes);
  }

  /** Replaces the file on disk as an installer does: the old one stays what runs. */
  writeBinary(content) {
    const aside = `${this.binary}.new`;
    writeFileSync(aside, content, { mode: 0o755 });
    renameSync(aside, this.binary);
  }

  /** kill -9 of the master alone, and another one after 3 s. */
  async replaceMaster() {
    const { master } = this;
    process.kill(master, 'SIGKILL');
    if (this.passSocket) {
      await until(() => this.cluster.stdout.match(/is ready at/g).length > 1, 'the service manager starts the next one');
      return;
    }
    await this.cluster.exited;
    await sleep(3_000);
    await this.startMaster();
  }

  async stop() {
    const workers = [...this.workers().values()];
    if (this.passSocket) {
      process.kill(this.master, 'SIGTERM');
      await within(this.cluster.exited, 'the service manager ends', 20_000);
    }
    await this.cluster.stop();
    for (const pid of workers.filter(isAlive)) process.kill(pid, 'SIGKILL');
  }
}
