// Log in once: the session is in the store, the cookie opens it anywhere, and its end is heard everywhere.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Certificate } from '../harness/certificate.mjs';
import { ChatUser } from '../harness/client.mjs';
import { emptyStore, startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { LobbyUser, cookieOf, logIn, logOut, messenger, postLogin, whoIs } from '../harness/login.mjs';
import { NO_OPENSSL } from '../harness/openssl.mjs';
import { askForWebSocket } from '../harness/raw_websocket.mjs';
import { until } from '../harness/wait.mjs';

const NOT_LOGGED_IN = { message: 'not logged in' };

describe('the login session', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin' });
  });
  after(() => cluster?.stop());

  test('a form and JSON log in alike, and the cookie says no more than it must', async () => {
    const form = await request(cluster, '/login', {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
      body: 'user=Ada+L%C3%B6velace&other=x',
    });
    assert.equal(form.status, 303);
    assert.equal(form.headers.location, '/');
    assert.equal((await whoIs(cluster, cookieOf(form))).user, 'Ada Lövelace');

    const json = await postLogin(cluster, '  Ben ');
    assert.equal(json.status, 200);
    const { user, userID } = JSON.parse(json.body);
    assert.equal(user, 'Ben');
    assert.deepEqual(await whoIs(cluster, cookieOf(json)), { user, userID });

    for (const answer of [form, json]) {
      const [value, ...attributes] = answer.headers['set-cookie'][0].split('; ');
      assert.match(value, /^chat_session=[A-Za-z0-9_-]{24}$/, '144 random bits');
      assert.deepEqual(attributes.sort(), ['HttpOnly', 'Max-Age=34560000', 'Path=/', 'SameSite=Lax']);
      assert.equal(answer.headers['cache-control'], 'no-store');
    }
    assert.deepEqual(await whoIs(cluster), { user: null });
    assert.deepEqual(await whoIs(cluster, 'chat_session=nobodys'), { user: null });
  });

  test('what is no log-in is refused and sets no cookie', async () => {
    const json = { 'Content-Type': 'application/json' };
    const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
    const table = [
      [json, '{"user":""}', 400],
      [json, '{"user":"   "}', 400],
      [json, JSON.stringify({ user: 'x'.repeat(65) }), 400],
      [json, '{"user":5}', 400],
      [json, '{}', 400],
      [json, '[]', 400],
      [json, '{"user":', 400],
      [json, '', 400],
      [json, JSON.stringify({ user: 'x'.repeat(9_000) }), 413],
      [form, 'name=x', 400],
      [form, 'user=', 400],
      [form, `user=${'x'.repeat(9_000)}`, 413],
      [{ 'Content-Type': 'text/plain' }, 'user=x', 415],
      [{}, 'user=x', 415],
    ];
    for (const [headers, body, status] of table) {
      const answer = await request(cluster, '/login', { method: 'POST', headers, body });
      assert.equal(answer.status, status, body.slice(0, 40));
      assert.equal(answer.headers['set-cookie'], undefined);
      if (headers === json) assert.ok(JSON.parse(answer.body).error.message, body.slice(0, 40));
    }
    for (const user of ['x', 'ü'.repeat(64), '名前', '<b>']) assert.equal((await postLogin(cluster, user)).status, 200, user);
  });

  test('a log-in from a page of another site is refused; from its own it is not', async () => {
    for (const origin of ['http://evil.example', 'null', `https://${cluster.host}:${cluster.port}`]) {
      const answer = await postLogin(cluster, 'victim', { headers: { Origin: origin } });
      assert.equal(answer.status, 403, origin);
      assert.equal(answer.headers['set-cookie'], undefined);
    }
    assert.equal((await postLogin(cluster, 'own', { headers: { Origin: cluster.url } })).status, 200);
  });

  test('each log-in is a new session; under the same name it is the same user', async (t) => {
    const first = await logIn(cluster, 'rita');
    const tab = await LobbyUser.enter(cluster, { cookie: first });
    t.after(() => tab.close());
    const { userID } = await whoIs(cluster, first);
    const second = await logIn(cluster, 'rita', { cookie: first });
    assert.notEqual(second, first);
    assert.equal((await whoIs(cluster, second)).userID, userID);
    assert.deepEqual(await whoIs(cluster, first), { user: null });
    await until(() => tab.disconnects.includes('io server disconnect'), 'the old session has no sockets');
    await assert.rejects(LobbyUser.enter(cluster, { cookie: first }), NOT_LOGGED_IN);

    const third = await logIn(cluster, 'rick', { cookie: second });
    assert.notEqual((await whoIs(cluster, third)).userID, userID);
    assert.deepEqual(await whoIs(cluster, second), { user: null });
    const stranger = await logIn(cluster, 'rita');
    assert.notEqual((await whoIs(cluster, stranger)).userID, userID, 'a name alone is nobody');
  });

  test('on any worker the cookie opens private messages and the lobby, without a name', async (t) => {
    const cookie = await logIn(cluster, 'mia');
    const { userID } = await whoIs(cluster, cookie);
    const tabs = await Promise.all(Array.from({ length: 8 }, () => messenger(cluster, cookie)));
    t.after(() => tabs.forEach((tab) => tab.close()));
    const workers = await cluster.servedBy(tabs.map((tab) => tab.clientEnd));
    assert.equal(new Set(workers).size, 4);
    for (const tab of tabs) {
      assert.equal(tab.userID, userID);
      assert.equal(tab.entryOf(tab).username, 'mia');
      assert.ok(!cookie.includes(tab.session.sessionID), 'what the page sees is not the cookie');
    }
    // A session that the client names, and a name that it gives, count before the cookie.
    const other = await messenger(cluster, cookie, { auth: { username: 'guest' } });
    t.after(() => other.close());
    assert.notEqual(other.userID, userID);
    // What the page sees of the session opens private messages only.
    const { sessionID } = tabs[0].session;
    await assert.rejects(LobbyUser.enter(cluster, { cookie: `chat_session=${sessionID}` }), NOT_LOGGED_IN);
    await assert.rejects(LobbyUser.enter(cluster, { auth: { sessionID } }), NOT_LOGGED_IN);
  });

  test('log-out disconnects the sockets of that session on every worker, and no others', async (t) => {
    const cookie = await logIn(cluster, 'lea');
    const friend = await logIn(cluster, 'lea');
    const tabs = await Promise.all(
      Array.from({ length: 8 }, (_, n) => (n % 2 ? messenger(cluster, cookie) : LobbyUser.enter(cluster, { cookie }))),
    );
    const others = [await messenger(cluster, friend), await LobbyUser.enter(cluster, { cookie: friend })];
    t.after(() => [...tabs, ...others].forEach((user) => user.close()));
    const { session } = tabs[1];
    assert.equal(new Set(await cluster.servedBy(tabs.map((tab) => tab.clientEnd))).size, 4);

    const answer = await logOut(cluster, cookie);
    assert.equal(answer.status, 200);
    assert.deepEqual(JSON.parse(answer.body), { user: null });
    assert.match(answer.headers['set-cookie'][0], /^chat_session=;.*Max-Age=0/);
    await until(() => tabs.every((tab) => tab.disconnects[0] === 'io server disconnect'), 'all eight are told');
    await others[0].got('user disconnected', (gone) => gone === session.userID);

    assert.deepEqual(await whoIs(cluster, cookie), { user: null });
    await assert.rejects(LobbyUser.enter(cluster, { cookie }), NOT_LOGGED_IN);
    await assert.rejects(messenger(cluster, cookie), { message: 'invalid username' });
    await assert.rejects(ChatUser.logIn(cluster, { auth: { sessionID: session.sessionID } }), { message: 'invalid username' });
    assert.deepEqual([...others[0].disconnects, ...others[1].disconnects], []);
    assert.equal((await others[1].say('still here')).ok, true);

    // The others keep the conversation with who has left.
    const late = await messenger(cluster, friend);
    t.after(() => late.close());
    const entry = late.users.find((user) => user.userID === session.userID);
    assert.deepEqual({ username: entry.username, connected: entry.connected }, { username: 'lea', connected: false });
  });

  test('log-out as a link, without a session, and from another site', async () => {
    const link = await request(cluster, '/logout');
    assert.equal(link.status, 303);
    assert.equal(link.headers.location, '/');
    const cookie = await logIn(cluster, 'cora');
    const foreign = { Cookie: cookie, 'Sec-Fetch-Site': 'cross-site' };
    assert.equal((await request(cluster, '/logout', { headers: foreign })).status, 403);
    assert.equal((await whoIs(cluster, cookie)).user, 'cora');
  });

  test('a foreign page cannot open a WebSocket with the cookie', async () => {
    const cookie = await logIn(cluster, 'vic');
    for (const origin of ['http://evil.example', `http://${cluster.host}:1`, 'null']) {
      const answer = await askForWebSocket(cluster, { headers: { Cookie: cookie, Origin: origin } });
      assert.equal(answer.status, 403, origin);
    }
  });
});

