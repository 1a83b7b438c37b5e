// A TLS connection whose handshake is the test's and on which it writes the bytes itself.
import { once } from 'node:events';
import tls from 'node:tls';
import { RawConnection } from './raw_connection.mjs';
import { within } from './wait.mjs';

/** Shakes hands with a server on 127.0.0.1; `options` are those of `tls.connect`. Rejects when the server refuses. */
export async function openTls(server, options = {}) {
  const socket = tls.connect({ host: server.host, port: server.port, ca: server.ca, ...options });
  const connection = new RawConnection(socket);
  await within(once(socket, 'secureConnect'), 'a TLS handshake');
  return connection;
}

/** The serial number of the certificate that a new connection is shown; `ca`: all that it may be. */
export async function serialShown(server, ca = server.ca) {
  const connection = await openTls(server, { ca });
  const { serialNumber } = connection.socket.getPeerCertificate();
  connection.destroy();
  return serialNumber;
}
