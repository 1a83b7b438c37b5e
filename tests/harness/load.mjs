// A steady load of private messages whose fate is known one by one.
import assert from 'node:assert/strict';
import { LightUser } from './light_user.mjs';
import { until } from './wait.mjs';

/** Between two looks at how many messages are due, in milliseconds. */
const TICK_MS = 10;

/** What a user has under way at most; whoever is served slower sends less. */
const WINDOW = 100;

/** Each user writes to that many others in turn. */
const CONVERSATIONS = 3;

export class Load {
  constructor(users, rate) {
    this.users = users;
    this.rate = rate;
    this.issued = 0;
    this.began = performance.now();
    this.timer = setInterval(() => this.tick(), TICK_MS);
  }

  /** Logs `users` in and has them send `rate` messages a second, together; ends with the test. */
  static async start(t, server, { users = 40, rate = 2_000 } = {}) {
    const all = Array.from({ length: users }, (_, n) => new LightUser(server, `u${n}`));
    t.after(() => all.forEach((user) => user.close()));
    await until(() => all.every((user) => user.here), 'the users of the load are logged in');
    const load = new Load(all, rate);
    t.after(() => clearInterval(load.timer));
    return load;
  }

  tick() {
    const due = ((performance.now() - this.began) / 1_000) * this.rate;
    let idle = 0;
    while (this.issued < due && idle < this.users.length) {
      const sender = this.issued % this.users.length;
      const user = this.users[sender];
      this.issued += 1;
      if (!user.here || user.waiting >= WINDOW) {
        idle += 1;
        continue;
      }
      const recipient = this.users[(sender + 1 + (user.sent.length % CONVERSATIONS)) % this.users.length];
      user.send(recipient.userID, `${user.sent.length}`);
    }
    // What nobody could send is not made up for.
    if (this.issued < due) this.issued = Math.ceil(due);
  }

  get acked() {
    return this.users.reduce((sum, user) => sum + user.acked, 0);
  }

  /** Waits until that many more are acknowledged. */
  async progress(count) {
    const goal = this.acked + count;
    await until(() => this.acked >= goal, `${count} more messages are acknowledged`, 60_000);
  }

  /** Ends it, whatever is under way. */
  stop() {
    clearInterval(this.timer);
    this.users.forEach((user) => user.close());
  }

  /** Sends nothing new, and waits until everything is acknowledged. */
  async finish() {
    clearInterval(this.timer);
    await until(() => this.users.every((user) => user.here && user.waiting === 0), 'everything is acknowledged', 60_000);
  }

  /** Nobody heard a message twice. */
  assertNothingHeardTwice() {
    for (const user of this.users) {
      const twice = [...user.heard].filter(([, times]) => times > 1);
      assert.deepEqual(twice.slice(0, 5), [], `${user.username} heard ${twice.length} of ${user.heard.size} messages more than once`);
    }
  }

  /** Waits until each of these users has heard all that was acknowledged to its sender. */
  async allHeardBy(users) {
    for (const user of users) {
      const missing = () =>
        this.users.flatMap((sender) =>
          sender.sent.filter(
            ({ id, to, ackedAt }) => to === user.userID && ackedAt !== undefined && !user.heard.has(`${sender.userID} ${id}`),
          ),
        );
      await until(() => missing().length === 0, `${user.username} hears all`).catch((error) => {
        const left = missing();
        const times = left.slice(0, 5).map(({ sentAt, ackedAt }) => `${sentAt}..${ackedAt}`);
        throw new Error(`${user.username} did not hear ${left.length} messages, sent and acknowledged at ${times}`, { cause: error });
      });
    }
  }
}
