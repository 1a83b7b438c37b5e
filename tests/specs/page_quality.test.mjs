// What can be said of a page by looking at it with tools: accessible, small, cached, compressed, quiet.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { after, before, describe, test } from 'node:test';
import { Tab, profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Fails with what axe-core finds: WCAG 2 A and AA, and its best practices. */
async function assertAccessible(tab, what) {
  await tab.page.evaluate(AXE);
  const { violations } = await tab.page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`);
  assert.deepEqual(found, [], what);
}

const PHONE = { viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true };

describe('the page as tools see it', () => {
  let browser;
  let cluster;
  before(async () => {
    [browser, cluster] = await Promise.all([startBrowser(), startCluster({ workers: 2 })]);
  });
  after(async () => {
    await browser?.close();
    await cluster?.stop();
  });

  for (const colorScheme of ['light', 'dark']) {
    for (const [device, options] of Object.entries({ desk: {}, phone: PHONE })) {
      test(`accessible names, roles and contrast: ${device}, ${colorScheme}`, async (t) => {
        const tab = await Tab.open(await profile(t, browser, { colorScheme, ...options }), cluster);
        await tab.get('login-form').waitFor();
        await assertAccessible(tab, 'log-in');
        await tab.logIn(`Ines ${device} ${colorScheme}`);
        const other = await Tab.logIn(await profile(t, browser), cluster, `Otto ${device} ${colorScheme}`);
        await tab.showList();
        await assertAccessible(tab, 'the list');
        await tab.openLobby();
        await tab.say('with `code`, a https://link.example/ and\n```\na block\n```');
        await tab.get('message-text').last().waitFor();
        await tab.allStored();
        await assertAccessible(tab, 'the lobby');
        if (device === 'phone') {
          const wide = await tab.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
          assert.ok(wide <= 0, `scrolls sideways by ${wide} px`);
          await tab.showList();
        }
        await other.openConversation(`Ines ${device} ${colorScheme}`);
        await other.say('an unread one');
        await tab.person('Otto').getByTestId('unread').first().waitFor();
        await assertAccessible(tab, 'a badge');
        await tab.openConversation(`Otto ${device} ${colorScheme}`);
        await tab.shows('an unread one');
        await tab.say('an answer');
        await tab.allStored();
        await assertAccessible(tab, 'a private conversation');
        tab.assertNoProblems();
      });
    }
  }

  test('the keyboard is enough', async (t) => {
    const tab = await Tab.open(await profile(t, browser), cluster);
    await tab.get('login-name').waitFor();
    await tab.page.keyboard.type('Kay');
    await tab.page.keyboard.press('Enter');
    await tab.isIn('Kay');
    const focus = () => tab.page.evaluate(() => document.activeElement?.getAttribute('data-testid'));
    const tabTo = async (testId) => {
      for (let n = 0; n < 40 && (await focus()) !== testId; n += 1) await tab.page.keyboard.press('Tab');
      assert.equal(await focus(), testId);
    };
    await tabTo('conversation-lobby');
    await tab.page.keyboard.press('Enter');
    await tabTo('composer-input');
    await tab.page.keyboard.type('first line');
    await tab.page.keyboard.press('Shift+Enter');
    await tab.page.keyboard.type('second line');
    await tab.page.keyboard.press('Enter');
    await tab.shows('first line\nsecond line');
    tab.assertNoProblems();
  });

  test('long names, other scripts and long words stay within their place', async (t) => {
    const name = 'ש'.repeat(30) + 'W'.repeat(34);
    const tab = await Tab.logIn(await profile(t, browser, PHONE), cluster, name);
    await tab.openLobby();
    for (const text of ['w'.repeat(2_000), 'שלום עולם', '🧑‍🚀'.repeat(100), `https://example.com/${'a'.repeat(500)}`, '```\n' + 'c'.repeat(500) + '\n```']) {
      await tab.say(text);
    }
    await tab.allStored();
    const wide = await tab.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(wide <= 0, `scrolls sideways by ${wide} px`);
    const beyond = await tab.get('message-text').evaluateAll((texts) => texts.filter((text) => text.getBoundingClientRect().right > window.innerWidth + 1).length);
    assert.equal(beyond, 0);
    tab.assertNoProblems();
  });

  test('the first load is small, compressed, cached by content, and under a strict policy', async (t) => {
    const context = await profile(t, browser);
    const page = await context.newPage();
    const session = await context.newCDPSession(page);
    await session.send('Network.enable');
    let bytes = 0;
    session.on('Network.loadingFinished', ({ encodedDataLength }) => (bytes += encodedDataLength));
    const answers = [];
    page.on('response', (response) => answers.push(response));
    await page.goto(cluster.url, { waitUntil: 'networkidle' });
    t.diagnostic(`first load: ${bytes} bytes in ${answers.length} answers`);
    assert.ok(bytes > 10_000 && bytes < 200_000, `${bytes} bytes`);
    for (const answer of answers) {
      const { pathname } = new URL(answer.url());
      const headers = answer.headers();
      if (pathname.startsWith('/assets/')) {
        assert.match(headers['cache-control'], /immutable/, pathname);
        assert.match(headers['content-encoding'] ?? '', /^(br|gzip)?$/, pathname);
      } else if (pathname === '/') {
        assert.match(headers['cache-control'], /max-age=0|no-cache/);
        const policy = headers['content-security-policy'];
        assert.match(policy, /default-src 'none'/);
        assert.doesNotMatch(policy, /unsafe|\*|data:|http/);
        assert.equal(headers['x-content-type-options'], 'nosniff');
      }
      assert.ok(answer.status() < 400, pathname);
    }
    assert.ok(answers.some((answer) => ['br', 'gzip'].includes(answer.headers()['content-encoding'])));

    const html = await (await fetch(cluster.url)).text();
    const [, script] = /<script[^>]+src="([^"]+)"/.exec(html);
    const encoded = async (accept) => {
      const response = await page.request.get(cluster.url + script, { headers: { 'Accept-Encoding': accept } });
      return response.headers()['content-encoding'];
    };
    assert.equal(await encoded('gzip, br'), 'br');
    assert.equal(await encoded('gzip'), 'gzip');
    assert.equal(await encoded('identity'), undefined);
  });

  test('each coding is the same file', async () => {
    const { get } = await import('node:http');
    const body = (path, accept) =>
      new Promise((resolve, reject) => {
        get(cluster.url + path, { headers: { 'Accept-Encoding': accept } }, (answer) => {
          const chunks = [];
          answer.on('data', (chunk) => chunks.push(chunk));
          answer.on('end', () => resolve({ bytes: Buffer.concat(chunks), headers: answer.headers }));
        }).on('error', reject);
      });
    const { bytes: html } = await body('/', 'identity');
    const paths = [...html.toString().matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map(([, path]) => path);
    assert.ok(paths.length >= 2);
    for (const path of paths) {
      const plain = await body(path, 'identity');
      assert.deepEqual(brotliDecompressSync((await body(path, 'br')).bytes), plain.bytes, path);
      assert.deepEqual(gunzipSync((await body(path, 'gzip')).bytes), plain.bytes, path);
      const again = await fetch(cluster.url + path, { headers: { 'If-None-Match': plain.headers.etag } });
      assert.equal(again.status, 304);
    }
  });
});
