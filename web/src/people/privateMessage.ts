import { idOf, isRecord, textOf, timeOf } from '../browser/json';

/** A private message as the server tells it. */
export interface PrivateMessage {
  readonly id: string | null;
  readonly from: string;
  readonly to: string;
  readonly text: string;
  readonly at: number | null;
}

/** Null if nobody can tell whose conversation it belongs to. */
function readPrivateMessage(value: unknown): PrivateMessage | null {
  if (!isRecord(value)) return null;
  const from = idOf(value.from);
  const to = idOf(value.to);
  if (from === null || to === null) return null;
  return { id: idOf(value.id), from, to, text: textOf(value.content), at: timeOf(value.at) };
}

export function readPrivateMessages(values: unknown): PrivateMessage[] {
  if (!Array.isArray(values)) return [];
  return values.map(readPrivateMessage).filter((message) => message !== null);
}
