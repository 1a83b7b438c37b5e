// One scenario beneath a crowd, and what the crowd has to say of it.
import { setTimeout as sleep } from 'node:timers/promises';
import { OtherProcess } from '../harness/other_process.mjs';
import { until } from '../harness/wait.mjs';
import { Subject } from './subject.mjs';

/** What is usual is what the crowd sees for so long before anything happens; afterwards it is watched as long, in ms. */
const USUAL_MS = 8_000;

/** A crowd in several processes, since one of Node's would be the narrowest place. */
class Crowds {
  static async start(t, server, { processes, official, light, rate, logins }) {
    const crowds = new Crowds();
    crowds.all = Array.from({ length: processes }, () => new OtherProcess('../operations/crowd.mjs'));
    t.after(() => Promise.all(crowds.all.map((crowd) => crowd.stop())));
    const share = (number, n) => Math.floor((number * (n + 1)) / processes) - Math.floor((number * n) / processes);
    const ids = await crowds.call('logIn', (n) => ({ server, name: `member-${n}`, official: share(official, n), light: share(light, n) }));
    const others = ids.flat();
    await crowds.call('start', () => ({ server, others, rate: rate / processes, logins: logins / processes }));
    return crowds;
  }

  async call(command, options = () => ({})) {
    return await Promise.all(this.all.map((crowd, n) => crowd.call(command, options(n), 120_000)));
  }

  async connected() {
    const progress = await this.call('progress');
    return progress.reduce((sum, { connected }) => sum + connected, 0);
  }

  /** Waits until all of them are connected. */
  async allConnected(clients) {
    await until(async () => (await this.connected()) === clients, 'everybody is connected', 60_000).catch(async (error) => {
      const absent = (await this.call('absent')).flat();
      throw new Error(`${error.message}; absent: ${JSON.stringify(absent)}`);
    });
  }

  async second() {
    return (await this.call('progress'))[0].second;
  }

  /** Where each member is; see `places` of the program. */
  async places() {
    return (await this.call('places')).flat();
  }

  async finish() {
    const due = {};
    for (const part of await this.call('stop')) for (const [to, keys] of Object.entries(part)) (due[to] ??= []).push(...keys);
    const accounts = await this.call('account', () => ({ due }));
    const sum = (name) => accounts.reduce((total, account) => total + account[name], 0);
    const all = (name) => accounts.flatMap((account) => account[name]);
    const seconds = [];
    for (const account of accounts) {
      for (const [n, { acked, times }] of account.seconds.entries()) {
        seconds[n] ??= { acked: 0, times: [] };
        seconds[n].acked += acked;
        seconds[n].times.push(...times);
      }
    }
    const visits = accounts.flatMap(({ visits }) => visits.times);
    return {
      acked: sum('acked'),
      lost: all('lost'),
      doubled: all('doubled'),
      moves: sum('moves'),
      attemptsThatFailed: sum('attemptsThatFailed'),
      reasons: all('reasons'),
      seconds: seconds.map(({ acked, times }) => ({ acked, ...quantiles(times) })),
      visits: { done: visits.length, failed: accounts.flatMap(({ visits }) => visits.failed), ...quantiles(visits) },
    };
  }
}

/**
 * Runs `scenario(subject, options)` on a cluster under load, which ends with the test `t`. Gives the crowd's account
 * with what it means: `usual` p99 in ms, `worst` second as a multiple of it, `took` in seconds, and what the scenario gave.
 */
export async function beneath(
  t,
  scenario,
  { official, light, rate, logins, workers, args, passSocket, processes = 2, usualMs = USUAL_MS, ...options },
) {
  const subject = await Subject.start(t, { workers, args, passSocket });
  const crowd = await Crowds.start(t, subject.server, { processes, official, light, rate, logins });
  const clients = official + light;
  // The first seconds have the burst of the beginning.
  await sleep(usualMs + 2_000);
  const began = await crowd.second();
  const clock = performance.now();
  const found = (await scenario(subject, { crowd, clients, ...options })) ?? {};
  const took = (performance.now() - clock) / 1_000;
  await crowd.allConnected(clients);
  await sleep(usualMs);
  const account = await crowd.finish();
  const usual = median(account.seconds.slice(2, began).map(({ p99 }) => p99));
  const during = account.seconds.slice(began, -1);
  const worst = Math.max(...during.map(({ p99 }) => p99)) / usual;
  const least = Math.min(...during.map(({ acked }) => acked));
  const above = during.filter(({ p99 }) => p99 > 2 * usual).length;
  return { ...account, ...found, usual, worst, above, least, took, log: subject.cluster.output };
}

function quantiles(times) {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return { p50: at(0.5), p99: at(0.99), worst: at(1) };
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
