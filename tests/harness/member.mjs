// A client in a namespace of rooms; keeps every event that it hears.
import { io } from 'socket.io-client';
import { endsWithUs } from './leftovers.mjs';
import { until, within } from './wait.mjs';

export class Member {
  constructor(cluster, namespace, { cookie, transports = ['websocket'], ...options } = {}) {
    /** `[event, ...arguments]`, in order of arrival. */
    this.heard = [];
    this.disconnects = [];
    this.socket = io(cluster.url + namespace, {
      forceNew: true,
      transports,
      ca: cluster.ca,
      extraHeaders: cookie ? { Cookie: cookie } : {},
      ...options,
    });
    endsWithUs(() => this.close());
    this.socket.onAny((...event) => this.heard.push(event));
    this.socket.on('disconnect', (reason) => this.disconnects.push(reason));
  }

  /** Connects; rejects with the server's `connect_error`. */
  static async enter(cluster, namespace, options) {
    const member = new Member(cluster, namespace, options);
    try {
      await within(
        new Promise((resolve, reject) => {
          member.socket.once('connect', resolve);
          member.socket.once('connect_error', reject);
        }),
        `a socket enters ${namespace}`,
      );
    } catch (error) {
      member.close();
      throw error;
    }
    return member;
  }

  async call(event, ...payload) {
    return await this.socket.timeout(10_000).emitWithAck(event, ...payload);
  }

  /** Waits until it heard this event, and returns how often it did. */
  async hears(...event) {
    const wanted = JSON.stringify(event);
    const times = () => this.heard.filter((heard) => JSON.stringify(heard) === wanted).length;
    return await until(times, `${wanted} is heard, beside ${JSON.stringify(this.heard)}`);
  }

  get clientEnd() {
    const { localAddress, localPort } = this.socket.io.engine.transport.ws._socket;
    return { localAddress, localPort };
  }

  close() {
    this.socket.disconnect();
  }
}
