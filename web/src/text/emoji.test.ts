import { expect, test } from 'vitest';
import { isEmojiOnly } from './emoji';

test.each(['👍', '🎉 🎉', '🧑‍🚀', '👍🏽', '🇩🇪', '❤️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿'])('%s is', (text) => {
  expect(isEmojiOnly(text)).toBe(true);
});

test.each(['', ' ', 'a', '1', '#', '👍 yes', '🎉'.repeat(40), '\u200d'])('%j is not', (text) => {
  expect(isEmojiOnly(text)).toBe(false);
});
