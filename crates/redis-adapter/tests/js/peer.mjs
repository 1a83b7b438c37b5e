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
    client.onAny((...args) => report({ client: name, nsp, args: toWire(args) }));
    const [[socket]] = await Promise.all([once(server.of(nsp), "connection"), once(client, "connect")]);
    if (nsp === "/") {
      sockets[name] = socket;
      ids[name] = socket.id;
    }
  }
}
// The adapter's subscriptions are sent; this connection's next answer comes after theirs.
await subscriber.ping();

const emitter = new Emitter(publisher);
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
};

report({ ready: true, ids });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands["emit" in command ? "emit" : "join"](command);
}
process.exit(0);
