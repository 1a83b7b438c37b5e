// A program: users of the chat, for a test that must not be where they are. See other_process.mjs.
import http from 'node:http';
import { Chatter } from './chatter.mjs';
import { ChatUser } from './client.mjs';
import { request } from './http.mjs';
import { reaches } from './nodes.mjs';
import { serve } from './other_process.mjs';
import { PollingSession } from './polling_session.mjs';
import { inParallel, until } from './wait.mjs';

const users = [];
let chatter;

serve({
  /** Logs users in, who connect in these ways in turn; with `keepAlive` each keeps its connections. */
  async logIn({ url, name, count, ways, keepAlive = false }) {
    const first = users.length;
    const newcomers = await inParallel(Array.from({ length: count }), 16, (_, n) => {
      const agent = keepAlive ? new http.Agent({ keepAlive: true }) : undefined;
      return ChatUser.logIn({ url }, { username: `${name} ${first + n}`, transports: ways[n % ways.length], agent });
    });
    users.push(...newcomers);
  },

  /** Waits until each of the nodes, `{host, port}`, relays to each other one. */
  async allReach({ nodes }) {
    const pairs = nodes.flatMap((node) => nodes.filter((owner) => owner !== node).map((owner) => [node, owner]));
    await Promise.all(pairs.map(([node, owner]) => reaches(node, owner)));
  },

  /** Posts to a session of `owner` by way of `node`, each time on a new connection: how often which status came. */
  async postThrough({ node, owner, count }) {
    const statuses = {};
    let session;
    await inParallel(Array.from({ length: count }), 8, async (_, n) => {
      // Nobody polls it, so that it does not live for long.
      if (n % 200 === 0) session = PollingSession.open(owner);
      const { status } = await request(node, (await session).path, { method: 'POST', body: '3' });
      statuses[status] = (statuses[status] ?? 0) + 1;
    });
    return statuses;
  },

  start({ pauseMs }) {
    chatter = new Chatter(users, { pauseMs });
  },

  /** How far they have come: messages acknowledged, and what went wrong. */
  progress() {
    return { sent: chatter.sent.length, errors: chatter.errors.slice(0, 10) };
  },

  /** Ends the chat; fails unless all of it was as it should be. */
  async finish() {
    await chatter.finish();
    chatter.assertFlawless();
    return { sent: chatter.sent.length };
  },

  /** Ends the chat, whatever has become of it. */
  async abandon() {
    chatter.running = false;
    await chatter.ended;
  },

  /** Waits until every user has sent something that was stored, and heard something: milliseconds that it took. */
  async allCanChat({ limitMs }) {
    const began = performance.now();
    await Promise.all(users.map(async (user, n) => {
      const to = users[(n + 1) % users.length];
      const content = `${began} from ${n}`;
      const heard = () => to.inbox.some((message) => message.content === content);
      // What was sent while the recipient was away comes in its log-in's list, and never again as an event.
      let count = 0;
      await until(async () => {
        const ack = await user.send(to, content, { id: `again-${Math.round(began)}-${n}-${count}` });
        count += 1;
        return ack.ok && await until(heard, 'it is heard', 1_000);
      }, `${user.username} reaches ${to.username}`, limitMs);
    }));
    return performance.now() - began;
  },

  /** Where everybody is. */
  users() {
    return users.map(({ username, engine, disconnects }) => ({
      username,
      sid: engine.id,
      transport: engine.transport.name,
      disconnects,
    }));
  },
});
