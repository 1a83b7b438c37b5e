// Waiting with a limit. The limits are generous, since a test machine may be loaded: they bound a failure,
// never the time of a success.
import { setTimeout as sleep } from 'node:timers/promises';

/** How long anything that should happen soon may take, in milliseconds. */
export const LIMIT_MS = 20_000;

/** The promise's value, or an error that names what did not come within the limit. */
export async function within(promise, what, limitMs = LIMIT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new Error(`not within ${limitMs} ms: ${what}`);
    timer = setTimeout(() => reject(error), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Thrown by a question that can never be answered with yes any more: `until` gives up at once. */
export class Hopeless extends Error {}

/**
 * Asks again until the answer is truthy, and returns it: for facts that announce themselves by no event,
 * such as a line in /proc or a key in Redis. An error thrown by `ask` is shown when the limit passes.
 */
export async function until(ask, what, limitMs = LIMIT_MS) {
  const deadline = Date.now() + limitMs;
  for (;;) {
    let failure;
    try {
      const answer = await ask();
      if (answer) return answer;
    } catch (error) {
      if (error instanceof Hopeless) throw error;
      failure = error;
    }
    if (Date.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`, { cause: failure });
    await sleep(20);
  }
}

/** Runs `work` on every item, at most `width` at a time; the results keep the items' order. */
export async function inParallel(items, width, work) {
  const results = new Array(items.length);
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index], index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, lane));
  return results;
}
