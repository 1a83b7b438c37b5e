// Polling sessions in a circle: each writes to the next one, and hears from the one before.
import assert from 'node:assert/strict';
import { inParallel } from './wait.mjs';

/** Logs all of them in, so many at a time; each has its `user` then. */
export async function logInAll(sessions, width) {
  await inParallel(sessions, width, async (session, n) => {
    session.user = await session.logIn(`sharer ${n}`);
  });
}

/** The `n`th session sends its message with this number. */
export async function sendToNext(sessions, n, message) {
  const to = sessions[(n + 1) % sessions.length].user.userID;
  const ack = await sessions[n].call(message, 'private message', { content: `${n}:${message}`, to });
  assert.equal(ack.ok, true, JSON.stringify(ack));
}

/** That each has heard the first `messages` messages of the one before it, in order. */
export async function allHeardNeighbours(sessions, messages, width) {
  await inParallel(sessions, width, async (session, n) => {
    const from = (n + sessions.length - 1) % sessions.length;
    for (let message = 0; message < messages; message += 1) {
      const [, { content }] = JSON.parse((await session.packet('42["private message"')).slice(2));
      assert.equal(content, `${from}:${message}`);
    }
  });
}
