// The page in Debian's Chromium: profiles, their tabs, and what a person does in one.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { endsWithUs } from './leftovers.mjs';
import { readTag } from './polling_session.mjs';
import { LIMIT_MS, until } from './wait.mjs';

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';

const ARGS = [
  '--no-sandbox', // it refuses to run as root with one
  '--disable-dev-shm-usage',
  // Nothing leaves this machine.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
];

/** One Chromium for a test file; ends with it. */
export async function startBrowser() {
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS });
  endsWithUs(() => void browser.close().catch(() => {}));
  return browser;
}

/** A profile with cookies and storage of its own. Its tabs are closed with the test `t`. */
export async function profile(t, browser, options = {}) {
  const context = await browser.newContext({ locale: 'en-GB', timezoneId: 'UTC', ...options });
  context.setDefaultTimeout(LIMIT_MS);
  t.after(() => context.close());
  return context;
}

/** A tab that shows the page of a cluster. */
export class Tab {
  constructor(page) {
    this.page = page;
    /** What should not be there: errors and warnings in the console, exceptions, failed requests. */
    this.problems = [];
    /** How often the page was loaded. */
    this.loads = 0;
    page.on('load', () => (this.loads += 1));
    page.on('pageerror', (error) => this.problems.push(`exception: ${error.message}`));
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) this.problems.push(`console: ${message.text()}`);
    });
    const note = (url) => {
      const sid = new URL(url).searchParams.get('sid');
      if (sid) this.sid = sid;
    };
    page.on('request', (request) => note(request.url()));
    page.on('websocket', (socket) => note(socket.url()));
  }

  static async open(context, cluster, path = '/') {
    const tab = new Tab(await context.newPage());
    await tab.page.goto(cluster.url + path);
    return tab;
  }

  /** Opens the page and logs in. */
  static async logIn(context, cluster, name, path) {
    const tab = await Tab.open(context, cluster, path);
    await tab.logIn(name);
    return tab;
  }

  get(testId) {
    return this.page.getByTestId(testId);
  }

  async logIn(name) {
    await this.get('login-name').fill(name);
    await this.get('login-submit').click();
    await this.isIn(name);
  }

  /** Waits until it is logged in and connected. */
  async isIn(name) {
    await this.get('own-name').filter({ hasText: name }).waitFor();
    await this.isConnected();
  }

  async isConnected(transport) {
    const wanted = transport ? `[data-transport="${transport}"]` : '';
    // On a phone it may be in the other of the two views.
    await this.page.locator(`[data-testid="connection-state"][data-state="connected"]${wanted}`).first().waitFor({ state: 'attached' });
  }

  /** On a phone the list and a conversation are two views. */
  async showList() {
    const back = this.get('back');
    if (await back.isVisible()) await back.click();
    await this.get('conversation-lobby').waitFor();
  }

  async openLobby() {
    await this.showList();
    await this.get('conversation-lobby').click();
  }

  /** The entry of a user in the list of people. */
  person(name) {
    return this.get('conversation').filter({ hasText: name });
  }

  async openConversation(name) {
    await this.showList();
    await this.person(name).click();
  }

  /** Types into the open conversation and sends it with the Enter key. */
  async say(text) {
    const input = this.get('composer-input');
    await input.fill(text);
    await input.press('Enter');
  }

  /** The texts shown in the open conversation, oldest first. */
  async texts() {
    return await this.get('message-text').allTextContents();
  }

  /** Waits until the open conversation shows these texts as its last. */
  async shows(...texts) {
    let shown;
    await until(async () => {
      shown = await this.texts();
      return JSON.stringify(shown.slice(-texts.length)) === JSON.stringify(texts);
    }, `the page shows ${JSON.stringify(texts)}`).catch((error) => {
      throw new Error(`${error.message}, not ${JSON.stringify(shown)}`);
    });
  }

  /** Waits until all own messages that are shown are stored. */
  async allStored() {
    const unstored = this.page.locator('[data-testid="message"][data-own="true"]:not([data-state="stored"])');
    await until(async () => (await unstored.count()) === 0, 'all own messages are stored');
  }

  /** Which worker serves it, as its session id says. */
  get worker() {
    return readTag(this.sid).worker;
  }

  async refresh(name) {
    await this.page.reload();
    await this.isIn(name);
  }

  assertNoProblems() {
    assert.deepEqual(this.problems, []);
  }
}
