// Users of the official client who write to each other at a steady pace, and what became of each message.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from './wait.mjs';

export class Chatter {
  /** `users` write to the `others` in turn; each pauses for about `pauseMs` behind every acknowledgement. */
  constructor(users, { others = users, pauseMs }) {
    this.users = users;
    this.others = others;
    this.pauseMs = pauseMs;
    this.running = true;
    /** Everything that was acknowledged: `{to, content}`, each content once. */
    this.sent = [];
    /** What went wrong, in words. */
    this.errors = [];
    for (const user of users) {
      const name = user.username;
      user.socket.on('connect_error', (error) => this.errors.push(`${name}: connect_error ${error.message}`));
      user.socket.io.on('error', (error) => this.errors.push(`${name}: ${error.message}`));
      user.engine.on('upgradeError', (error) => this.errors.push(`${name}: upgrade ${error.message}`));
      user.socket.on('disconnect', (reason) => this.errors.push(`${name}: disconnected, ${reason}`));
    }
    this.ended = Promise.all(users.map((user, n) => this.talk(user, n)));
  }

  /** Begins; ends with the test at the latest. */
  static start(t, users, options) {
    const chatter = new Chatter(users, options);
    t.after(() => (chatter.running = false));
    return chatter;
  }

  async talk(user, n) {
    for (let count = 0; this.running; count += 1) {
      // From half to one and a half of it, so that they do not march in step.
      await sleep(this.pauseMs * (0.5 + Math.random()));
      if (!this.running) return;
      const to = this.others[(n + 1 + count) % this.others.length];
      const content = `${user.username}, number ${count}`;
      try {
        const ack = await user.send(to, content);
        if (ack.ok) this.sent.push({ from: user, to, content });
        else this.errors.push(`${content}: refused, ${JSON.stringify(ack.error)}`);
      } catch (error) {
        this.errors.push(`${content}: ${error.message}`);
      }
    }
  }

  /** Lets everyone finish, and waits until all that was acknowledged has arrived. */
  async finish() {
    this.running = false;
    await this.ended;
    for (const other of this.others) {
      const due = this.sent.filter(({ to, from }) => to === other && from !== other).map(({ content }) => content);
      await until(() => {
        const arrived = new Set(other.inbox.map(({ content }) => content));
        return due.every((content) => arrived.has(content));
      }, `${other.username} receives all of ${due.length} messages`);
    }
  }

  /** No error and no disconnect since it began, and nothing was ever delivered twice. */
  assertFlawless() {
    assert.deepEqual(this.errors.slice(0, 10), [], `${this.errors.length} errors beside ${this.sent.length} messages`);
    for (const other of this.others) {
      const ids = other.inbox.map(({ id, from }) => `${from} ${id}`);
      assert.equal(new Set(ids).size, ids.length, `${other.username} got each message once`);
    }
  }
}
