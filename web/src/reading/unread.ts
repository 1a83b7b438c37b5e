import { isStored } from '../messages/message';
import type { TimelineMessage } from '../messages/timeline';

/** How many messages of others were said after what is read; `messages` are in order. */
export function countUnread(messages: readonly TimelineMessage[], readUpTo: number): number {
  let count = 0;
  for (let index = messages.length - 1; index >= 0; index -= 1) {
    const message = messages[index];
    if (!message || !isStored(message)) continue;
    if (message.saidAt <= readUpTo) break;
    if (!message.own && message.kind === 'message') count += 1;
  }
  return count;
}
