// Certificates of the tests' own making, for a server on 127.0.0.1.
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryDirectory } from './cluster.mjs';
import { openssl } from './openssl.mjs';

export class Certificate {
  /** Made with a key of its own and signed with it: who trusts it trusts its bearer. */
  static async make() {
    const certificate = new Certificate();
    const directory = temporaryDirectory();
    certificate.file = join(directory, 'cert.pem');
    certificate.keyFile = join(directory, 'key.pem');
    const { code, output } = await openssl([
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
      ...['-subj', '/CN=chat-cluster test', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'],
      ...['-keyout', certificate.keyFile, '-out', certificate.file],
    ]);
    assert.equal(code, 0, output);
    certificate.pem = readFileSync(certificate.file, 'utf8');
    certificate.key = readFileSync(certificate.keyFile, 'utf8');
    certificate.serial = new X509Certificate(certificate.pem).serialNumber;
    return certificate;
  }

  /** What tells the server to show it. */
  get args() {
    return ['--tls-cert', this.file, '--tls-key', this.keyFile];
  }
}
