// Two hosts, a network between them, and in the middle a Redis and a balancer that is not sticky at all. One host's
// cable is pulled: nobody is told, packets just do not arrive. Its clients come back on the other one.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { TRANSPORTS } from '../harness/client.mjs';
import { startCluster, temporaryDirectory } from '../harness/cluster.mjs';
import { Hosts, NO_HOSTS } from '../harness/hosts.mjs';
import { processEndsWithUs } from '../harness/leftovers.mjs';
import { OtherProcess } from '../harness/other_process.mjs';
import { readTag } from '../harness/polling_session.mjs';
import { missingProxy } from '../harness/proxies.mjs';
import { Hopeless, until } from '../harness/wait.mjs';

const USERS = 40;
const PORT = 3000;

/** Takes the hosts in turn; one that does not answer for a second is left out, and connections to it are ended. */
const balancer = (hosts) => `
defaults
  mode tcp
  timeout connect 1s
  timeout client 60s
  timeout server 60s
frontend public
  bind ${hosts.address.hub}:8080
  default_backend hosts
backend hosts
  balance roundrobin
  option redispatch 1
  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
  server a ${hosts.address.a}:${PORT}
  server b ${hosts.address.b}:${PORT}
`;

/** Something that runs on a host until the returned function ends it; waits until it says that it is ready, if it does. */
async function startOn(wrapper, words, ready = /^/) {
  const [command, ...rest] = [...wrapper, ...words];
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
  const tidied = processEndsWithUs(child.pid);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
  const exited = new Promise((resolve) => child.once('exit', resolve));
  await until(() => {
    if (child.exitCode !== null) throw new Hopeless(`${words[0]} ended:\n${output}`);
    return ready.test(output);
  }, `${words[0]} is ready`);
  return async () => {
    child.kill('SIGKILL');
    await exited;
    tidied();
  };
}

/** Two nodes on hosts of their own, a Redis in the middle, and clients there, too. */
async function setUp(t) {
  const hosts = new Hosts(['a', 'b']);
  const ends = [];
  // The last first: the network when nobody uses it any more.
  t.after(async () => {
    for (const end of ends.reverse()) await end();
  });
  ends.push(() => hosts.end());
  const directory = temporaryDirectory();
  ends.push(await startOn(
    hosts.on('hub'),
    ['redis-server', '--port', '6379', '--bind', hosts.address.hub, '--protected-mode', 'no', '--dir', directory, '--save', ''],
    /ready to accept connections/i,
  ));
  writeFileSync(join(directory, 'haproxy.cfg'), balancer(hosts));
  ends.push(await startOn(hosts.on('hub'), ['haproxy', '-db', '-f', join(directory, 'haproxy.cfg')]));
  const nodes = {};
  for (const name of ['a', 'b']) {
    const address = `${hosts.address[name]}:${PORT}`;
    nodes[name] = await startCluster({
      workers: 2,
      balance: 'round-robin',
      listen: address,
      redis: { url: `redis://${hosts.address.hub}:6379` },
      args: [
        ...['--node-name', name, '--advertise', address, '--cluster-secret', 'two hosts and a hub between'],
        ...['--ping-interval-ms', '2000', '--ping-timeout-ms', '3000'],
      ],
      wrapper: hosts.on(name),
    });
    ends.push(() => nodes[name].stop());
  }
  const clients = new OtherProcess('chat_process.mjs', hosts.on('hub'));
  ends.push(() => clients.stop());
  const addresses = Object.values(nodes).map(({ host, port }) => ({ host, port }));
  await clients.call('allReach', { nodes: addresses });
  return { hosts, nodes: addresses, clients };
}

const skip = NO_HOSTS || missingProxy('haproxy');

test('two hosts behind a balancer that is not sticky: chat without an error, then one is cut off, then it is back', { skip }, async (t) => {
  const { hosts, nodes, clients } = await setUp(t);
  const url = `http://${hosts.address.hub}:8080`;
  const ways = [TRANSPORTS.polling, TRANSPORTS['polling, then upgrade']];
  await clients.call('logIn', { url, name: 'user', count: USERS, ways });
  const nodeOf = ({ sid }) => readTag(sid).node;
  const before = await clients.call('users');
  assert.equal(new Set(before.map(nodeOf)).size, 2, 'there are users on both hosts');

  await clients.call('start', { pauseMs: 500 });
  await until(async () => {
    const { sent, errors } = await clients.call('progress');
    if (errors.length > 0) throw new Hopeless(errors.join('\n'));
    return sent > 600;
  }, '600 messages');
  await clients.call('finish');

  await clients.call('start', { pauseMs: 500 });
  hosts.setCable('b', 'down');
  await clients.call('abandon');
  const took = await clients.call('allCanChat', { limitMs: 40_000 });
  assert.ok(took < 40_000, `${took} ms`);
  const survivors = await clients.call('users');
  assert.equal(new Set(survivors.map(nodeOf)).size, 1, 'all of them are on one host');
  await clients.call('start', { pauseMs: 500 });
  await until(async () => (await clients.call('progress')).sent > 300, '300 messages');
  await clients.call('finish');

  hosts.setCable('b', 'up');
  await clients.call('allReach', { nodes });
  await until(async () => {
    await clients.call('logIn', { url, name: 'late', count: 1, ways });
    return new Set((await clients.call('users')).map(nodeOf)).size === 2;
  }, 'newcomers are put on both hosts again', 30_000);
  await clients.call('allCanChat', { limitMs: 20_000 });
  await clients.call('start', { pauseMs: 500 });
  await until(async () => (await clients.call('progress')).sent > 300, '300 messages');
  await clients.call('finish');
});

test('relayed requests, each on a connection of its own, do not use up the ports of a host', { skip }, async (t) => {
  const { hosts, nodes: [a, b], clients } = await setUp(t);
  // The side that closes a TCP connection cannot use its port for a minute. A host has 28,000 of them; with 200 the
  // test need not last that long.
  hosts.limitPorts('a', 40_000, 40_199);
  assert.deepEqual(await clients.call('postThrough', { node: a, owner: b, count: 1_000 }), { 200: 1_000 });
});
