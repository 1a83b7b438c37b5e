// `make chaos`: runs with one or several seeds on each store, and what came of them as a table.
import { parseArgs } from 'node:util';
import { run } from './run.mjs';

const { values } = parseArgs({
  options: {
    store: { type: 'string', default: 'embedded,redis' },
    seeds: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    seconds: { type: 'string', default: '120' },
    clients: { type: 'string', default: '200' },
    rate: { type: 'string', default: '300' },
  },
});
const rows = [];
let failed = false;
for (const store of values.store.split(',')) {
  for (const seed of values.seeds.split(',').map(Number)) {
    console.log(`\n${store}, seed ${seed}, ${values.seconds} s`);
    const options = { store, seed, seconds: Number(values.seconds), clients: Number(values.clients), rate: Number(values.rate) };
    const { acked, refusals, faults, wrong } = await run({ ...options, say: console.log });
    const counts = ['lost', 'doubled', 'disordered', 'ghosts'].map((kind) => wrong[kind].length);
    failed ||= counts.some((count) => count > 0);
    for (const [kind, list] of Object.entries(wrong)) for (const text of list.slice(0, 10)) console.log(`${kind}: ${text}`);
    rows.push([store, seed, faults, acked, refusals, ...counts]);
  }
}
console.log('\n| store | seed | faults | acknowledged | sent again | lost | doubled | out of order | ghosts |\n|---|---|---|---|---|---|---|---|---|');
for (const row of rows) console.log(`| ${row.join(' | ')} |`);
process.exitCode = failed ? 1 : 0;
