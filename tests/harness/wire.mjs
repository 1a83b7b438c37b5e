// A WebSocket on which the test says everything itself.
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { endsWithUs } from './leftovers.mjs';
import { until, within } from './wait.mjs';

/** `protocol`: what the query says of it; `pong`: whether pings are answered. */
export class Wire {
  constructor(server, query = '', { pong = true, protocol = 'EIO=4&transport=websocket' } = {}) {
    this.ws = new WebSocket(`ws://${server.host}:${server.port}/socket.io/?${protocol}${query}`);
    /** What came and was not taken, pings aside. */
    this.packets = [];
    this.pings = 0;
    this.closed = false;
    endsWithUs(() => this.ws.terminate());
    this.ws.on('error', () => {}); // `close` follows
    this.ws.on('close', () => (this.closed = true));
    this.ws.on('message', (bytes, isBinary) => {
      const packet = isBinary ? bytes : bytes.toString();
      if (packet === '2') {
        this.pings += 1;
        if (pong) this.ws.send('3');
      } else this.packets.push(packet);
    });
  }

  static async open(server, query, options) {
    const wire = new Wire(server, query, options);
    await within(once(wire.ws, 'open'), 'the WebSocket is open');
    return wire;
  }

  /** A session of its own; its handshake is taken. */
  static async session(server, options) {
    const wire = await Wire.open(server, '', options);
    wire.handshake = JSON.parse((await wire.next('0')).slice(1));
    return wire;
  }

  /** A user of the chat. */
  static async user(cluster, username) {
    const wire = await Wire.session(cluster);
    wire.send(`40${JSON.stringify({ username })}`);
    wire.socket = JSON.parse((await wire.next('40')).slice(2));
    wire.userID = JSON.parse((await wire.next('42["session"')).slice(2))[1].userID;
    await wire.next('42["users"');
    return wire;
  }

  send(...packets) {
    for (const packet of packets) this.ws.send(packet);
  }

  /** Takes the next text packet with this beginning, or of this form. */
  async next(beginning, limitMs) {
    const isIt = (packet) => (beginning instanceof RegExp ? beginning.test(packet) : packet.startsWith(beginning));
    return await this.take((packet) => typeof packet === 'string' && isIt(packet), `${beginning}…`, limitMs);
  }

  /** Takes the next binary one. */
  async nextBinary() {
    return await this.take((packet) => typeof packet !== 'string', 'that is binary');
  }

  async take(isIt, described, limitMs) {
    return await until(() => {
      const index = this.packets.findIndex(isIt);
      return index >= 0 && this.packets.splice(index, 1)[0];
    }, `a packet ${described}`, limitMs);
  }

  async ended(why, limitMs) {
    await until(() => this.closed, `the server closes: ${why}`, limitMs);
  }
}
