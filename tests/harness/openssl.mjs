// The openssl command, which makes certificates and looks at handshakes.
import { spawn, spawnSync } from 'node:child_process';
import { processEndsWithUs } from './leftovers.mjs';
import { within } from './wait.mjs';

/** Why tests with TLS cannot run here, as the reason to skip them; false when they can. */
export const NO_OPENSSL = spawnSync('openssl', ['version']).status !== 0 && 'no openssl here, to make certificates with';

/** Runs `openssl` with these arguments and this input; resolves with `{code, output}` when it has ended. */
export async function openssl(args, input = '') {
  const child = spawn('openssl', args, { stdio: 'pipe' });
  const tidied = processEndsWithUs(child.pid);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  child.stdin.on('error', () => {}); // it ended before it had read all
  child.stdin.end(input);
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  try {
    const code = await within(ended, `openssl ${args.join(' ')} ends`);
    tidied();
    return { code, output };
  } catch (error) {
    child.kill('SIGKILL');
    error.message += `\n${output}`;
    throw error;
  }
}
