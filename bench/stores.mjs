// Private messages on both stores, in one run: what one costs, and how long it takes.
//   node stores.mjs [rounds] [seconds]        BINARY=... picks another binary
import { logIn } from './chat_client.mjs';
import { startServer } from './servers.mjs';
import { quantile, spread } from './statistics.mjs';

const ROUNDS = Number(process.argv[2] ?? 3);
const SECONDS = Number(process.argv[3] ?? 10);
const WARM_UP_SECONDS = 2;
const CLIENTS = 100;
const RATES = [2000, 6000];
const VARIANTS = [
  { name: 'Redis', store: 'redis' },
  { name: 'embedded', store: 'embedded' },
  { name: 'embedded, full', store: 'embedded', args: ['--durability', 'full'] },
];
const CONTENT = 'x'.repeat(100);

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Sends by the clock, whatever the server does; resolves when all is acknowledged and delivered. */
async function run(server, rate) {
  const acked = new Map();
  const heard = new Map();
  const due = new Map();
  const late = { ack: [], delivery: [] };
  const count = (map, id) => map.set(id, (map.get(id) ?? 0) + 1);
  let refused = 0;
  let measuring = false;
  const users = [];
  for (let n = 0; n < CLIENTS; n += 1) {
    const onMessage = ({ id }) => {
      count(heard, id);
      if (due.has(id)) late.delivery.push(performance.now() - due.get(id));
    };
    users.push(await logIn({ ...server, auth: { username: `user ${n}` }, onMessage }));
  }
  let sent = 0;
  const sendOne = (at) => {
    const n = sent++;
    const id = `m${n}`;
    if (measuring) due.set(id, at);
    // Never to oneself: nobody would be told.
    const to = users[(n + 1 + ((n * 7) % (CLIENTS - 1))) % CLIENTS];
    users[n % CLIENTS].send(to.userID, id, CONTENT, (ack) => {
      if (!ack.ok) refused += 1;
      else count(acked, id);
      if (due.has(id)) late.ack.push(performance.now() - due.get(id));
    });
  };
  const phase = async (seconds) => {
    const began = performance.now();
    const total = rate * seconds;
    for (let n = 0; n < total; ) {
      const now = performance.now() - began;
      for (; n < total && (n / rate) * 1000 <= now; n += 1) sendOne(began + (n / rate) * 1000);
      await wait(1);
    }
    return performance.now() - began;
  };
  await phase(WARM_UP_SECONDS);
  await wait(500);
  measuring = true;
  const [before, own] = [server.cost(), process.cpuUsage()];
  const took = await phase(SECONDS);
  const measured = rate * SECONDS;
  for (let n = 0; n < 400 && late.delivery.length < measured; n += 1) await wait(25);
  const after = server.cost();
  const generator = process.cpuUsage(own);
  // Each acknowledged message came once.
  let lost = 0;
  let doubled = 0;
  for (const id of acked.keys()) {
    const times = heard.get(id) ?? 0;
    if (times === 0) lost += 1;
    if (times > 1) doubled += 1;
  }
  for (const user of users) user.close();
  late.ack.sort((a, b) => a - b);
  late.delivery.sort((a, b) => a - b);
  const each = (key) => (after[key] - before[key]) / measured;
  return {
    workers: each('workers'),
    master: each('master'),
    redis: each('redis'),
    sum: each('workers') + each('master') + each('redis'),
    generator: (generator.user + generator.system) / measured,
    written: each('written') / 1024,
    ack50: quantile(late.ack, 0.5),
    ack99: quantile(late.ack, 0.99),
    delivery50: quantile(late.delivery, 0.5),
    delivery99: quantile(late.delivery, 0.99),
    rate: (measured / took) * 1000,
    lost,
    doubled,
    refused,
  };
}

const results = new Map();
for (let round = 0; round < ROUNDS; round += 1) {
  for (const rate of RATES) {
    for (const variant of VARIANTS) {
      const server = await startServer(variant);
      try {
        const result = await run(server, rate);
        const key = `${variant.name}\t${rate}`;
        results.set(key, [...(results.get(key) ?? []), result]);
        console.error(`round ${round + 1}, ${variant.name}, ${rate}/s: ${JSON.stringify(result, (_, v) => (typeof v === 'number' ? +v.toFixed(2) : v))}`);
      } finally {
        await server.stop();
      }
    }
  }
}

console.log(`Median (least–most) of ${ROUNDS} runs of ${SECONDS} s, 4 workers, ${CLIENTS} WebSocket clients; CPU in µs a message.`);
console.log('');
console.log('| messages/s | store | CPU, sum | workers | Redis | master | ack p50, ms | ack p99 | delivery p99 | KiB written | lost, doubled, refused |');
console.log('|---|---|---|---|---|---|---|---|---|---|---|');
for (const rate of RATES) {
  for (const { name } of VARIANTS) {
    const runs = results.get(`${name}\t${rate}`);
    const total = (key) => runs.reduce((sum, one) => sum + one[key], 0);
    const cells = [
      rate,
      name,
      spread(runs, 'sum'),
      spread(runs, 'workers'),
      spread(runs, 'redis'),
      spread(runs, 'master', 1),
      spread(runs, 'ack50', 1),
      spread(runs, 'ack99', 1),
      spread(runs, 'delivery99', 1),
      spread(runs, 'written', 1),
      `${total('lost')}, ${total('doubled')}, ${total('refused')}`,
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
}
