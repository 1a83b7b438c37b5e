import { describe, expect, test } from 'vitest';
import { SENDING, STORED, type Message } from './message';
import { messageKey } from './messageKey';
import { Timeline } from './timeline';

const ME = 'me';

function stored(id: string | null, at: number | null, from = 'peer'): Message {
  return {
    key: messageKey(from, id),
    id,
    kind: 'message',
    author: from,
    own: from === ME,
    text: `${id}`,
    at,
    delivery: STORED,
  };
}

function unsent(id: string): Message {
  return { ...stored(id, null, ME), delivery: SENDING };
}

const key = (id: string) => messageKey(ME, id);
const ids = (timeline: Timeline) => timeline.messages.map((message) => message.id);
const states = (timeline: Timeline) => timeline.messages.map((message) => message.delivery.state);

describe('an own message is there once', () => {
  test('acknowledged, then heard', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.store(key('a'), 10);
    timeline.receive([stored('a', 10, ME)]);
    expect(timeline.messages).toMatchObject([{ id: 'a', at: 10, delivery: STORED }]);
  });

  test('heard, then acknowledged', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.receive([stored('a', 10, ME)]);
    timeline.store(key('a'), 10);
    expect(timeline.messages).toMatchObject([{ id: 'a', at: 10, delivery: STORED }]);
  });

  test('found in a snapshot', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.addUnsent(unsent('b'));
    timeline.applySnapshot([stored('x', 5), stored('a', 10, ME)]);
    timeline.store(key('a'), 10);
    expect(ids(timeline)).toEqual(['x', 'a', 'b']);
    expect(states(timeline)).toEqual(['stored', 'stored', 'sending']);
  });

  test('found among what was missed', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.addMissed([stored('x', 5), stored('a', 10, ME), stored('y', 15)]);
    expect(ids(timeline)).toEqual(['x', 'a', 'y']);
    expect(states(timeline)).toEqual(['stored', 'stored', 'stored']);
  });

  test('failed, sent again, and stored', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.fail(key('a'), 'why');
    expect(timeline.messages[0]?.delivery).toEqual({ state: 'failed', reason: 'why' });
    timeline.sendAgain(key('a'));
    expect(states(timeline)).toEqual(['sending']);
    timeline.store(key('a'), 10);
    expect(states(timeline)).toEqual(['stored']);
  });

  test('a late failure does not undo that it is stored', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.receive([stored('a', 10, ME)]);
    timeline.fail(key('a'), 'no answer');
    expect(states(timeline)).toEqual(['stored']);
  });

  test('discarded, it may still turn out to be stored', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.discard(key('a'));
    expect(ids(timeline)).toEqual([]);
    timeline.receive([stored('a', 10, ME)]);
    expect(ids(timeline)).toEqual(['a']);
  });
});

describe('order', () => {
  test('messages that come together are there once, in their order', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('b'));
    timeline.receive([stored('a', 10), stored('b', 20, ME), stored('c', 30), stored('a', 10)]);
    expect(ids(timeline)).toEqual(['a', 'b', 'c']);
  });

  test('unsent messages follow what is stored, and take their places then', () => {
    const timeline = new Timeline();
    timeline.addUnsent(unsent('a'));
    timeline.receive([stored('x', 10)]);
    timeline.receive([stored('y', 30)]);
    expect(ids(timeline)).toEqual(['x', 'y', 'a']);
    timeline.store(key('a'), 20);
    expect(ids(timeline)).toEqual(['x', 'a', 'y']);
  });

  test('messages of the same moment stay as they came', () => {
    const timeline = new Timeline();
    for (const id of ['a', 'b', 'c']) timeline.receive([stored(id, 10)]);
    expect(ids(timeline)).toEqual(['a', 'b', 'c']);
  });

  test('a message without a time stays where it came, and counts as said just after the one before', () => {
    const timeline = new Timeline();
    timeline.receive([stored('a', 10)]);
    timeline.receive([stored(null, null)]);
    timeline.receive([stored('b', 20)]);
    expect(timeline.messages.map(({ saidAt }) => saidAt)).toEqual([10, 11, 20]);
  });

  test('ids are unique for their sender only', () => {
    const timeline = new Timeline();
    timeline.receive([stored('m1', 10)]);
    timeline.receive([stored('m1', 11, ME)]);
    timeline.receive([stored('m1', 10)]);
    expect(timeline.messages.map(({ own }) => own)).toEqual([false, true]);
  });
});

describe('snapshots', () => {
  test('bring what was missed and keep what is older', () => {
    const timeline = new Timeline();
    timeline.applySnapshot([stored('c', 30), stored('d', 40)]);
    timeline.prepend([stored('a', 10), stored('b', 20)]);
    timeline.applySnapshot([stored('d', 40), stored('e', 50)]);
    expect(ids(timeline)).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(timeline.first).toBe(-2);
  });

  test('may know more of the past than was here', () => {
    const timeline = new Timeline();
    timeline.receive([stored('c', 30)]);
    timeline.applySnapshot([stored('a', 10), stored('b', 20), stored('c', 30), stored('d', 40)]);
    expect(ids(timeline)).toEqual(['a', 'b', 'c', 'd']);
    expect(timeline.first).toBe(-2);
  });

  test('replace what would be before a gap, except what is unsent', () => {
    const timeline = new Timeline();
    timeline.applySnapshot([stored('a', 10)]);
    timeline.addUnsent(unsent('u'));
    timeline.applySnapshot([stored('x', 90), stored('y', 95)]);
    expect(ids(timeline)).toEqual(['x', 'y', 'u']);
    timeline.prepend([stored('a', 10)]);
    expect(ids(timeline)).toEqual(['a', 'x', 'y', 'u']);
  });

  test('do not double messages without an id', () => {
    const timeline = new Timeline();
    const legacy = () => [stored(null, null), stored(null, null), stored('c', 30), stored(null, null)];
    timeline.applySnapshot(legacy());
    timeline.applySnapshot([...legacy(), stored('d', 40)]);
    expect(ids(timeline)).toEqual([null, null, 'c', null, 'd']);
  });

  test('that say nothing new change nothing', () => {
    const timeline = new Timeline();
    const snapshot = [stored('a', 10), stored('b', 20)];
    timeline.applySnapshot(snapshot);
    timeline.applySnapshot(snapshot);
    expect(ids(timeline)).toEqual(['a', 'b']);
    expect(timeline.first).toBe(0);
  });

  test('of many messages take no time', () => {
    const timeline = new Timeline();
    const snapshot = Array.from({ length: 50_000 }, (_, n) => stored(`m${n}`, n));
    const began = performance.now();
    timeline.applySnapshot(snapshot);
    timeline.applySnapshot(snapshot);
    timeline.addMissed(snapshot.map((message) => ({ ...message, key: `other ${message.key}` })).slice(-200));
    expect(performance.now() - began).toBeLessThan(2_000);
  });
});

describe('pages', () => {
  test('are put before, without what is there', () => {
    const timeline = new Timeline();
    timeline.applySnapshot([stored('b', 20), stored('c', 30)]);
    expect(timeline.prepend([stored('a', 10), stored('b', 20)])).toBe(1);
    expect(timeline.prepend([stored('a', 10)])).toBe(0);
    expect(ids(timeline)).toEqual(['a', 'b', 'c']);
  });
});
