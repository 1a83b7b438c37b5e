import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { memoryStorage } from '../testing/memoryStorage';
import { ReadMarks } from './readMarks';

let windows: EventTarget;

beforeEach(() => {
  windows = new EventTarget();
  vi.stubGlobal('localStorage', memoryStorage());
  vi.stubGlobal('window', windows);
});

afterEach(() => {
  vi.unstubAllGlobals();
});

function tellOtherTabs(userID: string): void {
  windows.dispatchEvent(Object.assign(new Event('storage'), { key: `chat-cluster:read:${userID}` }));
}

test('they only go forward, and survive a refresh', () => {
  const marks = new ReadMarks('ada');
  expect(marks.of('bob')).toBeNull();
  marks.advance('bob', 20);
  marks.advance('bob', 10);
  expect(marks.of('bob')).toBe(20);
  expect(new ReadMarks('ada').of('bob')).toBe(20);
  expect(new ReadMarks('eve').of('bob')).toBeNull();
});

test('tabs agree', () => {
  const one = new ReadMarks('ada');
  const other = new ReadMarks('ada');
  one.advance('bob', 20);
  other.advance('cyd', 30);
  tellOtherTabs('ada');
  expect([one.of('cyd'), other.of('bob')]).toEqual([30, 20]);
});

test('without storage they last as long as the page', () => {
  vi.stubGlobal('localStorage', undefined);
  const marks = new ReadMarks('ada');
  marks.advance('bob', 20);
  expect(marks.of('bob')).toBe(20);
});

test.each(['x', '[]', '{"bob":"20"}', 'null'])('does not trust what is stored: %s', (text) => {
  localStorage.setItem('chat-cluster:read:ada', text);
  expect(new ReadMarks('ada').of('bob')).toBeNull();
});
