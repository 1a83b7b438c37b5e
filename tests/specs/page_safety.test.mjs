// What people write is never markup, and a page of somebody else's is not who is logged in.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';

/** A web server of somebody else's, on another port: the same site to cookies, another origin to the server. */
async function foreignPage(t, html) {
  const server = createServer((_, response) => response.setHeader('Content-Type', 'text/html; charset=utf-8').end(html));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

const HOSTILE = [
  '<script>window.pwned = 1</script>',
  '<img src=x onerror="window.pwned = 1">',
  '"><svg/onload=window.pwned=1>',
  '{{constructor.constructor("window.pwned = 1")()}}',
  'javascript:window.pwned=1',
  '[link](javascript:window.pwned=1)',
  '```<img src=x onerror="window.pwned = 1">```',
  '`<b onmouseover=window.pwned=1>`',
  'https://x.example/"onmouseover="window.pwned=1',
  '<iframe srcdoc="<script>parent.pwned = 1</script>"></iframe>',
];

describe('the page is safe', () => {
  let browser;
  let cluster;
  before(async () => {
    [browser, cluster] = await Promise.all([startBrowser(), startCluster({ workers: 2 })]);
  });
  after(async () => {
    await browser?.close();
    await cluster?.stop();
  });

  test('a script in a name or a message does not run, and is shown as it was written', async (t) => {
    const name = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>';
    const mallory = await Tab.logIn(await profile(t, browser), cluster, name.slice(0, 64));
    const victim = await Tab.logIn(await profile(t, browser), cluster, 'Victim');
    for (const where of ['lobby', 'private']) {
      if (where === 'lobby') for (const tab of [mallory, victim]) await tab.openLobby();
      else {
        await mallory.openConversation('Victim');
        await victim.openConversation('<img src=x');
      }
      for (const text of HOSTILE) await mallory.say(text);
      for (const tab of [mallory, victim]) {
        const count = HOSTILE.length;
        await tab.get('message-text').nth(count - 1).waitFor();
        const shown = (await tab.texts()).slice(-count);
        // The marks of code are taken away, nothing else.
        assert.deepEqual(shown.map((text) => text.trim()), HOSTILE.map((text) => text.replaceAll('`', '')));
        const list = tab.get('message-list');
        assert.equal(await list.locator('img, script, iframe, [onerror], [onmouseover], a[href^="javascript" i]').count(), 0);
        for (const link of await list.locator('a').all()) {
          assert.match(await link.getAttribute('href'), /^https:\/\/x\.example\//);
          assert.match(await link.getAttribute('rel'), /noopener/);
        }
        assert.equal(await tab.page.evaluate(() => window.pwned), undefined);
      }
    }
    for (const tab of [mallory, victim]) tab.assertNoProblems();
  });

  test('even markup that got into the page could run nothing', async (t) => {
    const tab = await Tab.logIn(await profile(t, browser), cluster, 'Ian');
    const ran = await tab.page.evaluate(() => {
      const script = document.createElement('script');
      script.textContent = 'window.pwned = 1';
      document.body.append(script);
      const image = document.createElement('div');
      image.innerHTML = '<img src="x:" onerror="window.pwned = 2">';
      document.body.append(image);
      return new Promise((resolve) => setTimeout(() => resolve(window.pwned), 200));
    });
    assert.equal(ran, undefined);
    assert.ok(tab.problems.every((problem) => /Content Security Policy/.test(problem)), tab.problems.join('\n'));
    assert.ok(tab.problems.length >= 2);
  });

  test('a foreign page cannot open a WebSocket with the cookie of who is logged in', async (t) => {
    const context = await profile(t, browser);
    const victim = await Tab.logIn(context, cluster, 'Vic');
    const url = `${cluster.url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket`;
    const open = (page) =>
      page.evaluate(
        (address) =>
          new Promise((resolve) => {
            const socket = new WebSocket(address);
            socket.onopen = () => resolve('open');
            socket.onerror = () => resolve('refused');
          }),
        url,
      );
    const foreign = await context.newPage();
    let carried;
    context.on('request', (request) => (carried = request));
    await foreign.goto(await foreignPage(t, '<!doctype html><title>Evil</title>'));
    assert.equal(await open(foreign), 'refused');
    assert.equal(await open(victim.page), 'open', 'its own may');
    // Nor is anything of the victim's to be had, or done, over HTTP.
    const login = await foreign.evaluate(
      (address) => fetch(`${address}/login`, { credentials: 'include' }).then((r) => r.text(), () => 'unreadable'),
      cluster.url,
    );
    assert.equal(login, 'unreadable');
    await foreign.setContent(`<form method="post" action="${cluster.url}/login"><input name="user" value="Mallory"></form>`);
    await foreign.evaluate(() => document.forms[0].submit());
    await foreign.waitForURL(`${cluster.url}/login`);
    await victim.refresh('Vic');
    assert.ok(carried);
  });
});
