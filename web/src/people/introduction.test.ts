import { expect, test } from 'vitest';
import { readIntroduction, readIntroductions } from './introduction';

test('a person with messages', () => {
  const messages = [{ id: 'm', content: 'hi', from: 'a', to: 'b', at: 5 }];
  expect(readIntroduction({ userID: 'a', username: 'Ada', connected: true, messages })).toEqual({
    ...{ userID: 'a', name: 'Ada', connected: true },
    messages: [{ id: 'm', text: 'hi', from: 'a', to: 'b', at: 5 }],
  });
});

test('messages of servers without ids and times may be any value', () => {
  const contents = [null, 1, true, ['x'], { a: 1 }, undefined];
  const messages = [...contents.map((content) => ({ content, from: 'a', to: 'b' })), null, 'x', {}];
  const person = readIntroduction({ userID: 'a', username: 'Ada', messages });
  expect(person?.messages.map(({ text }) => text)).toEqual(['null', '1', 'true', '["x"]', '{"a":1}', '']);
  expect(person?.messages.every(({ id, at }) => id === null && at === null)).toBe(true);
});

test('what cannot be a person is left out', () => {
  expect(readIntroductions([null, {}, { userID: 1 }, { userID: 'a' }])).toEqual([
    { userID: 'a', name: 'a', connected: false, messages: [] },
  ]);
  expect(readIntroductions({})).toEqual([]);
});
