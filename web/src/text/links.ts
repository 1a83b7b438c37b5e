import type { Segment } from './segment';

// Characters that only change the direction of text could show another address than the one it is.
const ADDRESS = /(?<!\w)https?:\/\/[^\s<>"`\u200e\u200f\u202a-\u202e\u2066-\u2069]+/gi;

const PUNCTUATION = new Set('.,;:!?\'"*_~…');
const BRACKETS = new Map([
  [')', '('],
  [']', '['],
  ['}', '{'],
]);

/** Splits text into links and what is between them. */
export function linksIn(text: string): Segment[] {
  const segments: Segment[] = [];
  let position = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = withoutSentenceEnd(found);
    const href = webAddress(address);
    if (href === null) continue;
    if (index > position) segments.push({ kind: 'text', text: text.slice(position, index) });
    segments.push({ kind: 'link', text: address, href });
    position = index + address.length;
  }
  if (position < text.length) segments.push({ kind: 'text', text: text.slice(position) });
  return segments;
}

function webAddress(address: string): string | null {
  if (!URL.canParse(address)) return null;
  const { href, protocol } = new URL(address);
  return protocol === 'http:' || protocol === 'https:' ? href : null;
}

/** Punctuation at the end belongs to the sentence, and so does a bracket that the address did not open. */
function withoutSentenceEnd(address: string): string {
  const unopened = new Map<string, number>();
  for (const [closing, opening] of BRACKETS) {
    unopened.set(closing, count(address, closing) - count(address, opening));
  }
  let end = address.length;
  for (; end > 0; end -= 1) {
    const last = address.charAt(end - 1);
    const surplus = unopened.get(last) ?? 0;
    if (surplus > 0) unopened.set(last, surplus - 1);
    else if (!PUNCTUATION.has(last)) break;
  }
  return address.slice(0, end);
}

function count(text: string, character: string): number {
  return text.split(character).length - 1;
}
