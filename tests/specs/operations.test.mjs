// What operators do, and what happens to them, beneath users who chat: nobody loses a message or gets one twice, and whoever
// is asked to move comes back at once. `make operations` does the same at full size, and says what it costs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { beneath } from '../operations/run.mjs';
import * as scenarios from '../operations/scenarios.mjs';

const SIZE = { official: 18, light: 42, rate: 150, logins: 5, usualMs: 1_000 };

/** Polls of the official client are connections of their own: so many of its users only poll. */
const POLLERS = SIZE.official / 3;

/** Nothing that was acknowledged is lost, and nothing came twice. */
function assertDelivered({ acked, lost, doubled }) {
  assert.ok(acked > SIZE.rate, `${acked} were acknowledged`);
  assert.deepEqual(lost.slice(0, 5), [], `${lost.length} of ${acked} messages are lost`);
  assert.deepEqual(doubled.slice(0, 5), [], `${doubled.length} of ${acked} messages came twice`);
}

/** The same, and every log-in succeeded, those of clients who were asked to move at their first attempt. */
function assertFlawless(account) {
  assertDelivered(account);
  assert.equal(account.attemptsThatFailed, 0, 'everybody came back at the first attempt');
  assert.deepEqual(account.visits.failed, []);
  assert.ok(account.visits.done > 0);
}

test('three rolling reloads in a row', async (t) => {
  const account = await beneath(t, scenarios.reloads, { ...SIZE, workers: 3, args: ['--drain-time', '2s'], count: 3 });
  assertFlawless(account);
  assert.ok(account.moves >= SIZE.official + SIZE.light, `${account.moves} moves: everybody was on an old worker`);
});

test('from two workers to six and down to three, evened out', async (t) => {
  const args = ['--drain-time', '2s', '--rebalance', '20'];
  assertFlawless(await beneath(t, scenarios.scaling, { ...SIZE, workers: 2, args, up: 6, down: 3 }));
});

test('another program, and programs that are none', async (t) => {
  const args = ['--drain-time', '2s'];
  assertFlawless(await beneath(t, scenarios.upgrade, { ...SIZE, workers: 2, args, version: '9.9.9' }));
  const account = await beneath(t, scenarios.brokenUpgrade, { ...SIZE, workers: 2, args });
  assertFlawless(account);
  assert.equal(account.moves, 0, 'nobody noticed');
});

test('the master dies, and its socket is kept for the next one', async (t) => {
  const account = await beneath(t, scenarios.masterDies, { ...SIZE, workers: 2, passSocket: true });
  assertFlawless(account);
  assert.equal(account.moves, 0, 'no connection broke');
});

test('the master dies, and the next one is there after 3 s', async (t) => {
  const account = await beneath(t, scenarios.masterDies, { ...SIZE, workers: 2 });
  assertDelivered(account);
  assert.ok(account.moves <= POLLERS, `${account.moves} moves: only who needed a new connection noticed`);
});

test('a worker stands still until it is replaced', async (t) => {
  const args = ['--stuck-time', '6s'];
  assertDelivered(await beneath(t, scenarios.workerFreezes, { ...SIZE, workers: 3, args, ms: 20_000 }));
});

test('the master stands still', async (t) => {
  const account = await beneath(t, scenarios.masterFreezes, { ...SIZE, workers: 2, ms: 5_000 });
  assertFlawless(account);
  assert.equal(account.moves, 0, 'no connection broke');
});

test('workers are killed one after the other, and nothing is left behind', async (t) => {
  // The official client stops polling when its WebSocket answers the probe. If both connections die then, it only notices
  // by the pings that do not come: 45 s after its handshake, by default.
  const args = ['--ping-interval-ms', '5000', '--ping-timeout-ms', '5000'];
  assertDelivered(await beneath(t, scenarios.kills, { ...SIZE, workers: 3, args, count: 30, overMs: 15_000 }));
});
