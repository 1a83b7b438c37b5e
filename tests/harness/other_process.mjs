// Work that a test has done by a program in another process: because it must be somewhere else on the network, or
// must not get in the way of what the test measures.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { processEndsWithUs } from './leftovers.mjs';
import { within } from './wait.mjs';

export class OtherProcess {
  /** `program`: a file beside this one that calls `serve`. `wrapper`: a command that executes the one behind it as itself. */
  constructor(program, wrapper = []) {
    this.name = program;
    const file = fileURLToPath(new URL(program, import.meta.url));
    const [command, ...words] = [...wrapper, process.execPath, file];
    this.process = spawn(command, words, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.tidied = processEndsWithUs(this.process.pid);
    this.waiting = new Map();
    this.number = 0;
    this.process.on('message', ({ number, result, error }) => {
      const { resolve, reject } = this.waiting.get(number);
      this.waiting.delete(number);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
    this.exited = new Promise((resolve) => this.process.once('exit', resolve));
    this.exited.then((code) => {
      for (const { reject } of this.waiting.values()) reject(new Error(`${program} ended with ${code}`));
    });
  }

  /** Has one of the program's commands carried out, and returns its result. */
  async call(command, options = {}, limitMs = 60_000) {
    const number = this.number++;
    const answer = new Promise((resolve, reject) => this.waiting.set(number, { resolve, reject }));
    this.process.send({ number, command, options });
    return await within(answer, `${this.name}: ${command}`, limitMs);
  }

  async stop() {
    this.process.kill('SIGKILL');
    await within(this.exited, `${this.name} ends`);
    this.tidied();
  }
}

/** The program's side: functions of `options`, by their names. */
export function serve(commands) {
  process.on('message', async ({ number, command, options }) => {
    try {
      process.send({ number, result: (await commands[command](options)) ?? null });
    } catch (error) {
      process.send({ number, error: `${error.stack}\n${error.cause?.stack ?? ''}` });
    }
  });
  // Without the test there is nobody to work for.
  process.on('disconnect', () => process.exit());
}
