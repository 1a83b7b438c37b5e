import { expect, test } from 'vitest';
import { isTooLong, MAX_MESSAGE_BYTES } from './messageSize';

test.each(['a', 'é', '€', '🎉'])('bytes of UTF-8 count: %s', (character) => {
  const bytes = new TextEncoder().encode(character).length;
  const longest = character.repeat(Math.floor(MAX_MESSAGE_BYTES / bytes));
  expect(isTooLong(longest)).toBe(false);
  expect(isTooLong(longest + character)).toBe(true);
});
