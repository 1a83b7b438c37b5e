import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { PrivateConversation } from './privateConversation';
import { Roster } from './roster';

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

function roster(): Roster {
  return new Roster('me', () => Object.create(PrivateConversation.prototype) as PrivateConversation);
}

const listed = (people: Roster) => people.listed.map(({ name }) => name);

test('oneself, who is connected by name, who is not by name', () => {
  const people = roster();
  people.introduce('1', 'zoe', true);
  people.introduce('2', 'Bob', false);
  people.introduce('me', 'Mia', true);
  people.introduce('3', 'Ann 10', true);
  people.introduce('4', 'ann 9', true);
  people.introduce('5', 'Abe', false);
  vi.runAllTimers();
  expect(listed(people)).toEqual(['Mia', 'ann 9', 'Ann 10', 'zoe', 'Abe', 'Bob']);
});

test('people come, go, and get their names', () => {
  const people = roster();
  people.findOrAdd('1');
  people.introduce('2', 'Bob', true);
  vi.runAllTimers();
  expect(listed(people)).toEqual(['Bob', '1']);
  people.introduce('1', 'Ann', true);
  people.introduce('1', 'Ann', true);
  people.leave('2');
  people.leave('nobody');
  vi.runAllTimers();
  expect(listed(people)).toEqual(['Ann', 'Bob']);
});

test('many changes at once are one', () => {
  const people = roster();
  for (let n = 0; n < 1_000; n += 1) people.introduce(`${n}`, `user ${n}`, n % 2 === 0);
  expect(people.listed).toEqual([]);
  vi.advanceTimersByTime(0);
  const { listed: first } = people;
  expect(first).toHaveLength(1_000);
  for (let n = 0; n < 1_000; n += 1) people.leave(`${n}`);
  vi.advanceTimersByTime(100);
  expect(people.listed).toBe(first);
  vi.advanceTimersByTime(200);
  expect(people.listed.every(({ connected }) => !connected)).toBe(true);
});
