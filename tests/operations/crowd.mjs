// A program: users of the official client on all transports, who write to each other at a steady rate while others
// come and go. Keeps account of each message, each connection and each second. See harness/other_process.mjs.
import { ChatUser, TRANSPORTS } from '../harness/client.mjs';
import { LightUser } from '../harness/light_user.mjs';
import { serve } from '../harness/other_process.mjs';
import { messagesTo } from '../harness/users_list.mjs';
import { inParallel, until } from '../harness/wait.mjs';

const WAYS = Object.values(TRANSPORTS);

/** Between two looks at how much is due, in ms. */
const TICK_MS = 10;

/** How long an acknowledgement is waited for before the message is sent again, in ms. */
const ACK_MS = 5_000;

/** The official client's own settings, which the tests' users shorten otherwise. */
const RECONNECTION = { reconnectionDelay: 1_000, reconnectionDelayMax: 5_000 };

/** Of a message. */
const CONTENT = 'x'.repeat(100);

/** Who comes and goes is one of so many users, so that the list of them does not grow with the length of a run. */
const VISITORS = 100;

/** A member who uses the official client. */
class OfficialMember {
  /** Logs in as a user of that name. */
  static async logIn(server, username, transports) {
    return new OfficialMember(await ChatUser.logIn(server, { username, transports, ...RECONNECTION }));
  }

  constructor(user) {
    this.user = user;
    this.userID = user.userID;
    /** Acknowledged: `{id, to}`. */
    this.sent = [];
    /** By sender and id, how often a message came as an event. */
    this.heard = new Map();
    /** Those that came in a list. */
    this.listed = new Set();
    this.attemptsThatFailed = 0;
    this.count = 0;
    this.readList(user.users);
    user.socket.on('users', (users) => this.readList(users));
    user.socket.on('private message', ({ from, to, id }) => {
      if (to !== user.userID) return;
      const key = `${from} ${id}`;
      this.heard.set(key, (this.heard.get(key) ?? 0) + 1);
    });
    user.socket.io.on('reconnect_error', () => (this.attemptsThatFailed += 1));
    user.socket.on('connect_error', () => (this.attemptsThatFailed += 1));
  }

  get connected() {
    return this.user.socket.connected;
  }

  get disconnects() {
    return this.user.disconnects;
  }

  readList(users) {
    for (const message of messagesTo(this.userID, users)) this.listed.add(message.join(' '));
  }

  /** Sends one message, again under its id until it is acknowledged. Resolves to the time that it took on a WebSocket that lasts, in ms. */
  async write(to) {
    const message = { to, id: `m${this.count++}`, content: CONTENT };
    const before = this.disconnects.length;
    const began = performance.now();
    for (let tries = 1; ; tries += 1) {
      const ack = await this.user.socket.timeout(ACK_MS).emitWithAck('private message', message).catch(() => undefined);
      if (!ack?.ok) continue;
      this.sent.push({ id: message.id, to });
      // Each poll of this client is a connection of its own, which has to find its way anew.
      const lasts = this.user.engine.transport.name === 'websocket';
      return tries === 1 && lasts && before === this.disconnects.length ? performance.now() - began : undefined;
    }
  }

  /** For a failure's text. */
  get state() {
    const { user, disconnects, attemptsThatFailed } = this;
    const { active, io } = user.socket;
    const transport = io.engine?.transport?.name;
    return { user: user.username, active, manager: io._readyState, engine: io.engine?.readyState, transport, attemptsThatFailed, last: disconnects.at(-1) };
  }

  /** Where it is: `{worker}` where the session id names it, else the client's end of the WebSocket. */
  get place() {
    const { engine, transports } = this.user;
    if (transports[0] === 'polling') return { worker: Buffer.from(engine.id.slice(0, 4), 'base64url')[2] };
    return this.user.clientEnd;
  }
}

/** A member on a bare WebSocket, which costs this machine much less. Comes back by itself, too. */
class LightMember {
  static async logIn(server, username) {
    const user = new LightUser(server, username, { retryMs: RECONNECTION.reconnectionDelay });
    await until(() => user.here, `${username} is logged in`);
    return new LightMember(user);
  }

  constructor(user) {
    this.user = user;
    this.userID = user.userID;
    this.heard = user.heard;
    this.listed = user.listed;
  }

  get sent() {
    return this.user.sent.filter(({ ackedAt }) => ackedAt !== undefined);
  }

  get connected() {
    return this.user.here;
  }

  get disconnects() {
    return Array.from({ length: this.user.disconnects }, () => 'closed');
  }

  get attemptsThatFailed() {
    return this.user.attemptsThatFailed;
  }

  async write(to) {
    const before = this.user.disconnects;
    const began = performance.now();
    await new Promise((done) => this.user.send(to, CONTENT, done));
    return before === this.user.disconnects ? performance.now() - began : undefined;
  }

  /** For a failure's text. */
  get state() {
    const { username, ws, lastRefusal, disconnects, attemptsThatFailed } = this.user;
    return { user: username, webSocket: ws.readyState, lastRefusal, disconnects, attemptsThatFailed };
  }

  get place() {
    return this.user.clientEnd;
  }
}

