// A program: clients that mean no good, thousands of them, from many addresses. See other_process.mjs.
import net from 'node:net';
import { WebSocket } from 'ws';
import { serve } from './other_process.mjs';
import { inParallel, until, within } from './wait.mjs';

/** Each address has ports for some 28,000 connections, and those that ended hold theirs for a minute. */
const ADDRESSES = Array.from({ length: 100 }, (_, n) => `127.1.0.${n + 1}`);

const MEBIBYTE = Buffer.alloc(1 << 20);
const FRAME_MEBIBYTES = 64;

const open = new Set();
const counts = { silent: 0, writers: 0, frames: 0, refusedFrames: 0, sent: 0 };
let server;
let running = false;
let turn = 0;
const readers = [];

/** A connection that is opened again some time after it was closed, for as long as the flood lasts. */
function connectAgain(kind, pauseMs, begin) {
  if (!running) return;
  const socket = net.connect({ ...server, localAddress: ADDRESSES[turn++ % ADDRESSES.length] });
  open.add(socket);
  counts[kind] += 1;
  socket.on('error', () => {}); // `close` follows
  socket.on('connect', () => begin(socket));
  socket.on('close', () => {
    open.delete(socket);
    setTimeout(() => connectAgain(kind, pauseMs, begin), pauseMs * (0.5 + Math.random()));
  });
  socket.resume();
}

/** A byte of a head now and then. */
function writeSlowly(socket) {
  const head = `GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\nX-Slow: ${'x'.repeat(1_000)}\r\n\r\n`;
  let at = 0;
  const timer = setInterval(() => socket.write(head[at++ % head.length]), 300 + Math.random() * 600);
  socket.on('close', () => clearInterval(timer));
}

/** A WebSocket, and on it a frame of 64 MiB for as far as it is taken. */
async function sendFrame(socket) {
  const request = 'GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n'
    + 'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';
  socket.write(request);
  const length = Buffer.alloc(8);
  length.writeBigUInt64BE(BigInt(FRAME_MEBIBYTES * MEBIBYTE.length));
  // Text, final, masked with zeros.
  socket.write(Buffer.concat([Buffer.from([0x81, 0xff]), length, Buffer.alloc(4)]));
  for (let sent = 0; sent < FRAME_MEBIBYTES && !socket.destroyed; sent += 1) {
    await new Promise((resolve) => {
      socket.once('close', resolve);
      socket.write(MEBIBYTE, resolve);
    });
    if (!socket.destroyed && sent === FRAME_MEBIBYTES - 1) counts.takenFrames = (counts.takenFrames ?? 0) + 1;
  }
  if (socket.destroyed) counts.refusedFrames += 1;
}

/** The same, tried again: in a flood it is no matter of course that this busy process is quick enough to be let in. */
async function logInAtLast(username, handle) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await logIn(username, handle);
    } catch (error) {
      if (tries === 5) throw error;
    }
  }
}

/** A user on a WebSocket; `handle` is told every packet. */
async function logIn(username, handle = () => {}) {
  const ws = new WebSocket(`ws://${server.host}:${server.port}/socket.io/?EIO=4&transport=websocket`, {
    localAddress: ADDRESSES[turn++ % ADDRESSES.length],
    perMessageDeflate: false,
  });
  ws.on('error', () => {});
  const user = { ws };
  const here = new Promise((resolve, reject) => {
    ws.once('close', () => reject(new Error(`${username} was turned away`)));
    ws.on('message', (bytes) => {
      const packet = bytes.toString();
      if (packet === '2') ws.send('3');
      else if (packet.startsWith('0')) ws.send(`40${JSON.stringify({ username })}`);
      else if (packet.startsWith('42["session"')) user.userID = JSON.parse(packet.slice(2))[1].userID;
      else if (packet.startsWith('42["users"')) resolve();
      else handle(packet);
    });
  });
  await within(here, `${username} is logged in`);
  return user;
}

serve({
  /** The users who will stop reading. */
  async logInReaders({ host, port, count }) {
    server = { host, port };
    readers.push(...await inParallel(Array.from({ length: count }), 16, (_, n) => logIn(`reader ${n}`)));
    return readers.map(({ userID }) => userID);
  },

  /** All of it at once. */
  begin({ silent, writers, frames }) {
    running = true;
    for (const { ws } of readers) ws._socket.pause();
    for (let n = 0; n < frames; n += 1) connectAgain('frames', 500, sendFrame);
    for (let n = 0; n < writers; n += 1) connectAgain('writers', 1_000, writeSlowly);
    for (let n = 0; n < silent; n += 1) connectAgain('silent', 4_000, () => {});
  },

  /** Sends messages of that size, `each` to every reader and `much` to the first few; waits until all are stored. */
  async feedReaders({ bytes, each, few, much }) {
    let acked = 0;
    const sender = await logInAtLast('feeder', (packet) => {
      if (packet.startsWith('43')) acked += 1;
    });
    const content = '.'.repeat(bytes);
    for (let n = 0; n < Math.max(each, much); n += 1) {
      for (const { userID } of n < each ? readers : readers.slice(0, few)) {
        await until(() => counts.sent - acked < 32, 'a message is stored');
        sender.ws.send(`42${counts.sent}${JSON.stringify(['private message', { content, to: userID }])}`);
        counts.sent += 1;
      }
    }
    await until(() => acked === counts.sent, 'all messages are stored');
    sender.ws.close();
  },

  /** How many connections there were of each kind, and how many there are. */
  counts: () => ({ ...counts, open: open.size }),

  /** Everybody leaves. */
  end() {
    running = false;
    for (const socket of open) socket.destroy();
    for (const { ws } of readers) ws.terminate();
  },
});
