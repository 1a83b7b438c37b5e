const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const calendar = new Intl.DateTimeFormat('en', { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
const complete = new Intl.DateTimeFormat('en', { dateStyle: 'full', timeStyle: 'medium' });

/** The local day as `YYYY-MM-DD`. */
export function dayOf(at: number): string {
  const date = new Date(at);
  const pad = (number: number) => String(number).padStart(2, '0');
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

export function dayLabel(at: number): string {
  return calendar.format(at);
}

export function clockLabel(at: number): string {
  return clock.format(at);
}

export function completeLabel(at: number): string {
  return complete.format(at);
}

/** For the `datetime` attribute. */
export function machineTime(at: number): string {
  return new Date(at).toISOString();
}
