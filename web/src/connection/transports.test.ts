import { expect, test } from 'vitest';
import { transportsIn } from './transports';

test.each([
  ['', null],
  ['?transports=polling', ['polling']],
  ['?x=1&transports=websocket,polling', ['polling', 'websocket']],
  ['?transports=pigeon', null],
])('%s', (query, transports) => {
  expect(transportsIn(query)).toEqual(transports);
});
