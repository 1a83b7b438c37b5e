// Several clusters that relay to each other.
import { request } from './http.mjs';
import { PollingSession } from './polling_session.mjs';
import { until } from './wait.mjs';

/** Within that time a worker has said once more that it lives, which it does every 5 s, and heard who else does. */
export const BEAT_MS = 8_000;

/** More than a node has workers in these tests: requests that come one by one meet each of them. */
const ROUND = 8;

/** Waits until every worker of `node` passes requests of `owner`'s sessions on. `options`: of requests to the owner. */
export async function reaches(node, owner, options = {}) {
  await until(async () => {
    // A new one each time: where pings are close, an older one may have ended meanwhile.
    const session = await PollingSession.open(owner, options);
    for (let n = 0; n < ROUND; n += 1) {
      // An unasked-for pong is what a session minds least.
      const { status } = await request(node, session.path, { method: 'POST', body: '3' });
      if (status !== 200) return false;
    }
    await session.close();
    return true;
  }, 'a node reaches another', BEAT_MS);
}
