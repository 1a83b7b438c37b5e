// A proxy that keeps its connections: requests of many sessions, mixed, over a few of them.
import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { allHeardNeighbours, logInAll, sendToNext } from '../harness/neighbours.mjs';
import { PollingSession } from '../harness/polling_session.mjs';
import { inParallel } from '../harness/wait.mjs';

const SESSIONS = 50;
const CONNECTIONS = 4;
const MESSAGES = 4;

/** Keeps its connections, uses all of them in turn, and remembers each that it ever opened. */
class SharedConnections extends http.Agent {
  constructor() {
    super({ keepAlive: true, maxSockets: CONNECTIONS, scheduling: 'fifo' });
    this.opened = [];
  }

  createConnection(...args) {
    const socket = super.createConnection(...args);
    this.opened.push(socket);
    return socket;
  }
}

for (const balance of ['round-robin', 'least-connection']) {
  test(`${balance}: ${SESSIONS} polling sessions share ${CONNECTIONS} connections, which stay open throughout`, async (t) => {
    const cluster = await startCluster({ balance, t });
    const agent = new SharedConnections();
    t.after(() => agent.destroy());
    const everyone = Array.from({ length: SESSIONS });

    const sessions = await inParallel(everyone, CONNECTIONS, () => PollingSession.open(cluster, { agent }));
    const workers = new Set(sessions.map(({ worker }) => worker));
    assert.ok(workers.size > 1, 'the sessions are on several workers');
    const ports = new Set(agent.opened.map(({ localPort }) => localPort));
    assert.equal(ports.size, CONNECTIONS);

    await logInAll(sessions, CONNECTIONS);
    // The first message of everybody, then the second of everybody: neighbours on a connection are never of one
    // session. What a session does it does in order all the same, as a client would.
    const tasks = Array.from({ length: MESSAGES }, (_, message) => sessions.map((session, n) => ({ session, n, message }))).flat();
    await inParallel(tasks, CONNECTIONS, ({ session, n, message }) => {
      session.last = (session.last ?? Promise.resolve()).then(() => sendToNext(sessions, n, message));
      return session.last;
    });
    await allHeardNeighbours(sessions, MESSAGES, CONNECTIONS);
    await inParallel(sessions, CONNECTIONS, (session) => session.close());

    assert.equal(agent.opened.length, CONNECTIONS, 'no connection was opened in place of another');
    assert.ok(agent.opened.every((socket) => !socket.destroyed && socket.readable), 'all of them are open still');
    assert.deepEqual(new Set(agent.opened.map(({ localPort }) => localPort)), ports);
  });
}
