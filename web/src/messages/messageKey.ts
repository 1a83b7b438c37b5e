let anonymous = 0;

/** Ids are unique for their sender only. */
export function messageKey(sender: string, id: string | null): string {
  if (id !== null) return `${id} ${sender}`;
  anonymous += 1;
  return `anonymous ${anonymous}`;
}
