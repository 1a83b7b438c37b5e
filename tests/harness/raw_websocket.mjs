// A bare Engine.IO client on a WebSocket, cheap enough to hold hundreds of them. It speaks no Socket.IO.
import { WebSocket } from 'ws';
import { endsWithUs } from './leftovers.mjs';
import { LIMIT_MS } from './wait.mjs';

/** Opens a WebSocket and resolves with `{localAddress, localPort, close()}` when the open packet came. */
export function openWebSocket(cluster, { localAddress, headers, limitMs = LIMIT_MS } = {}) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(`ws://${cluster.host}:${cluster.port}/socket.io/?EIO=4&transport=websocket`, {
      localAddress,
      headers,
      handshakeTimeout: limitMs,
    });
    endsWithUs(() => ws.terminate());
    ws.once('error', reject);
    ws.on('message', (packet) => {
      const text = packet.toString();
      if (text[0] === '0') {
        const { localAddress: address, localPort } = ws._socket;
        resolve({ ws, localAddress: address, localPort, close: () => ws.terminate() });
      }
      if (text === '2') ws.send('3');
    });
  });
}
