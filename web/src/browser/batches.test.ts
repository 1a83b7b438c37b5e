import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Batches } from './batches';

let handed: string[];
let batches: Batches<string>;

beforeEach(() => {
  vi.useFakeTimers();
  handed = [];
  batches = new Batches((items) => handed.push(items.join('')), 50);
});

afterEach(() => {
  vi.useRealTimers();
});

test('the first comes at once, what follows closely together, all in order', () => {
  for (const item of 'abc') batches.add(item);
  expect(handed).toEqual(['a']);
  vi.advanceTimersByTime(50);
  expect(handed).toEqual(['a', 'bc']);
  batches.add('d');
  vi.advanceTimersByTime(1_000);
  batches.add('e');
  expect(handed).toEqual(['a', 'bc', 'd', 'e']);
});

test('what waits can be had earlier, once', () => {
  for (const item of 'abc') batches.add(item);
  batches.flush();
  vi.advanceTimersByTime(1_000);
  expect(handed).toEqual(['a', 'bc']);
});
