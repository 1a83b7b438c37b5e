// A TCP connection on which the test writes the bytes itself.
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { endsWithUs } from './leftovers.mjs';
import { LIMIT_MS, until, within } from './wait.mjs';

export class RawConnection {
  constructor(socket) {
    this.socket = socket;
    this.received = Buffer.alloc(0);
    /** Set once the server has ended its side or the connection is gone. */
    this.closed = false;
    this.openedAt = performance.now();
    socket.setNoDelay(true);
    endsWithUs(() => socket.destroy());
    socket.on('data', (bytes) => (this.received = Buffer.concat([this.received, bytes])));
    socket.on('error', (error) => (this.error = error));
    const finish = () => {
      this.closedAt ??= performance.now();
      this.closed = true;
    };
    this.ended = new Promise((resolve) => {
      for (const event of ['end', 'close']) socket.once(event, () => resolve(finish()));
    });
  }

  static async open(server, options = {}) {
    const socket = net.connect({ host: server.host, port: server.port, allowHalfOpen: true, ...options });
    await within(once(socket, 'connect'), 'a connection is accepted');
    return new RawConnection(socket);
  }

  /** Writes the pieces with a pause after each, and each in a segment of its own. */
  async write(pieces, pauseMs = 0) {
    for (const piece of [pieces].flat()) {
      if (this.closed) return;
      if (!this.socket.write(piece)) await Promise.race([once(this.socket, 'drain').catch(() => {}), this.ended]);
      if (pauseMs > 0) await sleep(pauseMs);
    }
  }

  get text() {
    return this.received.toString('latin1');
  }

  get status() {
    const found = /^HTTP\/1\.[01] (\d{3}) /.exec(this.text);
    return found ? Number(found[1]) : undefined;
  }

  /** The body of the first answer, once it is complete by its Content-Length. */
  async answer(limitMs = LIMIT_MS) {
    return await until(() => {
      const end = this.text.indexOf('\r\n\r\n');
      if (end < 0) return undefined;
      const length = Number(/^content-length: *(\d+)/im.exec(this.text.slice(0, end))?.[1] ?? 0);
      const body = this.text.slice(end + 4);
      return body.length >= length && { status: this.status, body };
    }, 'a complete answer', limitMs);
  }

  /** Milliseconds from the opening until the server closed. */
  async lifetime(limitMs = LIMIT_MS) {
    await within(this.ended, 'the server closes the connection', limitMs);
    return this.closedAt - this.openedAt;
  }

  destroy() {
    this.socket.destroy();
  }
}
