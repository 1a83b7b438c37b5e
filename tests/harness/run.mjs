// One run of the release binary, as a user would start it: its output, its end.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { processEndsWithUs } from './leftovers.mjs';
import { childrenOf } from './proc.mjs';
import { Hopeless, until, within } from './wait.mjs';

/** The root of the checkout. */
export const CHECKOUT = resolve(fileURLToPath(import.meta.url), '../../..');

/** The binary under test. */
export const BINARY = process.env.CHAT_CLUSTER_BINARY ?? join(CHECKOUT, 'target/release/chat-cluster');

/** This process's environment without anything that the binary reads, and with `extra`. */
function cleanEnvironment(extra) {
  const read = ['REDIS_URL', 'PORT', 'XDG_RUNTIME_DIR', 'XDG_STATE_HOME', 'STATE_DIRECTORY'];
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('CHAT_CLUSTER_') && !read.includes(name),
  );
  return { ...Object.fromEntries(inherited), ...extra };
}

/**
 * One run of the binary: its output, its end. `wrapper`: a command that executes the one behind it as itself;
 * `passed`: descriptors of this process that become 3 and so on there.
 */
export class Run {
  constructor(args, { env = {}, binary = BINARY, wrapper = [], passed = [], ...options } = {}) {
    if (!existsSync(binary)) throw new Error(`${binary} does not exist: make build`);
    this.stdout = '';
    this.stderr = '';
    const [command, ...words] = [...wrapper, binary, ...args];
    this.process = spawn(command, words, {
      ...options,
      env: cleanEnvironment(env),
      stdio: ['ignore', 'pipe', 'pipe', ...passed],
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

  /** What it said: `{code, stdout, stderr}`, once it has ended by itself. */
  async result() {
    try {
      const { code } = await within(this.ended, `${this.process.spawnargs.join(' ')} ends`);
      return { code, stdout: this.stdout, stderr: this.stderr };
    } finally {
      await this.kill();
    }
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

/** Runs to the end, and returns `{code, stdout, stderr}`. */
export async function finished(args, options) {
  return await new Run(args, options).result();
}

/** That a run ended with this exit code and one line that names the cause. */
export function assertOneLine({ code, stdout, stderr }, expectedCode, cause) {
  assert.equal(code, expectedCode, stderr);
  assert.equal(stdout, '');
  const lines = stderr.trimEnd().split('\n');
  assert.equal(lines.length, 1, stderr);
  assert.match(lines[0], cause);
}
