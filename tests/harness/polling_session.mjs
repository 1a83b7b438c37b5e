// An Engine.IO 4 polling session made of single HTTP requests, for tests that must control each connection.
import assert from 'node:assert/strict';
import { request } from './http.mjs';
import { LIMIT_MS } from './wait.mjs';

export const POLLING = '/socket.io/?EIO=4&transport=polling';

/** Packets of one polling payload are separated by this. */
const SEPARATOR = '\x1e';

/** `{node, worker}` from the tag in front of a session id. */
export function readTag(sid) {
  assert.match(sid, /^[A-Za-z0-9_-]{20}$/, 'a session id has 20 characters');
  const bytes = Buffer.from(sid.slice(0, 4), 'base64url');
  return { node: bytes.readUInt16BE(0), worker: bytes[2] };
}

export class PollingSession {
  constructor(server, options) {
    this.server = server;
    this.options = options;
    /** Packets received and not yet taken by `packet`. */
    this.packets = [];
    /** Pings answered so far; the first one comes with the session. */
    this.pings = 0;
  }

  /** Handshake. `options` are those of `request`; they hold for all requests of the session. */
  static async open(server, options = {}) {
    const session = new PollingSession(server, options);
    const answer = await request(server, POLLING, options);
    assert.equal(answer.status, 200, `handshake: ${answer.body}`);
    assert.equal(answer.body[0], '0', 'the first packet is "open"');
    session.handshake = JSON.parse(answer.body.slice(1));
    session.sid = session.handshake.sid;
    session.localAddress = answer.localAddress;
    session.localPort = answer.localPort;
    return session;
  }

  /** The id of the worker that the session's tag names. */
  get worker() {
    return readTag(this.sid).worker;
  }

  get path() {
    return `${POLLING}&sid=${this.sid}`;
  }

  async post(...packets) {
    const answer = await request(this.server, this.path, { ...this.options, method: 'POST', body: packets.join(SEPARATOR) });
    assert.equal(answer.status, 200, `POST: ${answer.body}`);
    assert.equal(answer.body, 'ok');
  }

  /** One poll; answers pings and keeps the other packets. */
  async poll() {
    const answer = await request(this.server, this.path, this.options);
    assert.equal(answer.status, 200, `GET: ${answer.body}`);
    const packets = answer.body.split(SEPARATOR);
    this.packets.push(...packets.filter((packet) => packet !== '2'));
    if (packets.includes('2')) {
      await this.post('3');
      this.pings += 1;
    }
  }

  /** Polls until a packet with this beginning came, and takes it. */
  async packet(beginning, limitMs = LIMIT_MS) {
    const deadline = Date.now() + limitMs;
    for (;;) {
      const index = this.packets.findIndex((packet) => packet.startsWith(beginning));
      if (index >= 0) return this.packets.splice(index, 1)[0];
      assert.ok(Date.now() < deadline, `no packet ${beginning}… within ${limitMs} ms, but ${this.packets}`);
      await this.poll();
    }
  }

  /** Joins the namespace `/` as a new user and returns what `session` said: `{sessionID, userID}`. */
  async logIn(username) {
    await this.post(`40${JSON.stringify({ username })}`);
    const [, session] = JSON.parse((await this.packet('42["session"')).slice(2));
    return session;
  }

  /** Calls an event that is acknowledged, and returns the acknowledgement's first argument. */
  async call(ackId, ...event) {
    await this.post(`42${ackId}${JSON.stringify(event)}`);
    return JSON.parse((await this.packet(`43${ackId}[`)).slice(`43${ackId}`.length))[0];
  }

  async close() {
    await this.post('1');
  }
}
