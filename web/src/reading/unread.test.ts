import { expect, test } from 'vitest';
import { SENDING, STORED, type Message } from '../messages/message';
import { messageKey } from '../messages/messageKey';
import { Timeline } from '../messages/timeline';
import { countUnread } from './unread';

function said(at: number | null, more: Partial<Message> = {}): Message {
  const message = { id: null, kind: 'message', author: 'a', own: false, text: '', at, delivery: STORED } as const;
  return { key: messageKey('a', null), ...message, ...more };
}

function timelineOf(...messages: Message[]): Timeline {
  const timeline = new Timeline();
  timeline.receive(messages);
  return timeline;
}

test('counts what others said after what is read', () => {
  const { messages } = timelineOf(said(10), said(20), said(30, { own: true }), said(40, { kind: 'control' }), said(50));
  expect(countUnread(messages, 0)).toBe(3);
  expect(countUnread(messages, 10)).toBe(2);
  expect(countUnread(messages, 20)).toBe(1);
  expect(countUnread(messages, 50)).toBe(0);
});

test('what is unsent at the end does not hide it', () => {
  const timeline = timelineOf(said(10));
  timeline.addUnsent(said(null, { own: true, delivery: SENDING }));
  expect(countUnread(timeline.messages, 0)).toBe(1);
});

test('messages without a time can be read, too', () => {
  const timeline = timelineOf(said(10), said(null));
  expect(countUnread(timeline.messages, 10)).toBe(1);
  expect(countUnread(timeline.messages, timeline.newestSaidAt ?? 0)).toBe(0);
  timeline.receive([said(null)]);
  expect(countUnread(timeline.messages, 11)).toBe(1);
});
