// What is measured: a cluster on either store, with what it costs so far.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { childrenOf } from '../tests/harness/proc.mjs';

const BINARY = process.env.BINARY ?? new URL('../target/release/chat-cluster', import.meta.url).pathname;

/** CPU time of a process so far, all its threads that live, in microseconds. */
function cpuMicros(pid) {
  let nanos = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    nanos += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1').split(' ')[0]);
  }
  return nanos / 1000;
}

/** Bytes that a process has caused to be written to the disk. */
function writtenBytes(pid) {
  return Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'latin1'))[1]);
}

function untilOutput(child, pattern) {
  return new Promise((resolve, reject) => {
    let output = '';
    const look = (text) => {
      output += text;
      if (process.env.SHOW_LOGS) process.stderr.write(text);
      const match = pattern.exec(output);
      if (match) resolve(match);
    };
    child.stdout.on('data', look);
    child.stderr.on('data', look);
    child.once('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}:
${output}`)));
  });
}

async function end(child) {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
}

/** Starts a cluster: `store` is `redis` or `embedded`. */
export async function startServer({ store, workers = 4, args = [], dataDir }) {
  const directory = mkdtempSync(join(tmpdir(), 'cc-bench-'));
  const stdio = ['ignore', 'pipe', 'pipe'];
  let redis;
  let where;
  if (store === 'redis') {
    const socket = join(directory, 'redis.sock');
    // As an operator would for messages that must last: written each second.
    const persistence = ['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', ''];
    redis = spawn('redis-server', ['--port', '0', '--unixsocket', socket, '--dir', directory, ...persistence], { stdio });
    await untilOutput(redis, /ready to accept connections/i);
    where = ['--redis', `redis+unix://${socket}`];
  } else {
    where = ['--data-dir', dataDir ?? join(directory, 'data')];
  }
  const env = { PATH: process.env.PATH, HOME: directory };
  const fixed = ['--workers', String(workers), '--listen', '127.0.0.1:0', '--runtime-dir', join(directory, 'run')];
  const began = performance.now();
  const master = spawn(BINARY, [...fixed, ...where, ...args], { stdio, env });
  const [, host, port] = await untilOutput(master, /ready at http:\/\/([0-9.]+):(\d+)/);
  const startMs = performance.now() - began;
  return {
    host,
    port: Number(port),
    startMs,
    /** So far, in microseconds of CPU, and bytes written. */
    cost() {
      const workerPids = childrenOf(master.pid);
      const sum = (pids, what) => pids.reduce((total, pid) => total + what(pid), 0);
      const all = [master.pid, ...workerPids, ...(redis ? [redis.pid] : [])];
      return {
        master: cpuMicros(master.pid),
        workers: sum(workerPids, cpuMicros),
        redis: redis ? cpuMicros(redis.pid) : 0,
        written: sum(all, writtenBytes),
      };
    },
    async stop() {
      await end(master);
      if (redis) await end(redis);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
