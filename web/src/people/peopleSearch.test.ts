import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { PrivateSocket } from '../connection/sockets';
import { PeopleSearch } from './peopleSearch';

type Answer = (value: unknown) => void;

let asked: { request: unknown; answer: Answer; refuse: () => void }[];
let socket: { connected: boolean };

beforeEach(() => {
  vi.useFakeTimers();
  asked = [];
  const emitWithAck = (_: string, request: unknown) =>
    new Promise((answer, reject) => {
      asked.push({
        request,
        answer,
        refuse: () => {
          reject(new Error('timeout'));
        },
      });
    });
  socket = { connected: true, timeout: () => ({ emitWithAck }) } as { connected: boolean };
});

afterEach(() => {
  vi.useRealTimers();
});

const search = () => new PeopleSearch(socket as unknown as PrivateSocket);
const people = (count: number, first = 0) =>
  Array.from({ length: count }, (_, n) => ({ userID: `u${first + n}`, username: `User ${first + n}`, connected: true }));
const names = (of: PeopleSearch) => of.found.map(({ name }) => name);

async function answered(n: number, value: unknown): Promise<void> {
  asked[n]?.answer(value);
  await vi.runAllTimersAsync();
}

test('one question for what is typed in one go, and its answer', async () => {
  const finder = search();
  finder.find('a');
  finder.find(' an ');
  expect(finder.state.value).toBe('asking');
  await vi.runAllTimersAsync();
  expect(asked.map(({ request }) => request)).toEqual([{ query: 'an', limit: 50 }]);
  await answered(0, people(2));
  expect(names(finder)).toEqual(['User 0', 'User 1']);
  expect([finder.state.value, finder.hasMore]).toEqual(['done', false]);
});

test('an answer that was overtaken does not count', async () => {
  const finder = search();
  finder.find('a');
  await vi.runAllTimersAsync();
  finder.find('b');
  await vi.runAllTimersAsync();
  await answered(1, people(1, 7));
  await answered(0, people(1, 1));
  expect(names(finder)).toEqual(['User 7']);
});

test('nothing is asked for nothing, and what was found goes', async () => {
  const finder = search();
  finder.find('a');
  await vi.runAllTimersAsync();
  await answered(0, people(1));
  finder.find('  ');
  await vi.runAllTimersAsync();
  expect([asked.length, finder.found.length, finder.state.value]).toEqual([1, 0, 'done']);
});

test('a full page has another one behind it', async () => {
  const finder = search();
  finder.find('u');
  await vi.runAllTimersAsync();
  await answered(0, people(50));
  expect(finder.hasMore).toBe(true);
  void finder.more();
  void finder.more();
  await answered(1, people(3, 50));
  expect(asked.map(({ request }) => request)).toEqual([
    { query: 'u', limit: 50 },
    { query: 'u', limit: 50, after: 'u49' },
  ]);
  expect([finder.found.length, finder.hasMore]).toEqual([53, false]);
});

test('a failure is told, and asked again what had failed', async () => {
  const finder = search();
  finder.find('u');
  await vi.runAllTimersAsync();
  asked[0]?.refuse();
  await vi.runAllTimersAsync();
  expect(finder.state.value).toBe('failed');
  void finder.more();
  await answered(1, { ok: false, error: { code: 'unavailable', message: '' } });
  expect(finder.state.value).toBe('failed');
  socket.connected = false;
  await finder.more();
  expect([asked.length, finder.state.value]).toEqual([2, 'failed']);
  socket.connected = true;
  void finder.more();
  await answered(2, people(1));
  expect([names(finder), finder.state.value]).toEqual([['User 0'], 'done']);
});
