// A client comes back, in the ways in which the recovery of other servers is reported to fail: it has everything, once.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { startCluster } from '../harness/cluster.mjs';
import { conversation } from '../harness/stored_messages.mjs';
import { until } from '../harness/wait.mjs';

/** Somebody who writes to another without a pause, one message after the other, each until it is acknowledged. */
class Writer {
  static async start(t, cluster, reader, name) {
    const writer = new Writer();
    writer.user = await ChatUser.logIn(cluster, { username: name });
    t.after(() => writer.user.close());
    writer.reader = reader;
    writer.acked = [];
    writer.running = true;
    writer.done = writer.write();
    return writer;
  }

  async write() {
    for (let n = 0; this.running; n += 1) {
      const message = { to: this.reader.userID, content: `${n}`, id: `w-${n}` };
      await this.user.sendUntilStored(message);
      this.acked.push(message.id);
    }
  }

  async progress(count = 30) {
    const goal = this.acked.length + count;
    await until(() => this.acked.length >= goal, `${count} more are acknowledged`);
  }

  /** Ends the writing. In each of its visits the reader was told, by the list and then by events, all up to some message, once and in order. */
  async assertReaderHasAll(visits) {
    await this.progress();
    this.running = false;
    await this.done;
    const ids = (messages) => messages.filter(({ from }) => from === this.user.userID).map(({ id }) => id);
    const told = () =>
      this.reader.events.reduce((visits, { event, payload }) => {
        if (event === 'session') visits.push(undefined);
        if (event === 'users') visits[visits.length - 1] = ids(payload.find(({ userID }) => userID === this.user.userID)?.messages ?? []);
        if (event === 'private message') visits.at(-1).push(...ids([payload]));
        return visits;
      }, []);
    await until(() => told().at(-1)?.at(-1) === this.acked.at(-1), 'the last one has arrived');
    const all = told();
    assert.ok(all.length >= visits, `${all.length} visits`);
    for (const [n, visit] of all.entries()) {
      // A visit that ended before its list came.
      if (visit) assert.deepEqual(visit, this.acked.slice(0, visit.length), `visit ${n + 1} of ${all.length}`);
    }
    assert.deepEqual(ids(await conversation(this.reader, this.user)), this.acked, 'the history');
  }
}

/** Waits until the reader is logged in once more. */
async function back(reader, visits) {
  await until(() => reader.received('users').length >= visits, `visit ${visits} has begun`);
}

// At the same time: most of it is waiting.
describe('recovery', { concurrency: true }, () => {
  let cluster;
  before(async () => {
    cluster = await startCluster({ workers: 3, balance: 'round-robin' });
  });
  after(() => cluster?.stop());

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    const logIn = async (t, username) => {
      const reader = await ChatUser.logIn(cluster, { username, transports });
      t.after(() => reader.close());
      return reader;
    };

    test(`over ${name}: back within 50 ms`, async (t) => {
      const reader = await logIn(t, `quick over ${name}`);
      const writer = await Writer.start(t, cluster, reader, `to quick over ${name}`);
      await writer.progress();
      const before = writer.acked.length;
      reader.engine.close();
      reader.socket.connect();
      await back(reader, 2);
      assert.ok(writer.acked.length >= before);
      await writer.assertReaderHasAll(2);
    });

    test(`over ${name}: back after 10 s`, async (t) => {
      const reader = await logIn(t, `slow over ${name}`);
      const writer = await Writer.start(t, cluster, reader, `to slow over ${name}`);
      await writer.progress();
      reader.socket.disconnect();
      await sleep(10_000); // it is away for so long
      reader.socket.connect();
      await back(reader, 2);
      await writer.assertReaderHasAll(2);
    });

    test(`over ${name}: many times in a row`, async (t) => {
      const reader = await logIn(t, `often over ${name}`);
      const writer = await Writer.start(t, cluster, reader, `to often over ${name}`);
      for (let visit = 2; visit <= 5; visit += 1) {
        await writer.progress(10);
        reader.engine.close();
        await back(reader, visit);
      }
      await writer.assertReaderHasAll(5);
    });

    test(`over ${name}: long after it had connected`, async (t) => {
      const reader = await logIn(t, `old over ${name}`);
      const writer = await Writer.start(t, cluster, reader, `to old over ${name}`);
      await sleep(12_000); // the connection is so old
      reader.engine.close();
      await back(reader, 2);
      await writer.assertReaderHasAll(2);
    });

    test(`over ${name}: no duplicates when an acknowledgement is lost and the client sends again by itself`, async (t) => {
      const reader = await logIn(t, `once over ${name}`);
      const sender = await ChatUser.logIn(cluster, { username: `again over ${name}`, transports, retries: 10, ackTimeout: 1_000 });
      t.after(() => sender.close());
      const COUNT = 20;
      let acked = 0;
      for (let n = 0; n < COUNT; n += 1) {
        sender.socket.emit('private message', { to: reader.userID, content: `${n}`, id: `r-${n}` }, (error, ack) => {
          assert.equal(error, null);
          assert.equal(ack.ok, true);
          acked += 1;
        });
        // It is on its way, or has just arrived.
        if (n % 5 === 0) setImmediate(() => sender.engine.close());
        await until(() => acked === n + 1, 'it is acknowledged');
      }
      assert.ok(sender.disconnects.length >= COUNT / 5, `${sender.disconnects.length} cuts`);
      await until(() => reader.inbox.length >= COUNT, 'all have arrived');
      const expected = Array.from({ length: COUNT }, (_, n) => `r-${n}`);
      assert.deepEqual(reader.inbox.map(({ id }) => id), expected);
      assert.deepEqual((await conversation(reader, sender)).map(({ id }) => id), expected);
    });
  }
});

for (const [name, transports] of Object.entries(TRANSPORTS)) {
  test(`over ${name}: the server was killed`, async (t) => {
    const cluster = await startCluster({ workers: 2, balance: 'round-robin', t });
    const reader = await ChatUser.logIn(cluster, { username: 'reader', transports });
    t.after(() => reader.close());
    const writer = await Writer.start(t, cluster, reader, 'writer');
    // Twice: of a server that was killed, and of its successor.
    for (const visit of [2, 3]) {
      await writer.progress();
      for (const pid of cluster.workerPids()) cluster.killWorker(pid);
      await back(reader, visit);
    }
    await writer.assertReaderHasAll(3);
  });
}
