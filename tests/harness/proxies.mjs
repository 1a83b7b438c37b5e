// nginx, HAProxy and Caddy in front of a cluster, with the configurations of docs/proxies: those files, with nothing
// but the addresses changed.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endsWithUs, processEndsWithUs } from './leftovers.mjs';
import { freePort } from './redis.mjs';
import { CHECKOUT } from './run.mjs';
import { Hopeless, until, within } from './wait.mjs';

/** Debian has them where only root looks for programs. */
const PATH = `${process.env.PATH}:/usr/sbin:/usr/local/sbin`;

/** Addresses in the files: where the proxy listens, and where the cluster does. */
const PUBLIC = '127.0.0.1:8080';
const CLUSTER = '127.0.0.1:3000';

/** nginx's file is one of a site: this is what is around it. What it writes stays in `directory`. */
const nginxAround = (directory) => `
${process.getuid() === 0 ? 'user root;' : ''}
daemon off;
pid ${directory}/pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${directory}/${name};`).join(' ')}
  include ${directory}/config;
}
`;

/** How each is started on a file `config` in a directory of its own. */
const KINDS = {
  nginx: {
    file: 'nginx.conf',
    version: ['-v'],
    start(directory) {
      writeFileSync(join(directory, 'main'), nginxAround(directory));
      // The error log of the time before it has read its own place for it.
      return ['-c', join(directory, 'main'), '-p', directory, '-e', 'stderr'];
    },
  },
  haproxy: { file: 'haproxy.cfg', version: ['-v'], start: (directory) => ['-db', '-f', join(directory, 'config')] },
  'haproxy-tcp': { file: 'haproxy-tcp.cfg', program: 'haproxy', version: ['-v'], start: (directory) => ['-db', '-f', join(directory, 'config')] },
  caddy: {
    file: 'Caddyfile',
    version: ['version'],
    start(directory) {
      // No port for administration.
      writeFileSync(join(directory, 'main'), `{\n\tadmin off\n}\n\nimport ${directory}/config\n`);
      return ['run', '--adapter', 'caddyfile', '--config', join(directory, 'main')];
    },
  },
};

/** Why a proxy cannot be started, as the reason to skip a test; false when it can. */
export function missingProxy(kind) {
  const { program = kind, version } = KINDS[kind];
  const { error } = spawnSync(program, version, { env: { ...process.env, PATH } });
  return Boolean(error) && `${program} is not installed`;
}

/** A proxy that runs. */
class Proxy {
  constructor(kind, port, directory, options) {
    this.host = '127.0.0.1';
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.output = '';
    const { program = kind, start } = KINDS[kind];
    this.process = spawn(program, start(directory), {
      env: { ...process.env, PATH, HOME: directory, XDG_DATA_HOME: directory, XDG_CONFIG_HOME: directory },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...options,
    });
    this.tidied = processEndsWithUs(this.process.pid);
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on('data', (text) => (this.output += text));
    this.exited = once(this.process, 'exit');
  }

  async ready() {
    await until(async () => {
      if (this.process.exitCode !== null) throw new Hopeless(`${this.process.spawnfile} ended:\n${this.output}`);
      const socket = net.connect(this.port, this.host);
      try {
        await once(socket, 'connect');
        return true;
      } finally {
        socket.destroy();
      }
    }, `${this.process.spawnfile} listens`);
  }

  async stop() {
    // The fast way of all three, in which nginx ends its workers, too.
    this.process.kill('SIGTERM');
    await within(this.exited, `${this.process.spawnfile} ends`);
    this.tidied();
  }
}

/** Starts a proxy of this kind in front of `server`, anything with `host` and `port`, for as long as the test runs. */
export async function startProxy(t, kind, server) {
  const directory = mkdtempSync(join(tmpdir(), 'cc-proxy-'));
  endsWithUs(() => rmSync(directory, { recursive: true, force: true }));
  const port = await freePort();
  const text = readFileSync(join(CHECKOUT, 'docs/proxies', KINDS[kind].file), 'utf8');
  assert.ok(text.includes(PUBLIC) && text.includes(CLUSTER), `${KINDS[kind].file} has the addresses that are changed`);
  const changed = text.replaceAll(PUBLIC, `127.0.0.1:${port}`).replaceAll(CLUSTER, `${server.host}:${server.port}`);
  writeFileSync(join(directory, 'config'), changed);
  const proxy = new Proxy(kind, port, directory);
  t.after(() => proxy.stop());
  await proxy.ready();
  return proxy;
}
