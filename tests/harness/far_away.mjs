// A server as if it were far away: what is sent to it arrives later. So what is waited for one after the other can
// be told from what is waited for at the same time.
import { connect, createServer } from 'node:net';

/** Passes connections on to a local port; `delayMs`, which may be changed, is for what is sent there. Ends with the test. */
export class FarAway {
  constructor(port) {
    this.delayMs = 0;
    this.sockets = new Set();
    this.server = createServer((near) => this.#join(near, connect(port, '127.0.0.1')));
  }

  static async start(t, port) {
    const farAway = new FarAway(port);
    await new Promise((resolve) => farAway.server.listen(0, '127.0.0.1', resolve));
    t.after(() => farAway.stop());
    return farAway;
  }

  get port() {
    return this.server.address().port;
  }

  #join(near, far) {
    for (const [socket, other] of [[near, far], [far, near]]) {
      this.sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
    near.on('data', (bytes) => setTimeout(() => far.write(bytes), this.delayMs));
    far.on('data', (bytes) => near.write(bytes));
  }

  stop() {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}
