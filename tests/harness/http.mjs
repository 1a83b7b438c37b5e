// HTTP requests whose connection the test controls: which one, from which address.
import http from 'node:http';
import https from 'node:https';
import { LIMIT_MS } from './wait.mjs';

/**
 * One request; by default on a connection of its own that is closed after it. `server.ca`: the certificate to
 * trust, over TLS. Resolves with `{status, headers, body, localAddress, localPort}`.
 */
export function request(server, path, { method = 'GET', headers = {}, body, agent = false, localAddress, limitMs = LIMIT_MS } = {}) {
  return new Promise((resolve, reject) => {
    const outgoing = (server.ca ? https : http).request(
      {
        ca: server.ca,
        ...(server.socketPath ? { socketPath: server.socketPath } : { host: server.host, port: server.port }),
        path,
        method,
        agent,
        localAddress,
        headers: body === undefined ? headers : { 'Content-Length': Buffer.byteLength(body), ...headers },
      },
      (answer) => {
        const { localAddress: address, localPort } = answer.socket;
        const chunks = [];
        answer.on('data', (chunk) => chunks.push(chunk));
        answer.on('error', reject);
        answer.on('end', () =>
          resolve({
            status: answer.statusCode,
            headers: answer.headers,
            body: Buffer.concat(chunks).toString(),
            localAddress: address,
            localPort,
          }),
        );
      },
    );
    outgoing.setTimeout(limitMs, () => outgoing.destroy(new Error(`no answer within ${limitMs} ms: ${method} ${path}`)));
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
