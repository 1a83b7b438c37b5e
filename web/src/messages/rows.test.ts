import { expect, test } from 'vitest';
import { SENDING, STORED, type Message } from './message';
import { rowsOf } from './rows';

const noon = (day: number) => new Date(2026, 0, day, 12).getTime();
let count = 0;

function said(author: string, at: number | null, more: Partial<Message> = {}): Message {
  count += 1;
  const own = author === 'me';
  const delivery = STORED;
  return { key: `k${count}`, id: null, kind: 'message', author, own, text: '', at, delivery, ...more };
}

const kinds = (messages: Message[]) =>
  rowsOf(messages).map((row) => (row.kind === 'message' && row.continues ? 'continued' : row.kind));

test('each day has a line', () => {
  const rows = rowsOf([said('a', noon(1)), said('a', noon(1)), said('a', noon(2)), said('a', null)]);
  expect(rows.filter((row) => row.kind === 'day').map(({ day }) => day)).toEqual(['2026-01-01', '2026-01-02']);
  expect(new Set(rows.map(({ key }) => key)).size).toBe(rows.length);
});

test('an author is named once, until a pause or another author', () => {
  const at = noon(1);
  expect(kinds([said('a', at), said('a', at + 1), said('b', at + 2), said('b', at + 600_000)])).toEqual([
    ...['day', 'message', 'continued', 'message', 'message'],
  ]);
});

test('what somebody did stands for itself', () => {
  const at = noon(1);
  const joined = said('a', at, { kind: 'control' });
  expect(kinds([said('a', at), joined, said('a', at)])).toEqual(['day', 'message', 'control', 'message']);
});

test('what is on its way continues', () => {
  expect(kinds([said('me', noon(1)), said('me', null, { delivery: SENDING })])).toEqual(['day', 'message', 'continued']);
});