/** The members, their messages and the visitors, second by second. */
class Crowd {
  constructor(server, members, others, rate, logins) {
    this.server = server;
    this.members = members;
    this.others = others;
    /** By second: `{acked, times}`; times of undisturbed messages in ms. */
    this.seconds = [];
    /** Visits: how long each log-in took in ms, and what became of those that failed. */
    this.visits = { times: [], failed: [] };
    this.visitors = [];
    this.began = performance.now();
    this.pending = 0;
    this.timers = [
      this.pace(rate, (n) => this.write(n)),
      this.pace(logins, (n) => this.visit(n)),
    ];
  }

  /** Has `begin` called so many times a second; what cannot be kept up with is made up for. */
  pace(rate, begin) {
    const began = performance.now();
    let count = 0;
    return setInterval(() => {
      const due = ((performance.now() - began) / 1_000) * rate;
      for (; count < due; count += 1) begin(count);
    }, TICK_MS);
  }

  second() {
    const number = Math.floor((performance.now() - this.began) / 1_000);
    return (this.seconds[number] ??= { acked: 0, times: [] });
  }

  async write(n) {
    const { members } = this;
    // Who is on the way somewhere writes when it is there.
    let writer = members[n % members.length];
    for (let next = n; !writer.connected && next < n + members.length; next += 1) writer = members[next % members.length];
    const at = (n * 7 + Math.floor(n / members.length)) % this.others.length;
    // What somebody writes to themselves is no event for them.
    const to = this.others[at] === writer.userID ? this.others[(at + 1) % this.others.length] : this.others[at];
    this.pending += 1;
    const time = await writer.write(to);
    this.pending -= 1;
    const second = this.second();
    second.acked += 1;
    if (time !== undefined) second.times.push(time);
  }

  async visit(n) {
    const { visitors } = this;
    const known = visitors[n % VISITORS];
    const auth = known ? { sessionID: known } : { username: `visitor ${n % VISITORS}` };
    const began = performance.now();
    try {
      const transports = WAYS[n % WAYS.length].slice(0, 1);
      const user = await ChatUser.logIn(this.server, { username: `visitor ${n}`, auth, transports, reconnection: false });
      this.visits.times.push(performance.now() - began);
      visitors[n % VISITORS] = user.session.sessionID;
      user.close();
    } catch (error) {
      this.visits.failed.push(`${((performance.now() - this.began) / 1_000).toFixed(2)} s: ${error.message}`);
    }
  }

  stop() {
    this.timers.forEach(clearInterval);
  }
}

let members;
let crowd;

serve({
  /** `official` clients log in, a third on each transport, and `light` ones; the user ids of all. */
  async logIn({ server, name, official, light }) {
    const all = [
      ...Array.from({ length: official }, (_, n) => () => OfficialMember.logIn(server, `${name}-${n}`, WAYS[n % WAYS.length])),
      ...Array.from({ length: light }, (_, n) => () => LightMember.logIn(server, `${name}-light-${n}`)),
    ];
    members = await inParallel(all, 16, (logIn) => logIn());
    return members.map(({ userID }) => userID);
  },

  /** They write `rate` messages a second to `others`, and `logins` visitors a second come. */
  start({ server, others, rate, logins }) {
    crowd = new Crowd(server, members, others, rate, logins);
  },

  /** Which second runs, and how many members are connected. */
  progress() {
    return {
      second: Math.floor((performance.now() - crowd.began) / 1_000),
      connected: members.filter(({ connected }) => connected).length,
    };
  },

  /** What is known of the members that are not connected. */
  absent() {
    return members.filter(({ connected }) => !connected).map(({ state }) => state);
  },

  /** Where every member is that is connected. */
  places() {
    return members.filter(({ connected }) => connected).map(({ place }) => place);
  },

  /** Ends the writing, and waits until all of it is acknowledged. By recipient, what is due to arrive. */
  async stop() {
    crowd.stop();
    await until(() => crowd.pending === 0, 'everything is acknowledged', 60_000);
    const due = {};
    for (const { userID, sent } of members) for (const { id, to } of sent) (due[to] ??= []).push(`${userID} ${id}`);
    return due;
  },

  /** Waits for what is due, and gives the account. */
  async account({ due }) {
    const missing = () =>
      members.flatMap(({ userID, heard, listed }) => (due[userID] ?? []).filter((key) => !heard.has(key) && !listed.has(key)));
    await until(() => missing().length === 0, 'everything has arrived', 30_000).catch(() => {});
    const sum = (what) => members.reduce((total, member) => total + what(member), 0);
    return {
      acked: sum(({ sent }) => sent.length),
      lost: missing(),
      doubled: members.flatMap(({ heard }) => [...heard].filter(([, times]) => times > 1).map(([key]) => key)),
      moves: sum(({ disconnects }) => disconnects.length),
      attemptsThatFailed: sum(({ attemptsThatFailed }) => attemptsThatFailed),
      reasons: members.flatMap(({ disconnects }) => disconnects),
      seconds: Array.from(crowd.seconds, (second) => second ?? { acked: 0, times: [] }),
      visits: crowd.visits,
    };
  },
});
