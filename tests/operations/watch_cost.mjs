// What `status --watch` costs the master while it hands over 100,000 sockets: its CPU time with and without, in turns, and
// how much of a core the difference is. BENCH names the load generator; HANDOFFS and RATE may be others.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { startCluster } from '../harness/cluster.mjs';
import { finished, Run } from '../harness/run.mjs';

const HANDOFFS = Number(process.env.HANDOFFS ?? 100_000);
const RATE = Number(process.env.RATE ?? 2_000);
const ROUNDS = 3;

/** Nanoseconds that a process has run, all threads together: it has one. */
const ran = (pid) => Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]);

async function measure(watched) {
  const cluster = await startCluster({ workers: 2 });
  try {
    const watch = watched ? new Run(['status', '--watch', '--runtime-dir', cluster.runtimeDir]) : undefined;
    await watch?.line(/MSG\/S/);
    const seconds = HANDOFFS / RATE;
    const [before, began] = [ran(cluster.pid), performance.now()];
    execFileSync(process.env.BENCH, [
      ...['load', 'handshakes', '--target', `${cluster.host}:${cluster.port}`, '--rate', `${RATE}`],
      ...['--warm-up', '1s', '--duration', `${seconds}s`],
    ]);
    const cpu = ran(cluster.pid) - before;
    const elapsed = (performance.now() - began) * 1e6;
    await watch?.kill();
    const { workers } = JSON.parse((await finished(['status', '--json', '--runtime-dir', cluster.runtimeDir])).stdout);
    const handoffs = workers.reduce((sum, worker) => sum + worker.handoffs, 0);
    return { cpu, elapsed, handoffs };
  } finally {
    await cluster.stop();
  }
}

const shares = { with: [], without: [] };
for (let round = 0; round < ROUNDS; round += 1) {
  for (const name of round % 2 ? ['with', 'without'] : ['without', 'with']) {
    const { cpu, elapsed, handoffs } = await measure(name === 'with');
    shares[name].push((100 * cpu) / elapsed);
    console.log(`round ${round + 1}, ${name} --watch: ${handoffs} handoffs, master ${(cpu / 1e9).toFixed(3)} s of ${(elapsed / 1e9).toFixed(1)} s`);
  }
}
const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
const [watched, alone] = [median(shares.with), median(shares.without)];
console.log(`the master took ${watched.toFixed(2)} % of a core with --watch and ${alone.toFixed(2)} % without: ${(watched - alone).toFixed(2)} % for it`);
