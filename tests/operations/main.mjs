// `make operations`: what operators do beneath a crowd at full size, as a table.
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { STORE } from '../harness/cluster.mjs';
import { beneath } from './run.mjs';
import * as scenarios from './scenarios.mjs';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    official: { type: 'string', default: '90' },
    light: { type: 'string', default: '410' },
    rate: { type: 'string', default: '1000' },
    logins: { type: 'string', default: '50' },
    reloads: { type: 'string', default: '10' },
    kills: { type: 'string', default: '1000' },
    verbose: { type: 'boolean', default: false },
  },
});
const size = { official: Number(values.official), light: Number(values.light), rate: Number(values.rate), logins: Number(values.logins) };
const ALL = {
  nothing: [() => sleep(20_000), {}],
  reloads: [scenarios.reloads, { count: Number(values.reloads) }],
  scaling: [scenarios.scaling, { workers: 2, up: 6, down: 3, args: ['--rebalance', 50] }],
  'master dies': [scenarios.masterDies, {}],
  'master dies behind a kept socket': [scenarios.masterDies, { passSocket: true }],
  upgrade: [scenarios.upgrade, { version: '9.9.9' }],
  'broken upgrade': [scenarios.brokenUpgrade, {}],
  'worker freezes': [scenarios.workerFreezes, { ms: 20_000 }],
  'master freezes': [scenarios.masterFreezes, { ms: 20_000 }],
  kills: [scenarios.kills, { count: Number(values.kills), overMs: Number(values.kills) * 600 }],
};

/** What ends with a scenario, as `node:test` would have it. */
class Ending {
  steps = [];
  after(step) {
    this.steps.push(step);
  }
  async end() {
    for (const step of this.steps.toReversed()) await step();
  }
}

const rows = [];
for (const [name, [scenario, options]] of Object.entries(ALL)) {
  if (values.only && !values.only.split(',').includes(name)) continue;
  const t = new Ending();
  try {
    const { seconds, log, lost, doubled, visits, reasons: all, ...found } = await beneath(t, scenario, { workers: 4, ...size, ...options });
    if (values.verbose) console.log(log, seconds);
    const reasons = {};
    for (const reason of all) reasons[reason] = (reasons[reason] ?? 0) + 1;
    console.log(name, found, { lost: lost.slice(0, 5), doubled: doubled.slice(0, 5), visits: { ...visits, failed: visits.failed.slice(0, 10) }, reasons });
    const { acked, moves, attemptsThatFailed, usual, worst, above, least, took } = found;
    rows.push([name, took.toFixed(1), acked, lost.length, doubled.length, moves, attemptsThatFailed, `${visits.failed.length} of ${visits.done + visits.failed.length}`, usual.toFixed(1), worst.toFixed(2), above, least]);
  } finally {
    await t.end();
  }
}
console.log(`\n${STORE}\n| what | s | acknowledged | lost | doubled | moved | attempts that failed | log-ins that failed | usual p99, ms | worst second, times that | seconds above 2 | least acknowledged in a second |`);
console.log('|---|---|---|---|---|---|---|---|---|---|---|---|');
for (const row of rows) console.log(`| ${row.join(' | ')} |`);
