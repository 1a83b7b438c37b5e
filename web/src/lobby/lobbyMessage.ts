import { idOf, isRecord, textOf, timeOf } from '../browser/json';
import { STORED, type Message } from '../messages/message';
import { messageKey } from '../messages/messageKey';

/**
 * Reads what somebody published in the lobby. Any program may, so that nothing can be relied on;
 * null is not for the lobby at all.
 */
export function readLobbyMessage(value: unknown, isOwn: (id: string, user: string) => boolean): Message | null {
  if (!isRecord(value)) return null;
  const { action, user, msg } = value;
  const id = idOf(value.id);
  const author = textOf(user);
  const isComplete = user !== undefined || msg !== undefined;
  return {
    key: messageKey(author, id),
    id,
    kind: action === 'control' ? 'control' : 'message',
    author,
    own: id !== null && isOwn(id, author),
    text: textOf(isComplete ? msg : value),
    at: timeOf(value.at),
    delivery: STORED,
  };
}
