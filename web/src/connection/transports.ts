export type Transport = 'polling' | 'websocket';

const NAMES: readonly Transport[] = ['polling', 'websocket'];

/** Those that a query such as `?transports=polling` names; null leaves the choice to the client. */
export function transportsIn(query: string): Transport[] | null {
  const named = new URLSearchParams(query).get('transports')?.split(',') ?? [];
  const known = NAMES.filter((name) => named.includes(name));
  return known.length > 0 ? known : null;
}
