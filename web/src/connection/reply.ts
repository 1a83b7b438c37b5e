import { isRecord, textOf, timeOf } from '../browser/json';

export interface Refusal {
  readonly ok: false;
  readonly code: string;
  readonly message: string;
}

/** What the server answered to a message: stored, or why not. */
export type Reply = { readonly ok: true; readonly at: number | null } | Refusal;

export function readReply(value: unknown): Reply {
  if (isRecord(value) && value.ok === true) return { ok: true, at: timeOf(value.at) };
  const error = isRecord(value) && isRecord(value.error) ? value.error : {};
  return { ok: false, code: textOf(error.code), message: textOf(error.message) };
}