test('with every origin allowed, a foreign page is nobody who is logged in', async (t) => {
  const cluster = await startCluster({ workers: 1, args: ['--cors-origin', '*'], t });
  const cookie = await logIn(cluster, 'vic');
  const extraHeaders = { Cookie: cookie, Origin: 'http://evil.example' };
  await assert.rejects(messenger(cluster, cookie, { extraHeaders }), { message: 'invalid username' });
  await assert.rejects(LobbyUser.enter(cluster, { extraHeaders }), NOT_LOGGED_IN);
  const own = await LobbyUser.enter(cluster, { extraHeaders: { Cookie: cookie, Origin: cluster.url } });
  own.close();
});

test('a listed page may log in with credentials', async (t) => {
  const origin = 'http://localhost:8080';
  const cluster = await startCluster({ workers: 1, args: ['--cors-origin', origin], t });
  const answer = await postLogin(cluster, 'listed', { headers: { Origin: origin } });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers['access-control-allow-origin'], origin);
  assert.equal(answer.headers['access-control-allow-credentials'], 'true');
  const extraHeaders = { Cookie: cookieOf(answer), Origin: origin };
  (await LobbyUser.enter(cluster, { extraHeaders })).close();
});

test('the session outlives the cluster', async (t) => {
  const store = await emptyStore(t);
  let cluster = await startCluster({ workers: 2, ...store });
  const cookie = await logIn(cluster, 'dora');
  const gone = await logIn(cluster, 'gone');
  const who = await whoIs(cluster, cookie);
  await logOut(cluster, gone);
  await cluster.stop();
  cluster = await startCluster({ workers: 2, ...store, t });
  assert.deepEqual(await whoIs(cluster, cookie), who);
  assert.deepEqual(await whoIs(cluster, gone), { user: null });
  const tab = await messenger(cluster, cookie);
  assert.equal(tab.userID, who.userID);
  tab.close();
});

test('a session without sockets expires; with one it lives on', async (t) => {
  const cluster = await startCluster({ workers: 2, args: ['--session-ttl', '2s'], t });
  const [kept, left] = [await logIn(cluster, 'kept'), await logIn(cluster, 'left')];
  const tab = await LobbyUser.enter(cluster, { cookie: kept });
  t.after(() => tab.close());
  await until(async () => (await whoIs(cluster, left)).user === null, 'the one without a socket expires');
  assert.equal((await whoIs(cluster, kept)).user, 'kept');
});

test('over TLS the cookie is secure', { skip: NO_OPENSSL }, async (t) => {
  const certificate = await Certificate.make();
  const cluster = await startCluster({ workers: 1, certificate, t });
  const answer = await postLogin(cluster, 'tess');
  assert.match(answer.headers['set-cookie'][0], /; Secure$/);
  (await LobbyUser.enter(cluster, { cookie: cookieOf(answer) })).close();
});

test('behind a proxy that ends TLS the cookie is secure, too', async (t) => {
  const cluster = await startCluster({ workers: 1, t });
  const answer = await postLogin(cluster, 'tess', { headers: { 'X-Forwarded-Proto': 'https' } });
  assert.match(answer.headers['set-cookie'][0], /; Secure$/);
});
