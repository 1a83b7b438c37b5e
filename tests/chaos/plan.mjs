// When which fault happens: by a seed, so that a run can be had again. Pure.

/** What can be done to a cluster, with how often it is done relative to the others, and what it needs. */
export const FAULTS = {
  'kill a worker': { weight: 4 },
  'freeze a worker': { weight: 2, lasts: [500, 4_000] },
  'roll a worker': { weight: 2 },
  'cut clients': { weight: 4, share: [0.05, 0.5] },
  'kill the master': { weight: 2 },
  'pause the disk': { weight: 2, lasts: [300, 3_000], needs: 'disk' },
  'freeze Redis': { weight: 2, lasts: [300, 3_000], needs: 'redis' },
  'kill Redis': { weight: 2, lasts: [0, 2_000], needs: 'redis' },
};

/** Between two faults, in ms: the cluster is to be met while it recovers, too. */
const PAUSE_MS = [500, 4_000];

/** mulberry32: numbers from 0 to 1 that a seed of 32 bits decides. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `[{at, name, pick, lasts?, share?}]`: ms from the start, and a number from 0 to 1 that decides whom it strikes. */
export function plan({ seed, durationMs, has = [] }) {
  const random = randomFrom(seed);
  const between = ([least, most]) => least + random() * (most - least);
  const possible = Object.entries(FAULTS).filter(([, { needs }]) => !needs || has.includes(needs));
  const total = possible.reduce((sum, [, { weight }]) => sum + weight, 0);
  const faults = [];
  for (let at = between(PAUSE_MS); at < durationMs; at += between(PAUSE_MS)) {
    let left = random() * total;
    const [name, { lasts, share }] = possible.find(([, { weight }]) => (left -= weight) < 0) ?? possible[0];
    const fault = { at: Math.round(at), name, pick: random() };
    if (lasts) fault.lasts = Math.round(between(lasts));
    if (share) fault.share = between(share);
    faults.push(fault);
    at += fault.lasts ?? 0;
  }
  return faults;
}
