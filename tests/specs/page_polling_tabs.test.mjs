// Six tabs of one browser profile that can only poll: they share keep-alive connections, and all chat.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { inParallel } from '../harness/wait.mjs';

test('six tabs that only poll all chat', async (t) => {
  // A ping answers a poll at the latest. By default that is every 25 s.
  const args = ['--ping-interval-ms', '4000'];
  const [browser, cluster] = await Promise.all([startBrowser(), startCluster({ balance: 'round-robin', args, t })]);
  t.after(() => browser.close());
  const context = await profile(t, browser);
  await context.addInitScript(() => {
    delete window.WebSocket;
    delete window.WebTransport;
  });
  const first = await Tab.logIn(context, cluster, 'Six');
  // At once, so that they come over several connections.
  const others = await Promise.all(Array.from({ length: 5 }, () => Tab.open(context, cluster)));
  const tabs = [first, ...others];
  for (const tab of tabs) await tab.isIn('Six');
  // Which of its connections the browser takes for a handshake is up to it.
  t.diagnostic(`${new Set(tabs.map((tab) => tab.worker)).size} workers have sessions of the six`);
  for (const tab of tabs) {
    await tab.isConnected('polling');
    await tab.openLobby();
  }
  const began = performance.now();
  // A browser has six connections to a host, and six tabs wait on one each: who sends waits for one of them to
  // be answered.
  await inParallel(tabs, tabs.length, async (tab, n) => {
    await tab.page.bringToFront();
    await tab.say(`from tab ${n}`);
  });
  const expected = tabs.map((_, n) => `from tab ${n}`).sort();
  for (const tab of tabs) {
    for (const text of expected) await tab.get('message-text').filter({ hasText: text }).waitFor({ timeout: 90_000 });
    assert.deepEqual((await tab.texts()).toSorted(), expected, 'all, and once');
    tab.assertNoProblems();
  }
  t.diagnostic(`all six were heard by all within ${Math.round(performance.now() - began)} ms`);
});
