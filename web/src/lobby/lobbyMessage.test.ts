import { expect, test } from 'vitest';
import { readLobbyMessage } from './lobbyMessage';

const isOwn = (id: string) => id === 'mine';
const read = (value: unknown) => readLobbyMessage(value, isOwn);

test('what the server says', () => {
  expect(read({ action: 'message', user: 'ada', msg: 'hi', id: 'x', at: 5 })).toMatchObject({
    ...{ kind: 'message', author: 'ada', text: 'hi', id: 'x', at: 5, own: false },
  });
  expect(read({ action: 'control', user: 'ada', msg: 'joined the lobby', id: 'y', at: 5 })?.kind).toBe('control');
  expect(read({ action: 'message', user: 'ada', msg: 'hi', id: 'mine', at: 5 })?.own).toBe(true);
});

test.each([null, undefined, 1, 'text', true, ['a']])('%j is no message', (value) => {
  expect(read(value)).toBeNull();
});

test.each([
  [{ user: 'ci', msg: 'deployed' }, 'ci', 'deployed'],
  [{ msg: 'x' }, '', 'x'],
  [{ user: 'ci' }, 'ci', ''],
  [{ user: { name: 'ci' }, msg: [1, null] }, '{"name":"ci"}', '[1,null]'],
  [{ user: 1, msg: null }, '1', 'null'],
  [{ status: 'red' }, '', '{"status":"red"}'],
])('%j is shown as what is there', (value, author, text) => {
  expect(read(value)).toMatchObject({ author, text, id: null, at: null, own: false });
});

test.each([Infinity, NaN, 1e300, '5', null, {}])('%j is no time', (at) => {
  expect(read({ user: 'ci', msg: 'x', at })?.at).toBeNull();
});

test('the same message has the same key, messages without an id each their own', () => {
  expect(read({ user: 'a', id: 'x' })?.key).toBe(read({ user: 'a', id: 'x' })?.key);
  expect(read({ user: 'a', id: 'x' })?.key).not.toBe(read({ user: 'b', id: 'x' })?.key);
  expect(read({ user: 'a' })?.key).not.toBe(read({ user: 'a' })?.key);
});
