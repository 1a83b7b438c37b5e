import { idOf, isRecord, textOf } from '../browser/json';
import { readPrivateMessages, type PrivateMessage } from './privateMessage';

/** A person as the server introduces them. */
export interface Introduction {
  readonly userID: string;
  readonly name: string;
  readonly connected: boolean;
  readonly messages: readonly PrivateMessage[];
}

export function readIntroduction(value: unknown): Introduction | null {
  if (!isRecord(value)) return null;
  const userID = idOf(value.userID);
  if (userID === null) return null;
  return {
    userID,
    name: textOf(value.username) || userID,
    connected: value.connected === true,
    messages: readPrivateMessages(value.messages),
  };
}

export function readIntroductions(values: unknown): Introduction[] {
  if (!Array.isArray(values)) return [];
  return values.map(readIntroduction).filter((introduction) => introduction !== null);
}
