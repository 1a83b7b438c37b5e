// A program: users of the official client who keep account of what they sent and were told. See
// harness/other_process.mjs.
import { setTimeout as sleep } from 'node:timers/promises';
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { serve } from '../harness/other_process.mjs';
import { messagesTo } from '../harness/users_list.mjs';
import { inParallel } from '../harness/wait.mjs';
import { randomFrom } from './plan.mjs';

/** Before a message that was refused or not answered is sent again, in ms. */
const AGAIN_MS = 100;

/** How long an acknowledgement is waited for, in ms: the server promises an answer within 2 s. */
const ACK_MS = 3_000;

class Client {
  constructor(user) {
    this.user = user;
    this.userID = user.userID;
    /** Acknowledged, in the order of sending: `{id, to}`. */
    this.sent = [];
    this.told = [{ list: this.toMe(user.users) }];
    this.refusals = 0;
    user.socket.on('users', (users) => this.told.push({ list: this.toMe(users) }));
    user.socket.on('private message', ({ from, to, id }) => {
      if (to === this.userID) this.told.push({ event: [from, id] });
    });
    // The official client does not come back by itself when a server refuses it or sends it away.
    const comeBack = () => {
      if (!this.retired && !user.socket.active) this.timer = setTimeout(() => user.socket.connect(), AGAIN_MS);
    };
    user.socket.on('disconnect', comeBack);
    user.socket.on('connect_error', comeBack);
  }

  toMe(users) {
    return messagesTo(this.userID, users);
  }

  /** One message at a time, each sent under its id until it is acknowledged: so its order is that of the store. */
  async talk(others, pauseMs, random) {
    for (let n = 0; this.running; n += 1) {
      await sleep(pauseMs * (0.5 + random()));
      const to = others[Math.floor(random() * others.length)];
      if (to === this.userID) continue;
      const message = { to, content: `number ${n}`, id: `m${n}` };
      // What was begun is brought to its end: whether it is stored is not known else.
      for (;;) {
        const ack = await this.user.socket.timeout(ACK_MS).emitWithAck('private message', message).catch(() => undefined);
        if (ack?.ok) break;
        this.refusals += 1;
        await sleep(AGAIN_MS);
      }
      this.sent.push({ id: message.id, to });
    }
  }

  /** As if the network had. */
  cut() {
    const { transport } = this.user.engine;
    if (transport.ws) transport.ws._socket?.destroy();
    else this.user.engine.close();
  }

  retire() {
    this.retired = true;
    clearTimeout(this.timer);
    this.user.close();
  }
}

let clients = [];
let talking = [];

serve({
  /** Logs users in; returns their ids. */
  async logIn({ url, name, count }) {
    const ways = Object.values(TRANSPORTS);
    const users = await inParallel(Array.from({ length: count }), 16, (_, n) =>
      ChatUser.logIn({ url }, { username: `${name} ${n}`, transports: ways[n % ways.length], reconnectionDelayMax: 1_000 }),
    );
    clients = users.map((user) => new Client(user));
    return clients.map(({ userID }) => userID);
  },

  /** They begin to write to `others`, each with a pause of about `pauseMs` behind every acknowledgement. */
  start({ others, pauseMs, seed }) {
    talking = clients.map((client, n) => {
      client.running = true;
      return client.talk(others, pauseMs, randomFrom(seed + n));
    });
  },

  cut({ share, seed }) {
    const random = randomFrom(seed);
    for (const client of clients) if (random() < share) client.cut();
  },

  progress() {
    return { acked: clients.reduce((sum, { sent }) => sum + sent.length, 0) };
  },

  /** They end what they have begun. */
  async finish() {
    for (const client of clients) client.running = false;
    await Promise.all(talking);
  },

  /** Whether each was told of everything that the `sent` of all have for it. */
  haveHeard({ due }) {
    return clients.every(({ userID, told }) => {
      const heard = new Set(told.flatMap(({ list, event }) => list ?? [event]).map((message) => message.join(' ')));
      return (due[userID] ?? []).every((key) => heard.has(key));
    });
  },

  /** By user id, what the checker wants to know. */
  account() {
    return Object.fromEntries(clients.map(({ userID, sent, told, refusals }) => [userID, { sent, told, refusals }]));
  },

  /** By user id, what a new log-in is told of the messages to the user. */
  async stored({ url }) {
    const lists = await inParallel(clients, 8, async (client) => {
      const again = await ChatUser.another({ url }, client.user);
      const list = client.toMe(again.users);
      again.close();
      return [client.userID, list];
    });
    return Object.fromEntries(lists);
  },

  /** The first so many leave for good; the ids of those who stay. */
  retire({ count }) {
    for (const client of clients.slice(0, count)) client.retire();
    return clients.slice(count).map(({ userID }) => userID);
  },
});
