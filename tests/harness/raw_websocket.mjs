// A bare Engine.IO client on a WebSocket, cheap enough to hold hundreds of them. It speaks no Socket.IO.
import { WebSocket } from 'ws';
import { endsWithUs } from './leftovers.mjs';
import { LIMIT_MS, within } from './wait.mjs';

const PATH = '/socket.io/?EIO=4&transport=websocket';

/** Where a WebSocket begins: of `{host, port}`, with `ca` over TLS, or of `{socketPath}`. */
export function webSocketUrl({ host, port, ca, socketPath }) {
  if (socketPath) return `ws+unix:${socketPath}:${PATH}`;
  return `${ca ? 'wss' : 'ws'}://${host}:${port}${PATH}`;
}

/** Opens a WebSocket and resolves with `{localAddress, localPort, close()}` when the open packet came. */
export function openWebSocket(cluster, { localAddress, headers, agent, limitMs = LIMIT_MS } = {}) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(webSocketUrl(cluster), {
      localAddress,
      headers,
      agent,
      ca: cluster.ca,
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

/**
 * Asks for a WebSocket and resolves with what was said, be it yes or no: `{status, headers, body}`, and with 101
 * `{status, headers, ws, close()}`, which the caller closes.
 */
export function askForWebSocket(server, { localAddress, headers, agent } = {}) {
  const asked = new Promise((resolve, reject) => {
    const ws = new WebSocket(webSocketUrl(server), { localAddress, headers, agent, ca: server.ca });
    endsWithUs(() => ws.terminate());
    ws.on('error', reject); // after an answer nobody listens
    ws.once('upgrade', ({ headers: answered }) => {
      ws.once('open', () => resolve({ status: 101, headers: answered, ws, close: () => ws.terminate() }));
    });
    ws.once('unexpected-response', (_, answer) => {
      let body = '';
      answer.on('data', (text) => (body += text));
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, body }));
      answer.on('error', reject);
    });
    ws.on('message', (packet) => packet.toString() === '2' && ws.send('3'));
  });
  return within(asked, 'an answer to the wish for a WebSocket');
}
