// What the test suites of the Engine.IO and the Socket.IO protocol ask of a server, of the example of an app that is not
// ours, on its four workers. Each request and each WebSocket has a connection of its own.
import assert from 'node:assert/strict';
import { join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { request } from '../harness/http.mjs';
import { CHECKOUT, Run } from '../harness/run.mjs';
import { inParallel, until } from '../harness/wait.mjs';
import { Wire } from '../harness/wire.mjs';

/** `make examples` puts it there. */
const APP = resolve(process.env.CARGO_TARGET_DIR ?? join(CHECKOUT, 'target'), 'debug/your-own-app');
const PING_INTERVAL_MS = 500;
const PING_TIMEOUT_MS = 400;
const POLLING = '/socket.io/?EIO=4&transport=polling';

let app;
let server;

before(async () => {
  app = new Run(['127.0.0.1:0'], { binary: APP, env: { PING_INTERVAL_MS: `${PING_INTERVAL_MS}`, PING_TIMEOUT_MS: `${PING_TIMEOUT_MS}` } });
  const [, host, port] = await app.line(/ready at http:\/\/(127\.0\.0\.1):(\d+)/);
  server = { host, port: Number(port) };
});
after(() => app.kill());

/** One that is in a namespace, whose `auth` was told. */
async function connected(namespace = '') {
  const wire = await Wire.session(server);
  wire.send(`40${namespace}`);
  await wire.next(/^40/);
  await wire.next(/^42.*\["auth"/);
  return wire;
}

const get = (path) => request(server, path);
const post = (path, body) => request(server, path, { method: 'POST', body });

/** A polling session's path. */
async function openPolling() {
  const { status, body } = await get(POLLING);
  assert.equal(status, 200);
  return `${POLLING}&sid=${JSON.parse(body.slice(1)).sid}`;
}

describe('Engine.IO', () => {
  test('a handshake has an id, the upgrades and the times, on both transports', async () => {
    const { status, body } = await get(POLLING);
    assert.equal(status, 200);
    assert.equal(body[0], '0');
    const wire = await Wire.open(server);
    for (const [packet, upgrades] of [[body, ['websocket']], [await wire.next(/^0/), []]]) {
      const { sid, ...rest } = JSON.parse(packet.slice(1));
      assert.match(sid, /^[A-Za-z0-9_-]{16,20}$/);
      assert.deepEqual(rest, { upgrades, pingInterval: PING_INTERVAL_MS, pingTimeout: PING_TIMEOUT_MS, maxPayload: rest.maxPayload });
      assert.ok(rest.maxPayload >= 100_000);
    }
  });

  test('what is no handshake is refused', async () => {
    for (const path of ['transport=polling', 'EIO=abc&transport=polling', 'EIO=4', 'EIO=4&transport=abc', 'EIO=4&transport=polling&sid=zzz']) {
      assert.equal((await get(`/socket.io/?${path}`)).status, 400, path);
    }
    for (const method of ['POST', 'PUT']) assert.equal((await request(server, POLLING, { method, body: '' })).status, 400, method);
    for (const query of ['EIO=abc&transport=websocket', 'EIO=4&transport=abc', 'EIO=4', 'EIO=4&transport=websocket&sid=zzz']) {
      await new Wire(server, '', { protocol: query }).ended(query);
    }
  });

  test('who answers pings stays, who does not is gone, on both transports', async () => {
    const steady = await openPolling();
    const [silent, calm, mute] = [await openPolling(), await Wire.open(server), await Wire.open(server, '', { pong: false })];
    for (let n = 0; n < 3; n++) {
      assert.equal((await get(steady)).body, '2');
      assert.deepEqual(await post(steady, '3').then(({ status, body }) => [status, body]), [200, 'ok']);
    }
    await mute.ended('it does not answer');
    assert.equal(calm.closed, false);
    await until(async () => (await get(silent)).status === 400, 'the polling session that was silent is gone');
  });

  test('packet 1 ends a session, on both transports', async () => {
    const path = await openPolling();
    const poll = get(path);
    const { status } = await post(path, '1');
    assert.equal(status, 200);
    assert.ok([200, 400].includes((await poll).status));
    assert.equal((await get(path)).status, 400);
    const wire = await Wire.open(server);
    wire.send('1');
    await wire.ended('it has to');
  });

  test('an upgrade: probe, noop for the poll that waits, and then WebSocket only', async () => {
    const path = await openPolling();
    const sid = path.slice(path.indexOf('sid=') + 4);
    const poll = get(path);
    const wire = await Wire.open(server, `&sid=${sid}`);
    wire.send('2probe');
    await wire.next(/^3probe$/);
    assert.ok(['6', '2'].includes((await poll).body));
    wire.send('5');
    wire.send('40');
    await wire.next(/^40\{/);
    assert.equal((await get(path)).status, 400);
    await new Wire(server, `&sid=${sid}`).ended('upgraded already');
    wire.send('42["message","still here"]');
    await wire.next(/^42\["message-back","still here"\]$/);
  });
});

describe('Socket.IO', () => {
  test('CONNECT, with and without a payload, in both namespaces, and in one that is not there', async () => {
    for (const [sent, connected, auth] of [
      ['40', /^40\{"sid":"[^"]+"\}$/, '42["auth",{}]'],
      ['40{"token":"123"}', /^40\{"sid":"[^"]+"\}$/, '42["auth",{"token":"123"}]'],
      ['40/custom,', /^40\/custom,\{"sid":"[^"]+"\}$/, '42/custom,["auth",{}]'],
      ['40/custom,{"token":"abc"}', /^40\/custom,\{"sid":"[^"]+"\}$/, '42/custom,["auth",{"token":"abc"}]'],
    ]) {
      const wire = await Wire.open(server);
      await wire.next(/^0/);
      wire.send(sent);
      await wire.next(connected);
      assert.equal(await wire.next(/^42/), auth);
    }
    const wire = await Wire.open(server);
    await wire.next(/^0/);
    wire.send('40/random');
    assert.equal(await wire.next(/^44/), '44/random,{"message":"Invalid namespace"}');
  });

  test('DISCONNECT leaves one namespace and not the other', async () => {
    const wire = await connected();
    wire.send('40/custom,');
    await wire.next(/^42\/custom,\["auth"/);
    wire.send('41');
    wire.send('42/custom,["message","message to a custom namespace"]');
    await wire.next(/^42\/custom,\["message-back","message to a custom namespace"\]$/);
    assert.ok(!wire.packets.some((packet) => packet.startsWith('42["')));
    wire.send('41/custom,');
    wire.send('40');
    await wire.next(/^40\{/);
  });

  test('events and acknowledgements, with any number of arguments, text and binary', async () => {
    const wire = await connected();
    wire.send('42["message",1,"2",{"3":[true]}]');
    await wire.next(/^42\["message-back",1,"2",\{"3":\[true\]\}\]$/);
    wire.send('42456["message-with-ack",1,"2",{"3":[false]}]');
    await wire.next(/^43456\[1,"2",\{"3":\[false\]\}\]$/);
    wire.send('452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
    wire.send(Buffer.from([1, 2, 3]));
    wire.send(Buffer.from([4, 5, 6]));
    assert.deepEqual(JSON.parse((await wire.next(/^452-\["message-back"/)).slice(4)), [
      'message-back',
      { _placeholder: true, num: 0 },
      { _placeholder: true, num: 1 },
    ]);
    assert.deepEqual([await wire.nextBinary(), await wire.nextBinary()], [Buffer.from([1, 2, 3]), Buffer.from([4, 5, 6])]);
    wire.send('452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
    wire.send(Buffer.from([1, 2, 3]));
    wire.send(Buffer.from([4, 5, 6]));
    await wire.next(/^462-789\[/);
    assert.deepEqual([await wire.nextBinary(), await wire.nextBinary()], [Buffer.from([1, 2, 3]), Buffer.from([4, 5, 6])]);
  });

  test('what is no packet ends the connection', async () => {
    for (const packet of ['4abc', '49["message"]', '42{}', '42["message', Buffer.from([1, 2, 3])]) {
      const wire = await connected();
      wire.send(packet);
      await wire.ended('it has to');
    }
  });

  test('the same over polling, every request of a session on a connection of its own', async () => {
    await inParallel(Array.from({ length: 8 }), 8, async () => {
      const path = await openPolling();
      await post(path, '40');
      let told = '';
      while (!told.includes('42["auth",{}]')) told += (await get(path)).body;
      await post(path, '42["message",1,"2"]\x1e421["message-with-ack","x"]');
      while (!told.includes('42["message-back",1,"2"]') || !told.includes('431["x"]')) {
        const { status, body } = await get(path);
        assert.equal(status, 200);
        if (body.split('\x1e').includes('2')) await post(path, '3');
        told += body;
      }
    });
  });
});
