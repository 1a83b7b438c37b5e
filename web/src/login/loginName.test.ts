import { expect, test } from 'vitest';
import { problemOfName } from './loginName';

test.each(['a', 'Ada Lovelace', '🧑'.repeat(64)])('%s is a name', (name) => {
  expect(problemOfName(name)).toBeNull();
});

test.each(['', 'a'.repeat(65), '🧑'.repeat(65)])('%j is none', (name) => {
  expect(problemOfName(name)).toMatch(/^Please /);
});
