// A browser's login session without a browser: the cookie, and sockets that carry it.
import { request } from './http.mjs';
import { ChatUser } from './client.mjs';
import { endsWithUs } from './leftovers.mjs';
import { until, within } from './wait.mjs';
import { io } from 'socket.io-client';

/** `POST /login` as the page does it. `cookie`: of a session that the browser has already. */
export function postLogin(cluster, user, { cookie, headers = {} } = {}) {
  return request(cluster, '/login', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...(cookie ? { Cookie: cookie } : {}), ...headers },
    body: JSON.stringify({ user }),
  });
}

/** The cookie in an answer, as a browser sends it back. */
export function cookieOf(answer) {
  return answer.headers['set-cookie'][0].split(';')[0];
}

/** Logs in and returns the cookie. */
export async function logIn(cluster, user, options) {
  const answer = await postLogin(cluster, user, options);
  if (answer.status !== 200) throw new Error(`POST /login: ${answer.status} ${answer.body}`);
  return cookieOf(answer);
}

/** `GET /logout` as the page does it. */
export function logOut(cluster, cookie) {
  return request(cluster, '/logout', { headers: { Cookie: cookie, Accept: 'application/json' } });
}

/** Who is logged in with this cookie: `{user, userID}`. */
export async function whoIs(cluster, cookie) {
  const { body } = await request(cluster, '/login', { headers: cookie ? { Cookie: cookie } : {} });
  return JSON.parse(body);
}

/** Private messages with the cookie and without credentials. */
export function messenger(cluster, cookie, options = {}) {
  return ChatUser.logIn(cluster, { auth: {}, extraHeaders: { Cookie: cookie }, ...options });
}

/** A socket in the lobby; keeps what it hears. */
export class LobbyUser {
  constructor(cluster, { cookie, transports = ['websocket'], ...options } = {}) {
    /** Payloads of `chat`, in order of arrival. */
    this.heard = [];
    this.disconnects = [];
    this.socket = io(`${cluster.url}/lobby`, {
      forceNew: true,
      transports,
      ca: cluster.ca,
      extraHeaders: cookie ? { Cookie: cookie } : {},
      reconnectionDelay: 50,
      reconnectionDelayMax: 500,
      ...options,
    });
    endsWithUs(() => this.close());
    this.socket.on('chat', (line) => this.heard.push(line));
    this.socket.on('disconnect', (reason) => this.disconnects.push(reason));
  }

  /** Connects; rejects with the server's `connect_error`. */
  static async enter(cluster, options) {
    const user = new LobbyUser(cluster, options);
    try {
      await within(
        new Promise((resolve, reject) => {
          user.socket.once('connect', resolve);
          user.socket.once('connect_error', reject);
        }),
        'a socket enters the lobby',
      );
    } catch (error) {
      user.close();
      throw error;
    }
    return user;
  }

  async call(event, ...payload) {
    return await this.socket.timeout(10_000).emitWithAck(event, ...payload);
  }

  async say(msg, extra = {}) {
    return await this.call('chat', { msg, ...extra });
  }

  /** The messages among what it heard: without who came. */
  get messages() {
    return this.heard.filter((line) => line.action === 'message');
  }

  /** Waits until it heard a message with this text. */
  async hears(msg, limitMs) {
    return await until(() => this.heard.find((line) => line.msg === msg), `"${msg}" is heard in the lobby`, limitMs);
  }

  get clientEnd() {
    const { localAddress, localPort } = this.socket.io.engine.transport.ws._socket;
    return { localAddress, localPort };
  }

  close() {
    this.socket.disconnect();
  }
}
