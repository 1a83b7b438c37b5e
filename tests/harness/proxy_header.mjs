// The header of the PROXY protocol, as a balancer in front writes it before the client's own bytes, and an agent
// with which ordinary requests have one. https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
import http from 'node:http';
import net from 'node:net';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');

/** The second half of byte 13. */
const COMMANDS = { LOCAL: 0, PROXY: 1 };

/** Version 1, a line of text: the connection comes from `source`, port 4711. */
export function textHeader(source) {
  const [family, destination] = net.isIPv6(source) ? ['TCP6', '::1'] : ['TCP4', '127.0.0.1'];
  return Buffer.from(`PROXY ${family} ${source} ${destination} 4711 80\r\n`);
}

/** Version 2, for what has a beginning of 16 bytes and then this content. */
export function binaryHeaderOf({ command = 'PROXY', family, content }) {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(content.length);
  return Buffer.concat([SIGNATURE, Buffer.from([0x20 | COMMANDS[command], family]), length, content]);
}

/** Version 2: the connection comes from `source`, port 4711. `extensions`: bytes behind the addresses. */
export function binaryHeader(source, { command, extensions = Buffer.alloc(0) } = {}) {
  const [family, destination] = net.isIPv6(source) ? [0x21, '::1'] : [0x11, '127.0.0.1'];
  const ports = Buffer.from([0x12, 0x67, 0, 80]);
  return binaryHeaderOf({ command, family, content: Buffer.concat([bytesOf(source), bytesOf(destination), ports, extensions]) });
}

function bytesOf(address) {
  if (net.isIPv4(address)) return Buffer.from(address.split('.').map(Number));
  const [before, after = ''] = address.split('::');
  const groups = (text) => text.split(':').filter(Boolean);
  const zeros = Array(8 - groups(before).length - groups(after).length).fill('0');
  const hex = [...groups(before), ...zeros, ...groups(after)].map((group) => group.padStart(4, '0'));
  return Buffer.from(hex.join(''), 'hex');
}

/** An extension of version 2. */
export function extension(type, content) {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(content.length);
  return Buffer.concat([Buffer.from([type]), length, content]);
}

/** Connections that begin with this header; also for WebSockets and the official client. */
export class BehindProxy extends http.Agent {
  constructor(header, options) {
    super(options);
    this.header = header;
  }

  createConnection(options) {
    const socket = net.connect(options);
    socket.write(this.header);
    return socket;
  }
}
