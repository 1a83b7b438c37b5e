// Rooms by their code, and publishing to them from outside.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { logIn } from '../harness/login.mjs';
import { Member } from '../harness/member.mjs';
import { publish } from '../harness/publish.mjs';
import { finished } from '../harness/run.mjs';
import { until } from '../harness/wait.mjs';

const TOKEN = 'token-of-the-tests';

describe('rooms and publishing', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ balance: 'round-robin', args: ['--publish-token', TOKEN] });
  });
  after(() => cluster?.stop());

  /** Members of `/rooms` on all workers, who joined the room of that code. */
  async function members(t, count, roomCode) {
    const all = await Promise.all(Array.from({ length: count }, () => Member.enter(cluster, '/rooms')));
    t.after(() => all.forEach((member) => member.close()));
    if (roomCode) for (const member of all) assert.deepEqual(await member.call('join', { roomCode }), { ok: true });
    return all;
  }

  const toRooms = (roomCode, msg, more = {}) => publish(cluster, { namespace: '/rooms', roomCode, msg, ...more }, { token: TOKEN });

  test('what is published reaches every member of the room on every worker once, and nobody else', async (t) => {
    const inside = await members(t, 8, 'r 1#ü');
    const outside = await members(t, 2, 'another');
    assert.equal(new Set(await cluster.servedBy(inside.map((member) => member.clientEnd))).size, 4);
    const msg = { sender: 'ops', text: 'hello', more: [1, null] };
    const answer = await toRooms('r 1#ü', msg);
    assert.deepEqual([answer.status, answer.body], [200, { success: true }]);
    assert.equal((await toRooms('r 1#ü', 'named', { event: 'note' })).status, 200);
    assert.equal((await toRooms('another', 'the end')).status, 200);
    for (const member of inside) {
      await member.hears('note', 'named');
      assert.deepEqual(member.heard, [['MSG_TO_CLIENTS', msg], ['note', 'named']]);
    }
    for (const member of outside) {
      await member.hears('MSG_TO_CLIENTS', 'the end');
      assert.equal(member.heard.length, 1);
    }
  });

  test('who leaves hears no more, also when it was still joining', async (t) => {
    const [member, witness] = await members(t, 2, 'leaving');
    assert.deepEqual(await member.call('leave', { roomCode: 'leaving' }), { ok: true });
    // Without waiting for the first two.
    member.socket.emit('join', { roomCode: 'quick' });
    member.socket.emit('leave', { roomCode: 'quick' });
    assert.deepEqual(await member.call('join', { roomCode: 'last' }), { ok: true });
    await witness.call('join', { roomCode: 'quick' });
    for (const roomCode of ['leaving', 'quick', 'last']) await toRooms(roomCode, `to ${roomCode}`);
    await member.hears('MSG_TO_CLIENTS', 'to last');
    await witness.hears('MSG_TO_CLIENTS', 'to quick');
    assert.equal(member.heard.length, 1);
  });

  test('what is no room code is refused', async (t) => {
    const [member] = await members(t, 1);
    for (const payload of [null, {}, 'r', { roomCode: '' }, { roomCode: 5 }, { roomCode: 'a\u0000' }, { roomCode: 'x'.repeat(257) }]) {
      for (const event of ['join', 'leave']) assert.equal((await member.call(event, payload)).error.code, 'invalid');
    }
    assert.deepEqual(await member.call('join', { roomCode: 'x'.repeat(256) }), { ok: true });
  });

  test('a socket may be in a thousand rooms, not in more', async (t) => {
    const [member] = await members(t, 1);
    for (let n = 0; n < 1_000; n += 50) {
      const joined = await Promise.all(Array.from({ length: 50 }, (_, i) => member.call('join', { roomCode: `many ${n + i}` })));
      assert.ok(joined.every(({ ok }) => ok));
    }
    assert.equal((await member.call('join', { roomCode: 'one more' })).error.code, 'rate_limited');
    assert.equal((await member.call('join', { roomCode: 'many 7' })).ok, true);
    await member.call('leave', { roomCode: 'many 8' });
    assert.equal((await member.call('join', { roomCode: 'one more' })).ok, true);
  });

  test('it needs the token', async () => {
    const event = { namespace: '/rooms', roomCode: 'r', msg: 1 };
    for (const token of [undefined, 'wrong', `${TOKEN}x`, TOKEN.slice(1)]) {
      const { status, headers, body } = await publish(cluster, event, { token });
      assert.deepEqual([status, headers['www-authenticate'], body.success], [401, 'Bearer', false]);
    }
    const basic = await publish(cluster, event, { headers: { Authorization: `Basic ${TOKEN}` } });
    assert.equal(basic.status, 401);
    assert.equal((await publish(cluster, event, { headers: { Authorization: `bearer ${TOKEN}` } })).status, 200);
  });

  test('what is wrong with it is said', async () => {
    const good = { namespace: '/rooms', roomCode: 'r', msg: 1 };
    const table = [
      [{ ...good, namespace: '/nowhere' }, 404],
      [{ ...good, namespace: '' }, 404],
      [{ ...good, namespace: 5 }, 400],
      [{ ...good, roomCode: '' }, 400],
      [{ ...good, event: 'disconnect' }, 400],
      [{ ...good, msg: undefined }, 400],
      [[], 400],
      ['text', 400],
    ];
    for (const [event, status] of table) {
      const answer = await publish(cluster, event, { token: TOKEN });
      assert.equal(answer.status, status, JSON.stringify(event));
      assert.equal(answer.body.success, false);
      assert.equal(typeof answer.body.error, 'string');
    }
    for (const body of ['', '{', 'null', '\u0000', '{"namespace":"/rooms"']) {
      assert.equal((await publish(cluster, null, { token: TOKEN, body })).status, 400, body);
    }
    const huge = await publish(cluster, null, { token: TOKEN, body: JSON.stringify({ ...good, msg: 'x'.repeat(10_000_000) }) }).catch((error) => error);
    // The server may close the connection before all of it is sent.
    assert.ok(huge.status === 413 || /EPIPE|ECONNRESET/.test(huge.code), `${huge.status} ${huge.code}`);
    const large = await publish(cluster, { ...good, msg: 'x'.repeat(900_000) }, { token: TOKEN });
    assert.equal(large.status, 200);
    assert.equal((await request(cluster, '/api/publish')).status, 405);
  });

  test('the document describes it', async () => {
    const { status, headers, body } = await request(cluster, '/api/openapi.json');
    assert.equal(status, 200);
    assert.match(headers['content-type'], /application\/json/);
    const { openapi, paths } = JSON.parse(body);
    assert.match(openapi, /^3\.1/);
    assert.deepEqual(Object.keys(paths['/api/publish'].post.responses).sort(), ['200', '400', '401', '404', '413', '503']);
  });

  describe('workspaces', () => {
    const ask = (event, workspaceId, appId) => ({ event, payload: { appId, workspaceId } });

    async function collaborator(t, name) {
      const member = await Member.enter(cluster, '/workspaces', { cookie: await logIn(cluster, name) });
      t.after(() => member.close());
      return member;
    }

    test('nobody enters without a login session', async () => {
      await assert.rejects(Member.enter(cluster, '/workspaces', { auth: { username: 'eve' } }), { message: 'not logged in' });
    });

    test('collaborators on all workers hear what is published to their room until they unsubscribe', async (t) => {
      const all = await Promise.all(Array.from({ length: 4 }, (_, n) => collaborator(t, `collaborator ${n}`)));
      const request = ask('SUBSCRIBE', 'test_workspace_id', 'test_app_id');
      for (const member of all) {
        member.socket.emit('application', request);
        await member.hears('application_response', { status: 'SUCCESS', ...request });
      }
      const event = { namespace: '/workspaces', roomCode: 'test_workspace_id:test_app_id', event: 'changed', msg: { row: 1 } };
      assert.equal((await publish(cluster, event, { token: TOKEN })).status, 200);
      for (const member of all) assert.equal(await member.hears('changed', { row: 1 }), 1);
      const end = ask('UNSUBSCRIBE', 'test_workspace_id', 'test_app_id');
      all[0].socket.emit('application', end);
      await all[0].hears('application_response', { status: 'SUCCESS', ...end });
      await publish(cluster, { ...event, msg: { row: 2 } }, { token: TOKEN });
      for (const member of all.slice(1)) await member.hears('changed', { row: 2 });
      all[0].socket.emit('application', request);
      await until(() => all[0].heard.filter(([name]) => name === 'application_response').length === 3, 'it is in again');
      assert.ok(!all[0].heard.some(([name, value]) => name === 'changed' && value.row === 2));
    });

    test('what is no such request is answered with an error', async (t) => {
      const member = await collaborator(t, 'clumsy');
      const table = [ask('JOIN', 'w', 'a'), ask('SUBSCRIBE', 'w:x', 'a'), ask('SUBSCRIBE', '', 'a'), ask('SUBSCRIBE', 'w', 5), { event: 'SUBSCRIBE' }];
      for (const request of table) {
        const answers = member.heard.length;
        member.socket.emit('application', request);
        await until(() => member.heard.length > answers, 'an answer');
        const [name, { status, event, message }] = member.heard.at(-1);
        assert.deepEqual([name, status, event], ['application_response', 'ERROR', request.event]);
        assert.equal(typeof message, 'string');
      }
    });
  });
});

test('without a token there is nothing to publish to', async (t) => {
  const cluster = await startCluster({ workers: 1, t });
  const { status, body } = await publish(cluster, { namespace: '/rooms', roomCode: 'r', msg: 1 }, { token: TOKEN });
  assert.deepEqual([status, body.success], [404, false]);
});

test('tokens come from a file, too', async (t) => {
  const file = join(temporaryDirectory(), 'tokens');
  writeFileSync(file, 'first-token\n\n  second-token  \n');
  const cluster = await startCluster({ workers: 1, args: ['--publish-token', 'flag-token', '--publish-token-file', file], t });
  for (const token of ['first-token', 'second-token', 'flag-token']) {
    assert.equal((await publish(cluster, { namespace: '/rooms', roomCode: 'r', msg: 1 }, { token })).status, 200, token);
  }
  writeFileSync(file, 'good\nnot a token\n');
  const { code, stderr } = await finished(['--publish-token-file', file]);
  assert.equal(code, 2);
  assert.match(stderr, /line 2/);
  assert.ok(!stderr.includes('not a token'));
});
