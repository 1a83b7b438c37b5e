// The page when there are more people than the server tells of: who is not in the list is found by name.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';

describe('the page with many people', () => {
  let browser;
  let cluster;
  let people;
  before(async () => {
    [browser, cluster] = await Promise.all([
      startBrowser(),
      startCluster({ balance: 'round-robin', workers: 2, args: ['--roster-limit', '3'] }),
    ]);
    people = [];
    for (let n = 0; n < 12; n += 1) people.push(await ChatUser.logIn(cluster, { username: `Person ${String(n).padStart(2, '0')}` }));
  });
  after(async () => {
    for (const user of people ?? []) user.close();
    await browser?.close();
    await cluster?.stop();
  });

  test('who is not in the list is found, written to, and from then on told of', async (t) => {
    const ada = await Tab.logIn(await profile(t, browser), cluster, 'Ada');
    await ada.person('Person 11').waitFor();
    assert.equal(await ada.person('Person 02').count(), 0, 'of so many the list has the last');

    const search = ada.get('people-search');
    await search.fill('person 0');
    const found = ada.get('found');
    await found.filter({ hasText: 'Person 02' }).waitFor();
    assert.equal(await found.count(), 10);
    await search.press('Escape');
    await found.first().waitFor({ state: 'detached' });
    await search.fill('nobody at all');
    await ada.get('search-status').filter({ hasText: 'Nobody of that name' }).waitFor();

    await search.fill('02');
    await found.filter({ hasText: 'Person 02' }).click();
    await ada.person('Person 02').and(ada.page.locator('[data-connected="true"]')).waitFor();
    assert.equal(await search.inputValue(), '');
    await ada.say('found you');
    await ada.allStored();
    const message = await people[2].got('private message', ({ content }) => content === 'found you');
    await people[2].got('user connected', ({ userID }) => userID === message.from);
    await people[2].send(message.from, 'you did');
    await ada.shows('found you', 'you did');

    people[2].close();
    await ada.person('Person 02').and(ada.page.locator('[data-connected="false"]')).waitFor();
    await ada.refresh('Ada');
    await ada.shows('found you', 'you did');
    await ada.person('Person 02').waitFor();
    ada.assertNoProblems();
  });

  test('on a phone, too', async (t) => {
    const context = await profile(t, browser, { viewport: { width: 360, height: 740 } });
    const eve = await Tab.logIn(context, cluster, 'Eve');
    await eve.showList();
    await eve.get('people-search').fill('person 05');
    await eve.get('found').click();
    await eve.say('hello from a phone');
    await people[5].got('private message', ({ content }) => content === 'hello from a phone');
    await eve.showList();
    await eve.person('Person 05').waitFor();
    const hidden = await eve.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(hidden, 0, 'nothing is cut off');
    eve.assertNoProblems();
  });
});
