import { beforeEach, describe, expect, test } from 'vitest';
import { MessageWindow, type Extent } from './messageWindow';

describe('the part of a conversation that is in the document', () => {
  let extent: Extent;
  let part: MessageWindow;
  const shown = () => [part.from, part.to];

  function open(first: number, end: number): void {
    extent = { first, end };
    part = new MessageWindow(() => extent);
  }

  function say(count: number, following: boolean): void {
    for (let n = 0; n < count; n += 1) {
      extent = { ...extent, end: extent.end + 1 };
      part.grow(following);
    }
  }

  beforeEach(() => {
    open(0, 1_000);
  });

  test('begins with the newest 50', () => {
    expect(shown()).toEqual([950, 1_000]);
    open(0, 3);
    expect(shown()).toEqual([0, 3]);
    expect(part.showsOldest).toBe(true);
  });

  test('follows the newest without growing for ever', () => {
    say(5_000, true);
    expect(part.showsNewest).toBe(true);
    expect(part.to - part.from).toBeLessThanOrEqual(150);
  });

  test('stays with a reader who is elsewhere', () => {
    part.showOlder();
    say(5_000, false);
    expect(shown()).toEqual([900, 1_200]);
    expect(part.showsNewest).toBe(false);
    part.showNewer();
    expect(shown()).toEqual([950, 1_250]);
    part.showNewest();
    expect(shown()).toEqual([5_950, 6_000]);
  });

  test('can be moved to the beginning and back to the end', () => {
    for (let n = 0; n < 30; n += 1) part.showOlder();
    expect(shown()).toEqual([0, 300]);
    expect(part.showsOldest).toBe(true);
    for (let n = 0; n < 30; n += 1) part.showNewer();
    expect(shown()).toEqual([700, 1_000]);
    say(1, true);
    expect(part.showsNewest).toBe(true);
  });

  test('stays where it is when older messages are put before', () => {
    open(0, 40);
    extent = { first: -100, end: 40 };
    expect(shown()).toEqual([-10, 40]);
    part.showOlder();
    expect(shown()).toEqual([-60, 40]);
  });

  test('shows the newest of a conversation that was replaced by a shorter one', () => {
    extent = { first: 0, end: 10 };
    expect(shown()).toEqual([0, 10]);
  });
});
