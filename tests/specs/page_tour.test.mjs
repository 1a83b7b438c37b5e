// A walk through the page that takes the pictures of the README. UPDATE_SCREENSHOTS=1 puts them into
// docs/screenshots; otherwise they only show that they can be taken.
import assert from 'node:assert/strict';
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { CHECKOUT } from '../harness/run.mjs';

const DESK = { viewport: { width: 1000, height: 640 }, deviceScaleFactor: 1 };
const PHONE = { viewport: { width: 360, height: 640 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

test('the pictures of the README', async (t) => {
  const update = process.env.UPDATE_SCREENSHOTS === '1';
  const directory = update ? join(CHECKOUT, 'docs/screenshots') : temporaryDirectory();
  mkdirSync(directory, { recursive: true });
  const [browser, cluster] = await Promise.all([startBrowser(), startCluster({ balance: 'round-robin', t })]);
  t.after(() => browser.close());
  const take = async (tab, name) => {
    const path = join(directory, `${name}.png`);
    await tab.page.screenshot({ path, animations: 'disabled' });
    assert.ok(statSync(path).size > 5_000, name);
  };

  const visitor = await Tab.open(await profile(t, browser, { ...DESK, colorScheme: 'light' }), cluster);
  await visitor.get('login-form').waitFor();
  await take(visitor, 'login-light');
  await visitor.page.close();

  const ada = await Tab.logIn(await profile(t, browser, { ...DESK, colorScheme: 'light' }), cluster, 'Ada');
  const grace = await Tab.logIn(await profile(t, browser, { ...DESK, colorScheme: 'dark' }), cluster, 'Grace');
  const yara = await Tab.logIn(await profile(t, browser, { ...PHONE, colorScheme: 'light' }), cluster, 'יערה');
  for (const tab of [ada, grace]) await tab.openLobby();
  await ada.say('Good morning! The rolling restart is at ten.');
  await grace.shows('Good morning! The rolling restart is at ten.');
  await grace.say('With people typing?');
  await ada.shows('With people typing?');
  await ada.say('They will not notice: `chat-cluster` moves them to the next worker.');
  await yara.openLobby();
  await yara.say('בוקר טוב 👋');
  await grace.shows('בוקר טוב 👋');
  await grace.openConversation('Ada');
  await grace.say('Can you look at this before ten?');
  await grace.say('```\nredis-cli publish chat \\\n  \'{"action":"message","user":"ci","msg":"deployed"}\'\n```');
  await ada.openConversation('Grace');
  await ada.say('Looks good. Documentation: https://socket.io/docs/v4/');
  await yara.openConversation('Ada');
  await yara.say('See you at lunch?');
  await ada.person('יערה').getByTestId('unread').first().waitFor();
  await ada.allStored();
  await grace.get('message-text').filter({ hasText: 'Looks good' }).waitFor();
  await take(ada, 'conversation-light');
  await grace.openLobby();
  await grace.shows('בוקר טוב 👋');
  await take(grace, 'lobby-dark');
  await yara.showList();
  await take(yara, 'phone-light');
  for (const tab of [ada, grace, yara]) tab.assertNoProblems();
});
