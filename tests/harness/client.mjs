// A user of the chat, played by the official client: logs in, sends, and keeps all that it is told.
import http from 'node:http';
import { io } from 'socket.io-client';
import { endsWithUs } from './leftovers.mjs';
import { until, within } from './wait.mjs';

/** The client's ways to connect, by the names that test titles use. */
export const TRANSPORTS = {
  polling: ['polling'],
  websocket: ['websocket'],
  'polling, then upgrade': ['polling', 'websocket'],
};

const EVENTS = ['session', 'users', 'user connected', 'user disconnected', 'private message'];

export class ChatUser {
  constructor(url, { auth, transports = ['websocket'], localAddress, namespace = '', ...options }) {
    /** Every event in order of arrival: `{event, payload}`. */
    this.events = [];
    /** Reasons of every disconnect, in order. */
    this.disconnects = [];
    this.transports = transports;
    this.socket = io(url + namespace, {
      forceNew: true,
      transports,
      auth,
      reconnectionDelay: 50,
      reconnectionDelayMax: 500,
      ...(localAddress ? { agent: new http.Agent({ localAddress, keepAlive: false }) } : {}),
      ...options,
    });
    endsWithUs(() => this.close());
    for (const event of EVENTS) {
      this.socket.on(event, (payload) => {
        this.events.push({ event, payload });
        if (event === 'session') {
          this.session = payload;
          // As the page does: from now on reconnect as the same user.
          this.socket.auth = { sessionID: payload.sessionID };
        }
      });
    }
    this.socket.on('disconnect', (reason) => this.disconnects.push(reason));
  }

  /** Connects as a new user, or with `auth` as given; resolves once `users` came, and after the upgrade if one is due. */
  static async logIn(cluster, { username, auth = { username }, ...options } = {}) {
    const user = new ChatUser(cluster.url, { auth, ca: cluster.ca, ...options });
    user.username = username;
    try {
      await within(
        new Promise((resolve, reject) => {
          user.socket.once('users', resolve);
          user.socket.once('connect_error', reject);
        }),
        `${username ?? 'a session'} is logged in`,
      );
      if (user.transports.length > 1) {
        await until(() => user.engine.transport.name === 'websocket', `${username} is upgraded`);
      }
    } catch (error) {
      user.close();
      throw error;
    }
    return user;
  }

  /** Another tab: the same session once more. */
  static another(cluster, user, options = {}) {
    return ChatUser.logIn(cluster, { username: user.username, auth: { sessionID: user.session.sessionID }, ...options });
  }

  get engine() {
    return this.socket.io.engine;
  }

  get userID() {
    return this.session.userID;
  }

  /** The payloads of one event, in order of arrival. */
  received(event) {
    return this.events.filter((entry) => entry.event === event).map((entry) => entry.payload);
  }

  /** The newest `users` list. */
  get users() {
    return this.received('users').at(-1);
  }

  /** The user's entry in the newest `users` list. */
  entryOf(user) {
    return this.users.find((entry) => entry.userID === user.userID);
  }

  /** Private messages received as events. */
  get inbox() {
    return this.received('private message');
  }

  /** Waits until an event with such a payload came, be it earlier, and returns the payload. */
  async got(event, matches = () => true, limitMs = undefined) {
    const described = `${this.username} receives "${event}"`;
    return await until(() => this.received(event).find(matches), described, limitMs);
  }

  /** Sends a private message and returns its acknowledgement. */
  async send(to, content, extra = {}) {
    return await this.call('private message', { to: to.userID ?? to, content, ...extra });
  }

  /** Sends a message, `{to, content, id}`, as the protocol says: again under the same id until it is stored. */
  async sendUntilStored(message, limitMs = 2_000) {
    for (let ack; !ack?.ok; ) {
      ack = await this.socket.timeout(limitMs).emitWithAck('private message', message).catch(() => undefined);
    }
  }

  /** Emits an event and returns its acknowledgement. */
  async call(event, ...payload) {
    return await this.socket.timeout(10_000).emitWithAck(event, ...payload);
  }

  /** The stored conversation with another user. */
  async history(other, range = {}) {
    return await this.call('messages', { with: other.userID, ...range });
  }

  /** The client's end of the WebSocket: `{localAddress, localPort}`. */
  get clientEnd() {
    const { localAddress, localPort } = this.engine.transport.ws._socket;
    return { localAddress, localPort };
  }

  close() {
    this.socket.disconnect();
  }
}
