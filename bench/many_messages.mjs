// Start and log-in of an embedded store with few and with many messages stored, of as many users.
//   node many_messages.mjs [rounds] [few] [many] [users]        BINARY=... picks another binary
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { logIn } from './chat_client.mjs';
import { startServer } from './servers.mjs';
import { median, spread } from './statistics.mjs';

const [ROUNDS = 5, FEW = 1_000, MANY = 1_000_000, USERS = 10_000] = process.argv.slice(2).map(Number);
const LOG_INS = 100;
const CARGO_FOLDER = new URL('..', import.meta.url).pathname;

const directory = mkdtempSync(join(tmpdir(), 'cc-many-'));
const results = new Map([FEW, MANY].map((messages) => [messages, []]));
try {
  for (const messages of results.keys()) {
    const args = ['run', '--release', '--quiet', '--package', 'chat-worker', '--example', 'fill_store', '--'];
    const began = performance.now();
    const filled = spawnSync('cargo', [...args, join(directory, `${messages}`), USERS, messages], { cwd: CARGO_FOLDER, stdio: 'inherit' });
    if (filled.status !== 0) throw new Error('the store could not be filled');
    console.error(`stored ${messages} messages in ${((performance.now() - began) / 1_000).toFixed(1)} s`);
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [messages, rounds] of results) {
      const dataDir = join(directory, `${messages}`);
      const server = await startServer({ store: 'embedded', dataDir });
      const before = server.cost();
      const took = [];
      for (let n = 0; n < LOG_INS; n += 1) {
        const began = performance.now();
        const user = await logIn({ ...server, auth: { sessionID: `session-${(n * 97) % USERS}` }, onMessage: () => {} });
        took.push(performance.now() - began);
        user.close();
      }
      const after = server.cost();
      const megabytes = statSync(join(dataDir, 'chat.db')).size / 1e6;
      const result = { startMs: server.startMs, logInMs: median(took), cpuMs: (after.workers - before.workers) / LOG_INS / 1_000, megabytes };
      rounds.push(result);
      console.error(`round ${round + 1}, ${messages}: ${JSON.stringify(result)}`);
      await server.stop();
    }
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
console.log(`Median (least–most) of ${ROUNDS} starts with ${LOG_INS} log-ins each, one after the other; ${USERS} users, 4 workers.`);
console.log('');
console.log('| messages stored | chat.db, MB | start, ms | log-in, ms | CPU of a log-in, ms |');
console.log('|---|---|---|---|---|');
for (const [messages, rounds] of results) {
  const cells = [messages.toLocaleString('en'), spread(rounds, 'megabytes'), spread(rounds, 'startMs'), spread(rounds, 'logInMs', 1), spread(rounds, 'cpuMs', 1)];
  console.log(`| ${cells.join(' | ')} |`);
}
