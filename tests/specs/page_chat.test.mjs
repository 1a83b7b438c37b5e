// Two people with a browser each: log in, lobby, private messages, unread badges, refresh, log-out.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { until } from '../harness/wait.mjs';

describe('the page', () => {
  let browser;
  let cluster;
  before(async () => {
    [browser, cluster] = await Promise.all([startBrowser(), startCluster({ balance: 'round-robin' })]);
  });
  after(async () => {
    await browser?.close();
    await cluster?.stop();
  });

  test('two browsers log in, meet in the lobby, and write to each other', async (t) => {
    const [ada, bob] = [
      await Tab.logIn(await profile(t, browser), cluster, 'Ada'),
      await Tab.logIn(await profile(t, browser), cluster, 'Bob'),
    ];
    for (const tab of [ada, bob]) await tab.openLobby();
    await ada.say('hello lobby');
    await bob.shows('hello lobby');
    await bob.say('hello Ada');
    for (const tab of [ada, bob]) await tab.shows('hello lobby', 'hello Ada');
    await ada.allStored();

    // Both ways, and a badge for who looks elsewhere.
    await ada.openConversation('Bob');
    await ada.say('just for you');
    await ada.shows('just for you');
    await ada.say('and this');
    const badge = bob.person('Ada').getByTestId('unread');
    await badge.filter({ hasText: '2' }).waitFor();
    assert.match(await bob.page.title(), /\(2\)/);
    await bob.openConversation('Ada');
    await bob.shows('just for you', 'and this');
    await badge.waitFor({ state: 'detached' });
    assert.doesNotMatch(await bob.page.title(), /\(\d+\)/);
    await bob.say('thanks');
    await ada.shows('just for you', 'and this', 'thanks');

    // Refreshed: the same user, the same conversation, the same history.
    await bob.refresh('Bob');
    await bob.shows('just for you', 'and this', 'thanks');
    assert.equal(await bob.person('Ada').getByTestId('unread').count(), 0);
    await bob.openLobby();
    await bob.shows('hello lobby', 'hello Ada');

    // What comes while a page is closed is unread when it is opened again.
    await bob.page.goto('about:blank');
    await ada.say('while you were away');
    await ada.allStored();
    await bob.page.goto(cluster.url);
    await bob.isIn('Bob');
    await bob.person('Ada').getByTestId('unread').filter({ hasText: '1' }).waitFor();

    for (const tab of [ada, bob]) tab.assertNoProblems();
  });

  test('presence follows who comes and goes', async (t) => {
    const eve = await Tab.logIn(await profile(t, browser), cluster, 'Eve');
    const context = await profile(t, browser);
    await Tab.logIn(context, cluster, 'Guest');
    await eve.person('Guest').and(eve.page.locator('[data-connected="true"]')).waitFor();
    await context.close();
    await eve.person('Guest').and(eve.page.locator('[data-connected="false"]')).waitFor();
    eve.assertNoProblems();
  });

  test('log-out in one tab ends the other; another name may follow', async (t) => {
    const context = await profile(t, browser);
    const first = await Tab.logIn(context, cluster, 'Lea');
    const second = await Tab.open(context, cluster);
    await second.isIn('Lea');
    await first.get('logout').click();
    await first.get('login-form').waitFor();
    await second.get('login-form').waitFor();
    await second.logIn('Leo');
    await second.openLobby();
    await second.say('as Leo');
    await second.shows('as Leo');
    const [author] = (await second.page.getByTestId('message').filter({ hasText: 'as Leo' }).all()).slice(-1);
    assert.equal(await author.getAttribute('data-own'), 'true');
    for (const tab of [first, second]) tab.assertNoProblems();
  });

  test('a message that the server refuses says so, and one too long is not even sent', async (t) => {
    const tab = await Tab.logIn(await profile(t, browser), cluster, 'Max');
    await tab.openLobby();
    await tab.say('x'.repeat(70_000));
    await until(async () => (await tab.page.getByText(/too long|64 KiB|65,?536/i).count()) > 0, 'it says that it is too long');
    assert.equal(await tab.page.getByTestId('message').filter({ hasText: 'xxxxxxxxxx' }).count(), 0);
    tab.assertNoProblems();
  });

  test('older messages come by scrolling, each once', async (t) => {
    const [ann, ben] = [
      await Tab.logIn(await profile(t, browser), cluster, 'Ann of the archive'),
      await Tab.logIn(await profile(t, browser), cluster, 'Ben of the archive'),
    ];
    await ann.openConversation('Ben of the archive');
    const all = Array.from({ length: 80 }, (_, n) => `entry ${n}`);
    for (const text of all) await ann.say(text);
    await ann.allStored();
    await ben.refresh('Ben of the archive');
    await ben.openConversation('Ann of the archive');
    await ben.shows('entry 79');
    assert.ok((await ben.texts()).length < all.length, 'not all at once');
    await until(async () => {
      await ben.get('message-list').evaluate((list) => (list.scrollTop = 0));
      return (await ben.texts()).length >= all.length;
    }, 'all are there');
    assert.deepEqual(await ben.texts(), all);
    for (const tab of [ann, ben]) tab.assertNoProblems();
  });
});
