// The judge of the chaos runs finds what is planted, and nothing where all is well; a seed is a plan.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { check, ghosts } from '../chaos/checker.mjs';
import { FAULTS, plan } from '../chaos/plan.mjs';

/** Ada has sent six messages to Bob, who heard two as events, was away, and heard the rest. */
function run() {
  const all = ['m1', 'm2', 'm3', 'm4', 'm5', 'm6'].map((id) => ['ada', id]);
  const told = [
    { list: [] },
    { event: all[0] },
    { event: all[1] },
    { list: all.slice(0, 4) },
    { event: all[4] },
    { event: all[5] },
  ];
  return {
    ada: { sent: all.map(([, id]) => ({ id, to: 'bob' })), told: [{ list: [] }], stored: [] },
    bob: { sent: [], told, stored: [...all] },
  };
}

const NOTHING = { lost: [], doubled: [], disordered: [] };

describe('the checker', () => {
  test('has nothing against a run where all is well', () => {
    assert.deepEqual(check(run()), NOTHING);
    const unacknowledged = run();
    unacknowledged.bob.stored.splice(2, 0, ['ada', 'never acknowledged']);
    unacknowledged.bob.told.push({ event: ['ada', 'never acknowledged'] });
    assert.deepEqual(check(unacknowledged), NOTHING);
  });

  const planted = {
    'a message that is not stored': ['lost', ({ bob }) => bob.stored.splice(2, 1)],
    'a message that was never told': ['lost', ({ bob }) => bob.told.splice(4, 1)],
    'a message that a list left out': ['lost', ({ bob }) => bob.told[3].list.splice(2, 1)],
    'a message that is stored twice': ['doubled', ({ bob }) => bob.stored.push(['ada', 'm6'])],
    'an event that came twice': ['doubled', ({ bob }) => bob.told.push({ event: ['ada', 'm6'] })],
    'an event of what the list had': ['doubled', ({ bob }) => bob.told.push({ event: ['ada', 'm1'] })],
    'a message twice in a list': ['doubled', ({ bob }) => bob.told[3].list.push(['ada', 'm4'])],
    'two events that changed places': ['disordered', ({ bob }) => bob.told.splice(4, 2, bob.told[5], bob.told[4])],
    'two entries that changed places': ['disordered', ({ bob }) => bob.stored.splice(0, 2, bob.stored[1], bob.stored[0])],
    'a list out of order': ['disordered', ({ bob }) => bob.told[3].list.reverse()],
    'an event that should have come before a list': ['disordered', ({ bob }) => {
      bob.told[3].list.splice(1, 1);
      bob.told.splice(2, 1);
      bob.told.push({ event: ['ada', 'm2'] });
    }],
  };
  for (const [name, [kind, plant]] of Object.entries(planted)) {
    test(`finds ${name}`, () => {
      const broken = run();
      plant(broken);
      assert.ok(check(broken)[kind].length > 0, JSON.stringify(check(broken)));
    });
  }

  test('finds who is listed as connected and is not, and who is missing', () => {
    const list = [{ userID: 'ada', connected: true }, { userID: 'bob', connected: false }];
    assert.deepEqual(ghosts(list, ['ada']), []);
    assert.equal(ghosts(list, []).length, 1);
    assert.equal(ghosts(list, ['ada', 'bob']).length, 1);
  });
});

test('a seed is a plan', () => {
  const options = { seed: 7, durationMs: 600_000, has: ['redis', 'disk'] };
  const faults = plan(options);
  assert.deepEqual(faults, plan(options));
  assert.notDeepEqual(faults, plan({ ...options, seed: 8 }));
  assert.deepEqual(new Set(faults.map(({ name }) => name)), new Set(Object.keys(FAULTS)));
  assert.ok(plan({ ...options, has: [] }).every(({ name }) => !/Redis|disk/.test(name)));
  assert.ok(faults.every(({ at }, n) => n === 0 || at > faults[n - 1].at));
});
