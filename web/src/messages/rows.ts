import { isStored, type Message } from './message';
import { dayOf, dayLabel } from './times';

/** A line of the message list. */
export type Row =
  | { readonly kind: 'day'; readonly key: string; readonly day: string; readonly label: string }
  | { readonly kind: 'control'; readonly key: string; readonly message: Message }
  | {
      readonly kind: 'message';
      readonly key: string;
      readonly message: Message;
      /** Its author need not be named again. */
      readonly continues: boolean;
    };

const PAUSE_MS = 5 * 60 * 1000;

/** The lines for consecutive messages, each day under a line of its own. */
export function rowsOf(messages: readonly Message[]): Row[] {
  const rows: Row[] = [];
  let day = '';
  let before: Message | undefined;
  for (const message of messages) {
    if (message.at !== null && dayOf(message.at) !== day) {
      day = dayOf(message.at);
      rows.push({ kind: 'day', key: `day ${day} ${message.key}`, day, label: dayLabel(message.at) });
      before = undefined;
    }
    if (message.kind === 'control') {
      rows.push({ kind: 'control', key: message.key, message });
      before = undefined;
    } else {
      rows.push({ kind: 'message', key: message.key, message, continues: continues(message, before) });
      before = message;
    }
  }
  return rows;
}

function continues(message: Message, before: Message | undefined): boolean {
  if (before?.own !== message.own || before.author !== message.author) return false;
  if (!isStored(message)) return true;
  return message.at !== null && before.at !== null && message.at - before.at < PAUSE_MS;
}
