// What the log says of clients: who came from where, why they went, why they were refused; and what it never says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { request } from '../harness/http.mjs';
import { until } from '../harness/wait.mjs';

test('as JSON: the client\'s address, the worker\'s tag, the user and the reason; no content and no secret', async (t) => {
  const token = 'T0ken-that-nobody-may-read';
  const args = ['--log-format', 'json', '--log-level', 'trace', '--publish-token', token];
  const cluster = await startCluster({ workers: 1, args, env: { CHAT_CLUSTER_CLUSTER_SECRET: 'a secret of the cluster' }, t });
  const ann = await ChatUser.logIn(cluster, { username: 'ann of the log' });
  const content = 'what is written stays between the two';
  assert.equal((await ann.send(ann, content)).ok, true);
  await request(cluster, '/api/publish', {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ namespace: '/rooms', roomCode: 'r', msg: { text: content } }),
  });
  assert.equal((await request(cluster, '/', { headers: { x: 'y'.repeat(20_000) } })).status, 431);
  const { localPort } = ann.clientEnd;
  const { id } = ann.socket;
  ann.close();

  const lines = () => cluster.stderr.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const find = (message, matches = () => true) => until(() => lines().find((line) => line.message === message && matches(line)), `a line "${message}"`);
  const connected = await find('connected', ({ ns }) => ns === '/');
  assert.equal(connected.client, `127.0.0.1:${localPort}`);
  assert.deepEqual([connected.sid, connected.user, connected.span.name], [id, ann.userID, 'worker']);
  assert.match(connected.span.tag, /^[A-Za-z0-9_-]{4}$/);
  const disconnected = await find('disconnected');
  assert.deepEqual([disconnected.client, disconnected.sid, disconnected.user], [connected.client, id, ann.userID]);
  assert.ok(disconnected.reason);
  const refused = await find('connection refused');
  assert.equal(refused.reason, 'head too large');
  assert.match(refused.client, /127\.0\.0\.1/);

  await cluster.stop();
  for (const hidden of [content, token, 'a secret of the cluster', ann.session.sessionID, 'ann of the log']) {
    assert.ok(!cluster.output.includes(hidden), `"${hidden}" is in the log`);
  }
});
