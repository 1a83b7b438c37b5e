// A Redis Cluster of the test's own: three primaries with a replica each, on free ports of loopback.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cluster, Redis } from 'ioredis';
import { endsWithUs, processEndsWithUs } from './leftovers.mjs';
import { freePort } from './redis.mjs';
import { Hopeless, until, within } from './wait.mjs';

const PRIMARIES = 3;
const SLOTS = 16_384;

/** After how long a silent server counts as failed, in ms: a test waits for it. */
const NODE_TIMEOUT_MS = 2_000;

/** One of its servers. */
class Node {
  constructor(directory, port, busPort) {
    mkdirSync(directory);
    this.port = port;
    this.busPort = busPort;
    this.output = '';
    this.process = spawn(
      'redis-server',
      [
        ...['--port', port, '--bind', '127.0.0.1', '--dir', directory, '--save', ''],
        ...['--cluster-enabled', 'yes', '--cluster-port', busPort, '--cluster-node-timeout', NODE_TIMEOUT_MS],
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.tidied = processEndsWithUs(this.process.pid);
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on('data', (text) => (this.output += text));
    this.exited = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.once('error', (error) => (this.output += error));
  }

  async ready() {
    await until(() => {
      if (this.process.exitCode !== null) throw new Hopeless(`redis-server ended:\n${this.output}`);
      return /[Rr]eady to accept connections/.test(this.output);
    }, 'a server of the cluster is ready');
    this.connection = new Redis({ port: this.port, host: '127.0.0.1' });
    this.connection.on('error', () => {}); // a test that kills it expects it
    endsWithUs(() => this.connection.disconnect());
    this.id = await this.connection.call('CLUSTER', 'MYID');
  }

  cluster(...words) {
    return this.connection.call('CLUSTER', ...words);
  }

  async kill() {
    this.connection?.disconnect();
    this.process.kill('SIGKILL');
    await within(this.exited, 'a server of the cluster ends');
    this.tidied();
  }
}

class RedisCluster {
  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'cc-redis-cluster-'));
    endsWithUs(() => rmSync(this.directory, { recursive: true, force: true }));
    this.nodes = [];
    this.connections = [];
  }

  get url() {
    return `redis+cluster://${this.nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`;
  }

  get primaries() {
    return this.nodes.slice(0, PRIMARIES);
  }

  async start() {
    const ports = new Set();
    while (ports.size < 4 * PRIMARIES) ports.add(await freePort());
    const [...free] = ports;
    for (let n = 0; n < 2 * PRIMARIES; n += 1) {
      this.nodes.push(new Node(join(this.directory, String(n)), free[2 * n], free[2 * n + 1]));
    }
    await Promise.all(this.nodes.map((node) => node.ready()));
    await Promise.all(this.nodes.map((node, n) => node.cluster('SET-CONFIG-EPOCH', n + 1)));
    for (const [n, node] of this.primaries.entries()) {
      const bounds = [n, n + 1].map((part) => Math.ceil((SLOTS / PRIMARIES) * part));
      await node.cluster('ADDSLOTSRANGE', bounds[0], bounds[1] - 1);
    }
    const [first, ...others] = this.nodes;
    for (const { port, busPort } of others) await first.cluster('MEET', '127.0.0.1', port, busPort);
    const all = async (holds) => (await Promise.all(this.nodes.map(holds))).every(Boolean);
    await until(
      () => all(async (node) => this.primaries.every(({ id }) => node.known?.includes(id)) || ((node.known = await node.cluster('NODES')), false)),
      'the servers know each other',
    );
    for (const [n, primary] of this.primaries.entries()) await this.nodes[PRIMARIES + n].cluster('REPLICATE', primary.id);
    await until(
      () => all(async (node) => {
        const info = await node.cluster('INFO');
        return /cluster_state:ok/.test(info) && info.includes(`cluster_slots_ok:${SLOTS}`) && info.includes(`cluster_known_nodes:${2 * PRIMARIES}`);
      }),
      'the cluster is whole',
    );
    await until(
      async () => (await Promise.all(this.nodes.slice(PRIMARIES).map(({ connection }) => connection.info('replication'))))
        .every((info) => info.includes('master_link_status:up')),
      'the replicas follow',
    );
    return this;
  }

  /** A connection for the test to look with; closed by `stop`. */
  connect() {
    const connection = new Cluster(this.nodes.map(({ port }) => ({ host: '127.0.0.1', port })));
    connection.on('error', () => {});
    endsWithUs(() => connection.disconnect());
    this.connections.push(connection);
    return connection;
  }

  /** That no command so far needed two slots. */
  async assertOneSlotEach() {
    const errors = await Promise.all(this.primaries.map(({ connection }) => connection.info('errorstats')));
    assert.doesNotMatch(errors.join(), /CROSSSLOT/);
  }

  async flush() {
    for (const connection of this.connections.splice(0)) connection.disconnect();
    await Promise.all(this.primaries.map(({ connection }) => connection.flushall()));
  }

  async stop() {
    for (const connection of this.connections) connection.disconnect();
    await Promise.all(this.nodes.map((node) => node.kill()));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Starts one. */
export async function startRedisCluster() {
  return await new RedisCluster().start();
}

/** Those of this test file that nobody uses just now: one takes seconds to start. */
const idle = [];

/** An empty one, which the next test of the file may get after its `stop`. */
export async function borrowRedisCluster() {
  const cluster = idle.pop() ?? (await startRedisCluster());
  const giveBack = async () => {
    await cluster.assertOneSlotEach();
    await cluster.flush();
    idle.push(cluster);
  };
  return { url: cluster.url, connect: () => cluster.connect(), stop: giveBack };
}
