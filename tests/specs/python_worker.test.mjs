// The handoff protocol as docs/handoff.md has it: the example in Python is a worker like any other.
import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { childrenOf, isAlive } from '../harness/proc.mjs';
import { CHECKOUT, Run } from '../harness/run.mjs';
import { inParallel, until, within } from '../harness/wait.mjs';

/** `make examples` puts it there. */
const MASTER = resolve(process.env.CARGO_TARGET_DIR ?? join(CHECKOUT, 'target'), 'debug/examples/master');
const WORKER = join(CHECKOUT, 'examples/python-worker/worker.py');

test('workers in Python are given sockets, are replaced, outlive their master, and leave when they are told', async (t) => {
  const runtimeDir = temporaryDirectory();
  const start = async (listen) => {
    const run = new Run([listen, '3', 'python3', WORKER], { binary: MASTER, env: { STICKY_RUNTIME_DIR: runtimeDir } });
    t.after(() => run.kill());
    const [, host, port] = await run.line(/ready at http:\/\/(127\.0\.0\.1):(\d+)/);
    return [run, { host, port: Number(port) }];
  };
  const [first, server] = await start('127.0.0.1:0');
  let master = first;
  const workers = childrenOf(master.pid);
  assert.equal(workers.length, 3);

  const ask = async (options) => {
    const { status, body, localPort } = await request(server, '/', options);
    assert.equal(status, 200);
    const [, pid, address, clientPort] = /^served by Python process (\d+), client \('([^']+)', (\d+)\)\n$/.exec(body);
    assert.equal(Number(clientPort), localPort, 'it is told who the client is');
    return { pid: Number(pid), address };
  };
  const answers = await inParallel(Array.from({ length: 60 }), 20, () => ask());
  assert.deepEqual(new Set(answers.map(({ pid }) => pid)), new Set(workers), 'every one of them serves');
  assert.equal((await ask({ localAddress: '127.0.0.7' })).address, '127.0.0.7');

  process.kill(workers[0], 'SIGKILL');
  await until(() => childrenOf(master.pid).filter(isAlive).length === 3 && !isAlive(workers[0]), 'it is replaced');
  await until(async () => !workers.includes((await ask()).pid), 'its successor serves');

  const all = childrenOf(master.pid);
  // A worker that is serving goes on, and the next master has it as it is.
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  const { pid: served } = await ask({ agent });
  master.process.kill('SIGKILL');
  await within(master.exited, 'the master is dead');
  assert.equal((await ask({ agent })).pid, served);
  [master] = await start(`${server.host}:${server.port}`);
  const later = await inParallel(Array.from({ length: 60 }), 20, () => ask());
  assert.deepEqual(new Set(later.map(({ pid }) => pid)), new Set(all), 'the same workers');
  master.process.kill('SIGINT');
  const { code } = await within(master.exited, 'it ends');
  assert.equal(code, 0, master.tail());
  await until(() => !all.some(isAlive), 'no worker is left');
});
