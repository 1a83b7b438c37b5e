// A Socket.IO server in Node on the official Redis adapter, with two clients of
// its own, driven by lines of JSON on stdin and reporting lines of JSON on stdout.
//
//   node peer.mjs REDIS_SOCKET
//
// out: {ready: true, ids: {one, two}}    then for each event that a client gets
//      {client, nsp, args}
// in:  {emit: [args], via: "server" | "emitter", nsp, rooms, except, volatile, compress, client}
//      (client: emit from that client's server-side socket, so to all but itself)
//      {join: [rooms], client}           answered by {joined: [rooms]}
//      {call: NAME, ...}                 answered by {result} or {error, responses}; see `calls`
//
// An event `ask` is acknowledged by each client with [its name, the arguments...]; an event that
// another server emits to the servers is reported as {serverSide: args}, and answered with
// {from: "node"} when it wants an answer.
//
// A binary argument is {"$hex": "00ff"} both ways, a date {"$date": ms} inwards.
import { createInterface } from "node:readline";
import { once } from "node:events";
import { createServer } from "node:http";
import { Redis } from "ioredis";
import { Server } from "socket.io";
import { io as connect } from "socket.io-client";
import { createAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import msgpack from "notepack.io";

const report = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const fromWire = (value) => {
  if (Array.isArray(value)) return value.map(fromWire);
  if (value === null || typeof value !== "object") return value;
  if ("$hex" in value) return Buffer.from(value.$hex, "hex");
  if ("$date" in value) return new Date(value.$date);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, fromWire(inner)]));
};

const toWire = (value) => {
  if (Buffer.isBuffer(value)) return { $hex: value.toString("hex") };
  if (Array.isArray(value)) return value.map(toWire);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toWire(inner)]));
};

const [path] = process.argv.slice(2);
const publisher = new Redis({ path });
const subscriber = publisher.duplicate();
await Promise.all([once(publisher, "ready"), once(subscriber, "ready")]);

const http = createServer();
const server = new Server(http, { adapter: createAdapter(publisher, subscriber) });
server.of("/orders");
http.listen(0, "127.0.0.1");
await once(http, "listening");

// By client: its socket on the server in `/`.
const sockets = {};
const ids = {};
for (const name of ["one", "two"]) {
  for (const nsp of ["/", "/orders"]) {
    const url = `http://127.0.0.1:${http.address().port}${nsp}`;
    const client = connect(url, { transports: ["websocket"], forceNew: true });
    client.onAny((...args) => {
      if (typeof args.at(-1) !== "function") return report({ client: name, nsp, args: toWire(args) });
      args.pop()([name, ...args.slice(1)]);
    });
    client.on("disconnect", (reason) => report({ client: name, nsp, disconnected: reason }));
    const [[socket]] = await Promise.all([once(server.of(nsp), "connection"), once(client, "connect")]);
    if (nsp === "/") {
      sockets[name] = socket;
      ids[name] = socket.id;
    }
  }
}
// The adapter's subscriptions are sent; this connection's next answer comes after theirs.
await subscriber.ping();

for (const event of ["note", "question"]) {
  server.on(event, (...args) => {
    const answer = typeof args.at(-1) === "function" ? args.pop() : () => {};
    report({ serverSide: [event, ...args] });
    answer({ from: "node" });
  });
}

const emitter = new Emitter(publisher);

/** Whom a call is about. */
const target = ({ via, nsp, rooms, except }) =>
  (via === "emitter" ? emitter.of(nsp) : server.of(nsp)).to(rooms).except(except);

const calls = {
  fetchSockets: async (call) =>
    (await target(call).fetchSockets()).map(({ id, handshake, rooms, data }) => ({ id, handshake, rooms: [...rooms], data })),
  allRooms: async ({ nsp }) => [...(await server.of(nsp).adapter.allRooms())],
  socketsJoin: (call) => target(call).socketsJoin(call.join),
  socketsLeave: (call) => target(call).socketsLeave(call.leave),
  disconnectSockets: (call) => target(call).disconnectSockets(call.close),
  serverSideEmit: ({ via, nsp, args }) => (via === "emitter" ? emitter.of(nsp) : server.of(nsp)).serverSideEmit(...args),
  serverSideEmitWithAck: ({ nsp, args }) => server.of(nsp).serverSideEmitWithAck(...args),
  emitWithAck: async (call) => toWire(await target(call).timeout(call.timeout).emitWithAck(...fromWire(call.args))),
  serverCount: ({ nsp }) => server.of(nsp).adapter.serverCount(),
  publish: ({ channel, text }) => publisher.publish(channel, text),
  /** As the adapter reads requests and responses. */
  decode: ({ hex }) => {
    const bytes = Buffer.from(hex, "hex");
    return JSON.parse(JSON.stringify(bytes[0] === 0x7b ? JSON.parse(bytes.toString()) : msgpack.decode(bytes)));
  },
};
const commands = {
  emit({ emit, via, nsp, rooms, except, volatile, compress, client }) {
    const origin = via === "emitter" ? emitter.of(nsp) : server.of(nsp);
    let target = client ? sockets[client].broadcast : origin.to(rooms);
    if (client && rooms.length) target = sockets[client].to(rooms);
    if (except.length) target = target.except(except);
    if (volatile) target = target.volatile;
    if (compress !== undefined) target = target.compress(compress);
    target.emit(...fromWire(emit));
  },
  join({ join, client }) {
    sockets[client].join(join);
    report({ joined: join });
  },
  async call({ call, ...options }) {
    const defaults = { via: "server", nsp: "/", rooms: [], except: [] };
    try {
      report({ result: (await calls[call]({ ...defaults, ...options })) ?? null });
    } catch ({ message, responses }) {
      report({ error: message, responses: responses ?? null });
    }
  },
};

report({ ready: true, ids });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands[["call", "emit", "join"].find((name) => name in command)](command);
}
process.exit(0);
