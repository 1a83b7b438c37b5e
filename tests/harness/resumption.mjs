// TLS sessions that are kept in a file and taken up again on later connections, by `openssl s_client`.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { temporaryDirectory } from './cluster.mjs';
import { openssl } from './openssl.mjs';
import { POLLING, readTag } from './polling_session.mjs';

/** A request, since with TLS 1.3 the ticket comes after the handshake; answered, the server closes. */
const REQUEST = `GET ${POLLING} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;

export class TlsSession {
  /** `version`: `tls1_2` or `tls1_3`; `caFile`: the certificate to trust. */
  constructor(version, caFile) {
    this.version = version;
    this.caFile = caFile;
    this.file = join(temporaryDirectory(), 'session.pem');
  }

  /** A connection without an earlier session, whose own is kept. */
  async begin(server) {
    return await this.connect(server, ['-sess_out', this.file]);
  }

  /** A connection that would take up the kept session; what comes of it is kept with `keep`. */
  async resume(server, { keep = false } = {}) {
    return await this.connect(server, ['-sess_in', this.file, ...(keep ? ['-sess_out', this.file] : [])]);
  }

  /** Resolves with `{resumed, worker}`: the id of the worker that answered. */
  async connect(server, sessions) {
    const { output } = await openssl(
      [
        ...['s_client', '-connect', `${server.host}:${server.port}`, `-${this.version}`, '-ign_eof'],
        ...['-CAfile', this.caFile, '-verify_return_error', ...sessions],
      ],
      REQUEST,
    );
    const [, kind, version] = /^(New|Reused), (TLSv1\.\d)/m.exec(output) ?? [];
    assert.equal(version, this.version.replace('tls', 'TLSv').replace('_', '.'), output);
    const [, sid] = /"sid":"([^"]+)"/.exec(output) ?? [];
    assert.ok(sid, output);
    return { resumed: kind === 'Reused', worker: readTag(sid).worker };
  }
}
