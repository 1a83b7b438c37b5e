// The page of the original private-messaging example, which has a dev server of its own: another origin. It
// does what that example's page does, step by step, with the client that this server serves.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { profile, startBrowser } from '../harness/browser.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { freePort } from '../harness/redis.mjs';
import { until } from '../harness/wait.mjs';

const html = (server) => `<!doctype html><meta charset="utf-8"><title>Example</title>
<script src="${server}/socket.io/socket.io.js"></script>
<script>
  const socket = io('${server}', { autoConnect: false });
  const state = { users: [], errors: [], connected: false };
  socket.on('connect', () => (state.connected = true));
  socket.on('disconnect', () => (state.connected = false));
  socket.on('connect_error', (error) => {
    state.errors.push(error.message);
    if (error.message === 'invalid username') state.usernameAlreadySelected = false;
  });
  socket.on('session', ({ sessionID, userID }) => {
    socket.auth = { sessionID };
    localStorage.setItem('sessionID', sessionID);
    socket.userID = userID;
  });
  socket.on('users', (users) => {
    state.users = users.map((user) => ({
      ...user,
      self: user.userID === socket.userID,
      messages: user.messages.map((message) => ({ ...message, fromSelf: message.from === socket.userID })),
    }));
  });
  socket.on('user connected', (user) => {
    const known = state.users.find((existing) => existing.userID === user.userID);
    if (known) known.connected = true;
    else state.users.push({ ...user, messages: [] });
  });
  socket.on('user disconnected', (id) => {
    const user = state.users.find((existing) => existing.userID === id);
    if (user) user.connected = false;
  });
  socket.on('private message', ({ content, from, to }) => {
    const fromSelf = socket.userID === from;
    const user = state.users.find((existing) => existing.userID === (fromSelf ? to : from));
    user?.messages.push({ content, fromSelf });
  });
  const sessionID = localStorage.getItem('sessionID');
  if (sessionID) {
    state.usernameAlreadySelected = true;
    socket.auth = { sessionID };
    socket.connect();
  }
  function onUsernameSelection(username) {
    state.usernameAlreadySelected = true;
    socket.auth = { username };
    socket.connect();
  }
  function onMessage(name, content) {
    const user = state.users.find((existing) => existing.username === name);
    socket.emit('private message', { content, to: user.userID });
    user.messages.push({ content, fromSelf: true });
  }
</script>`;

/** The example's page on a dev server of its own, in a profile. */
class Example {
  static async open(t, browser, origin) {
    const example = new Example();
    example.page = await (await profile(t, browser)).newPage();
    await example.page.goto(origin);
    return example;
  }

  async state() {
    return await this.page.evaluate('({ ...state, self: socket.userID, auth: socket.auth })');
  }

  async is(test, what) {
    return await until(async () => {
      const state = await this.state();
      return test(state) && state;
    }, what);
  }

  async select(username) {
    await this.page.evaluate(`onUsernameSelection(${JSON.stringify(username)})`);
  }

  async send(to, content) {
    await this.page.evaluate(`onMessage(${JSON.stringify(to)}, ${JSON.stringify(content)})`);
  }

  async conversation(username) {
    const { users } = await this.state();
    const entry = users.find((user) => user.username === username);
    return entry?.messages.map(({ content, fromSelf }) => [content, fromSelf]);
  }
}

test('the original example works from its own origin', async (t) => {
  const port = await freePort();
  const origin = `http://localhost:${port}`;
  const [browser, cluster] = await Promise.all([
    startBrowser(),
    startCluster({ balance: 'round-robin', args: ['--cors-origin', origin], t }),
  ]);
  t.after(() => browser.close());
  const dev = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end(html(cluster.url)));
  await new Promise((resolve) => dev.listen(port, 'localhost', resolve));
  t.after(() => dev.close());

  const ann = await Example.open(t, browser, origin);
  await ann.select('   ');
  const refused = await ann.is((state) => state.errors.length > 0, 'an empty name is refused');
  assert.deepEqual(refused.errors, ['invalid username']);
  assert.equal(refused.usernameAlreadySelected, false);
  await ann.select('ann');
  await ann.is((state) => state.connected && state.users.length === 1, 'ann is in');
  const ben = await Example.open(t, browser, origin);
  await ben.select('ben');
  await ben.is((state) => state.users.length === 2, 'ben sees both');
  await ann.is((state) => state.users.some((user) => user.username === 'ben' && user.connected), 'ann sees ben come');

  await ann.send('ben', 'hi ben');
  await until(async () => (await ben.conversation('ann'))?.length === 1, 'ben has it');
  await ben.send('ann', 'hi ann');
  const both = [['hi ben', true], ['hi ann', false]];
  await until(async () => (await ann.conversation('ben'))?.length === 2, 'ann has the answer');
  assert.deepEqual(await ann.conversation('ben'), both);

  const cat = await Example.open(t, browser, origin);
  await cat.select('cat');
  await ann.is((state) => state.users.some((user) => user.username === 'cat' && user.connected), 'cat comes');
  await cat.page.close();
  await ann.is((state) => state.users.some((user) => user.username === 'cat' && !user.connected), 'cat is shown as gone');

  // A refresh: from now on with the session instead of the name.
  const { self } = await ann.state();
  await ann.page.reload();
  const again = await ann.is((state) => state.connected && state.users.length === 3, 'ann is back');
  assert.equal(again.self, self);
  assert.deepEqual(Object.keys(again.auth), ['sessionID']);
  assert.deepEqual(await ann.conversation('ben'), both);

  // Her worker dies: the client reconnects by itself.
  const before = cluster.workerPids();
  for (const pid of before) cluster.killWorker(pid);
  await cluster.workersReplaced(4, before);
  await ann.is((state) => state.connected, 'ann is connected');
  await ben.is((state) => state.connected && state.users.find((user) => user.username === 'ann')?.connected, 'ben, too');
  await ann.send('ben', 'still here?');
  await until(async () => (await ben.conversation('ann'))?.length === 3, 'ben has that, too');
});

test('without --cors-origin the example of another origin gets nothing', async (t) => {
  const [browser, cluster] = await Promise.all([startBrowser(), startCluster({ workers: 1, t })]);
  t.after(() => browser.close());
  const dev = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end(html(cluster.url)));
  await new Promise((resolve) => dev.listen(0, 'localhost', resolve));
  t.after(() => dev.close());
  const eve = await Example.open(t, browser, `http://localhost:${dev.address().port}`);
  await eve.select('eve');
  const { connected } = await eve.is((state) => state.errors.length > 0, 'it is refused');
  assert.equal(connected, false);
});
