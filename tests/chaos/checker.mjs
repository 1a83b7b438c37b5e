// Compares what was acknowledged with what is stored and with what every recipient was told. Pure.

/**
 * `users`: by user id, what each sent and was told:
 * - `sent`: `[{id, to}]`, everything that was acknowledged, in the order in which it was sent;
 * - `told`: in order of arrival, `{list: [[from, id], ...]}` for the messages to the user in the list of a log-in, and
 *   `{event: [from, id]}` for one that came as an event;
 * - `stored`: `[[from, id], ...]`, the messages to the user that the store has in the end, in its order.
 *
 * Returns what is wrong, in words: lists of lost (not stored, or never told), doubled and disordered messages.
 */
export function check(users) {
  const wrong = { lost: [], doubled: [], disordered: [] };
  /** The place of each acknowledged message among what its sender sent to the same user. */
  const places = new Map();
  for (const [from, { sent }] of Object.entries(users)) {
    const counts = {};
    for (const { id, to } of sent) {
      counts[to] = (counts[to] ?? 0) + 1;
      places.set(`${from} ${id}`, { to, place: counts[to] });
    }
  }
  for (const [user, { told, stored }] of Object.entries(users)) {
    const inStore = once(stored, (key) => wrong.doubled.push(`${key} is stored twice for ${user}`));
    inOrder(stored, places, (key) => wrong.disordered.push(`${key} is stored out of order for ${user}`));
    const heard = hear(user, told, places, wrong);
    for (const [key, { to }] of places) {
      if (to !== user) continue;
      if (!inStore.has(key)) wrong.lost.push(`${key} is not stored for ${user}`);
      if (!heard.has(key)) wrong.lost.push(`${key} was never told to ${user}`);
    }
  }
  return wrong;
}

/** What a user has heard. A list says all again; an event has to be news, and behind what its sender sent before. */
function hear(user, told, places, wrong) {
  const heard = new Set();
  const events = [];
  for (const { list, event } of told) {
    if (list) {
      once(list, (key) => wrong.doubled.push(`${key} is twice in a list of ${user}`));
      inOrder(list, places, (key) => wrong.disordered.push(`${key} is out of order in a list of ${user}`));
      for (const message of list) heard.add(message.join(' '));
      // What comes next has to be newer than this.
      events.push(...list);
      continue;
    }
    const key = event.join(' ');
    if (heard.has(key)) wrong.doubled.push(`${key} came to ${user}, who had it`);
    else events.push(event);
    heard.add(key);
  }
  const first = new Set();
  const news = events.filter((message) => !first.has(message.join(' ')) && first.add(message.join(' ')));
  inOrder(news, places, (key) => wrong.disordered.push(`${key} came to ${user} behind a later one`));
  return heard;
}

/** Calls `twice` for each that is there again; returns all of them. */
function once(messages, twice) {
  const keys = new Set();
  for (const message of messages) {
    const key = message.join(' ');
    if (keys.has(key)) twice(key);
    keys.add(key);
  }
  return keys;
}

/** Calls `late` for each message that stands behind one that its sender sent later to the same user. */
function inOrder(messages, places, late) {
  const last = new Map();
  for (const message of messages) {
    const key = message.join(' ');
    const place = places.get(key)?.place;
    // Not acknowledged: it may be stored or not, and where is its sender's guess.
    if (place === undefined) continue;
    if (place < (last.get(message[0]) ?? 0)) late(key);
    else last.set(message[0], place);
  }
}

/** Whom a list of users has as connected though they are not, and the other way round; `connected`: user ids. */
export function ghosts(list, connected) {
  const here = new Set(connected);
  const wrong = list.filter((user) => user.connected !== here.has(user.userID));
  return wrong.map((user) => `${user.userID} is listed as ${user.connected ? 'connected' : 'gone'}`);
}
