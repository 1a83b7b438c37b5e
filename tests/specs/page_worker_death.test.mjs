// Nobody is bounced: the worker that serves a tab is killed while its user types.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { until } from '../harness/wait.mjs';

const TEN = Array.from({ length: 10 }, (_, n) => `message ${n}`);

describe('the page, when its worker goes', () => {
  let browser;
  let cluster;
  before(async () => {
    [browser, cluster] = await Promise.all([startBrowser(), startCluster({ balance: 'round-robin' })]);
  });
  after(async () => {
    await browser?.close();
    await cluster?.stop();
  });

  let pairs = 0;
  /** Two tabs on two workers, in one conversation with each other, and their users' names. */
  async function twoTabs(t) {
    pairs += 1;
    const names = { ada: `Ada the ${pairs}.`, bob: `Bob the ${pairs}.` };
    const ada = await Tab.logIn(await profile(t, browser), cluster, names.ada);
    const context = await profile(t, browser);
    let bob = await Tab.logIn(context, cluster, names.bob);
    while (bob.worker === ada.worker) {
      await bob.page.close();
      bob = await Tab.open(context, cluster);
      await bob.isIn(names.bob);
    }
    await ada.openConversation(names.bob);
    await bob.openConversation(names.ada);
    return [ada, bob, names];
  }

  const workerOf = (tab) => cluster.workersById().get(tab.worker);

  /** Sends ten messages and does `harm` in the middle of them. */
  async function sendTen(tab, harm) {
    for (const [n, text] of TEN.entries()) {
      if (n === 4) harm();
      await tab.say(text);
    }
  }

  for (const place of ['in private', 'in the lobby']) {
    test(`killed during ten messages ${place}: all arrive once and in order`, async (t) => {
      const [ada, bob, names] = await twoTabs(t);
      if (place === 'in the lobby') for (const tab of [ada, bob]) await tab.openLobby();
      const before = (await bob.texts()).length;
      const victim = workerOf(ada);
      const oldSid = ada.sid;
      let killed;
      await sendTen(ada, () => {
        cluster.killWorker(victim);
        killed = performance.now();
      });
      await until(() => ada.sid !== oldSid, 'it has a new session');
      await ada.isConnected();
      t.diagnostic(`connected again within ${Math.round(performance.now() - killed)} ms of the kill`);
      await bob.shows(...TEN);
      assert.equal((await bob.texts()).length, before + TEN.length, 'nothing twice');
      await ada.allStored();
      await ada.shows(...TEN);
      const shown = await ada.texts();
      assert.deepEqual([ada.loads, bob.loads], [1, 1], 'never reloaded');
      assert.deepEqual(shown, await bob.texts());
      await ada.refresh(names.ada);
      await ada.shows(...TEN);
      assert.deepEqual(await ada.texts(), shown, 'the same history');
      await cluster.workersReplaced(4, [victim]);
      bob.assertNoProblems();
    });
  }

  test('what is typed, and where, stays; what was missed is shown', async (t) => {
    const [ada, bob] = await twoTabs(t);
    await bob.say('before');
    await ada.shows('before');
    const input = ada.get('composer-input');
    await input.pressSequentially('half a sen');
    const oldSid = ada.sid;
    const victim = workerOf(ada);
    cluster.killWorker(victim);
    await input.pressSequentially('tence');
    await bob.say('while you were away');
    await until(() => ada.sid !== oldSid, 'it has a new session');
    await ada.isConnected();
    await ada.shows('before', 'while you were away');
    assert.equal(await input.inputValue(), 'half a sentence');
    assert.ok(await input.evaluate((element) => element === document.activeElement), 'the focus stays');
    await input.press('Enter');
    await bob.shows('before', 'while you were away', 'half a sentence');
    assert.equal(ada.loads, 1);
    await cluster.workersReplaced(4, [victim]);
  });

  test('all workers killed: it says that it reconnects, keeps what is written, and goes on', async (t) => {
    const [ada, bob] = await twoTabs(t);
    // Else it would be back before anything could be written.
    await ada.page.context().setOffline(true);
    await ada.page.locator('[data-testid="connection-state"]:not([data-state="connected"])').first().waitFor();
    await ada.say('written offline');
    await ada.page.locator('[data-testid="message"][data-state="sending"]').waitFor();
    const victims = cluster.workerPids();
    for (const pid of victims) cluster.killWorker(pid);
    await cluster.workersReplaced(4, victims);
    await ada.page.context().setOffline(false);
    await ada.isConnected();
    await bob.shows('written offline');
    await ada.allStored();
    assert.equal(ada.loads, 1);
  });
});
