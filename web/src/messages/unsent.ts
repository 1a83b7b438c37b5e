import { idOf, isRecord } from '../browser/json';

/** A message of this tab that is not known to be stored. */
export interface Unsent {
  readonly id: string;
  /** The key of the conversation. */
  readonly to: string;
  readonly text: string;
  /** Why it is not sent again by itself; null while it is. */
  readonly failure: string | null;
}

/** Reads what an earlier load of the page has written. */
export function readUnsent(value: unknown): Unsent[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isUnsent);
}

function isUnsent(value: unknown): value is Unsent {
  return (
    isRecord(value) &&
    idOf(value.id) !== null &&
    idOf(value.to) !== null &&
    typeof value.text === 'string' &&
    (value.failure === null || typeof value.failure === 'string')
  );
}
