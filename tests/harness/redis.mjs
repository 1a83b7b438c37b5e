// A redis-server of the test's own, on a free port and on a Unix socket, in a temporary directory.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Redis from 'ioredis';
import { endsWithUs, processEndsWithUs } from './leftovers.mjs';
import { Hopeless, until, within } from './wait.mjs';

/** A TCP port of loopback that nothing listens on just now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

class RedisServer {
  constructor(port, settings = []) {
    this.port = port;
    this.settings = settings;
    this.directory = mkdtempSync(join(tmpdir(), 'cc-redis-'));
    endsWithUs(() => rmSync(this.directory, { recursive: true, force: true }));
    this.socketPath = join(this.directory, 'redis.sock');
    this.connections = [];
    this.output = '';
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Also once it was killed: with the data that it had on disk. */
  async start() {
    this.begin();
    await until(() => {
      if (this.process.exitCode !== null) throw new Hopeless(`redis-server ended:\n${this.output}`);
      return this.output.includes('Ready to accept connections') || this.output.includes('ready to accept connections');
    }, 'redis-server is ready');
    return this;
  }

  /** The same, without waiting until it is ready. */
  begin() {
    this.output = '';
    this.process = spawn(
      'redis-server',
      ['--port', this.port, '--bind', '127.0.0.1', '--unixsocket', this.socketPath, '--dir', this.directory, '--save', '', ...this.settings],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.tidied = processEndsWithUs(this.process.pid);
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on('data', (text) => (this.output += text));
    this.exited = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.once('error', (error) => (this.output += error));
  }

  /** From now on nothing can be saved. */
  loseDirectory() {
    rmSync(this.directory, { recursive: true });
  }

  /** A connection for the test to look with; closed by `stop`. */
  connect(options = {}) {
    const connection = new Redis({ path: this.socketPath, ...options });
    connection.on('error', () => {}); // a test that stops Redis expects it
    endsWithUs(() => connection.disconnect());
    this.connections.push(connection);
    return connection;
  }

  async kill() {
    this.process.kill('SIGKILL');
    await within(this.exited, 'redis-server ends');
    this.tidied();
  }

  async stop() {
    for (const connection of this.connections) connection.disconnect();
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Starts a redis-server; on a given port, with more settings, or on a free one. */
export async function startRedis(port, settings) {
  if (port) return new RedisServer(port, settings).start();
  // Somebody may take the port between the asking and the binding: then another one will do.
  for (let attempt = 0; ; attempt += 1) {
    const server = new RedisServer(await freePort());
    try {
      return await server.start();
    } catch (error) {
      await server.stop();
      if (attempt === 3) throw error;
    }
  }
}
