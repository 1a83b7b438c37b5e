// A chat user on a bare WebSocket, cheap enough for thousands of messages a second. It does what the protocol
// asks of a client: comes back as the same user, and sends again, with the same id, what was not acknowledged.
import { WebSocket } from 'ws';
import { endsWithUs } from './leftovers.mjs';
import { webSocketUrl } from './raw_websocket.mjs';
import { messagesTo } from './users_list.mjs';

/** Between the end of a connection and the next try, and before a refused message is sent again, in milliseconds. */
const RETRY_MS = 50;

export class LightUser {
  /** `retryMs`: instead of the usual pause before it comes back. */
  constructor(server, username, { retryMs = RETRY_MS } = {}) {
    this.server = server;
    this.retryMs = retryMs;
    /** Connections that ended before the log-in was done. */
    this.attemptsThatFailed = 0;
    this.username = username;
    /** All that was ever sent: `{id, to, content, n, sentAt, ackedAt, at, refusals}`, in order; times in ms. */
    this.sent = [];
    /** What is to be acknowledged, by the number of the packet on this connection. */
    this.underWay = new Map();
    this.waiting = 0;
    this.ackNumber = 0;
    /** Messages from others that came as events: id by sender and id, to how often. */
    this.heard = new Map();
    /** Those that came in the list after a connection was lost, likewise. */
    this.listed = new Set();
    this.acked = 0;
    this.disconnects = 0;
    this.here = false;
    this.ended = false;
    endsWithUs(() => this.close());
    this.connect();
  }

  connect() {
    const ws = new WebSocket(webSocketUrl(this.server), { perMessageDeflate: false, ca: this.server.ca });
    this.ws = ws;
    ws.on('message', (packet) => this.receive(packet.toString()));
    ws.on('error', () => {}); // `close` follows
    ws.once('close', () => this.gone());
  }

  gone() {
    if (this.here) this.disconnects += 1;
    else this.attemptsThatFailed += 1;
    this.here = false;
    this.underWay.clear();
    if (!this.ended) this.retry = setTimeout(() => this.connect(), this.retryMs);
  }

  receive(packet) {
    if (packet.startsWith('42["private message"')) {
      const { id, from } = JSON.parse(packet.slice(2))[1];
      const key = `${from} ${id}`;
      this.heard.set(key, (this.heard.get(key) ?? 0) + 1);
    } else if (packet.startsWith('43')) {
      const bracket = packet.indexOf('[');
      this.acknowledged(Number(packet.slice(2, bracket)), JSON.parse(packet.slice(bracket))[0]);
    } else if (packet.startsWith('0')) {
      this.ws.send(`40${JSON.stringify(this.session ? { sessionID: this.session.sessionID } : { username: this.username })}`);
    } else if (packet.startsWith('42["session"')) {
      this.session = JSON.parse(packet.slice(2))[1];
    } else if (packet.startsWith('42["users"')) {
      if (this.disconnects > 0) this.readList(JSON.parse(packet.slice(2))[1]);
      this.loggedIn();
    } else if (packet.startsWith('44')) {
      this.lastRefusal = packet.slice(2);
      this.ws.close();
    } else if (packet === '2') {
      this.ws.send('3');
    }
  }

  readList(users) {
    for (const message of messagesTo(this.userID, users)) this.listed.add(message.join(' '));
  }

  get userID() {
    return this.session.userID;
  }

  loggedIn() {
    this.here = true;
    // In their order: what the server had not stored it stores in this one.
    for (const message of this.sent.slice(this.firstWaiting())) if (message.ackedAt === undefined) this.transmit(message);
  }

  /** The index in `sent` of the oldest message that is not acknowledged. */
  firstWaiting() {
    let index = this.sent.length;
    for (let left = this.waiting; left > 0; ) {
      index -= 1;
      if (this.sent[index].ackedAt === undefined) left -= 1;
    }
    return index;
  }

  /** Sends a message to the user with this id as soon as it can, and again until it is acknowledged; then `done` is called. */
  send(to, content, done) {
    const n = this.sent.length;
    const message = { id: `${this.username}-${n}`, n, to, content, sentAt: Date.now(), refusals: 0, done };
    this.sent.push(message);
    this.waiting += 1;
    if (this.here) this.transmit(message);
    return message;
  }

  transmit(message) {
    const number = this.ackNumber++;
    this.underWay.set(number, message);
    const { id, to, content } = message;
    this.ws.send(`42${number}${JSON.stringify(['private message', { id, to, content }])}`);
  }

  acknowledged(number, ack) {
    const message = this.underWay.get(number);
    this.underWay.delete(number);
    if (ack.ok) {
      message.ackedAt = Date.now();
      message.at = ack.at;
      this.waiting -= 1;
      this.acked += 1;
      message.done?.();
      return;
    }
    message.refusals += 1;
    message.refusal = ack.error?.code;
    const { ws } = this;
    setTimeout(() => {
      // On a later connection the log-in has sent it already.
      if (this.here && this.ws === ws) this.transmit(message);
    }, RETRY_MS);
  }

  /** The client's end of the connection: `{localAddress, localPort}`. */
  get clientEnd() {
    const { localAddress, localPort } = this.ws._socket;
    return { localAddress, localPort };
  }

  close() {
    this.ended = true;
    clearTimeout(this.retry);
    this.ws.terminate();
  }
}
