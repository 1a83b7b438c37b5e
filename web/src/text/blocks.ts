import { segmentsOf } from './inline';
import type { Segment } from './segment';

/** A part of a message from top to bottom. */
export type Block =
  | { readonly kind: 'text'; readonly segments: readonly Segment[] }
  | { readonly kind: 'code'; readonly text: string };

const FENCE = '```';
const LANGUAGE = /^[\w+#.-]{0,30}$/;

/** What a message consists of: fenced code, and what is between it. */
export function blocksOf(message: string): Block[] {
  const lines = message.split('\n');
  const blocks: Block[] = [];
  let start = 0;
  for (let line = 0; line < lines.length; line += 1) {
    if (!opensCode(lines[line] ?? '')) continue;
    const end = closingLine(lines, line + 1);
    // Nothing closes this one, so that nothing closes any after it.
    if (end < 0) break;
    if (line > start) blocks.push(textBlock(lines.slice(start, line)));
    blocks.push({ kind: 'code', text: lines.slice(line + 1, end).join('\n') });
    start = end + 1;
    line = end;
  }
  if (start < lines.length) blocks.push(textBlock(lines.slice(start)));
  return blocks;
}

function opensCode(line: string): boolean {
  return line.startsWith(FENCE) && LANGUAGE.test(line.slice(FENCE.length).trim());
}

function closingLine(lines: readonly string[], from: number): number {
  for (let line = from; line < lines.length; line += 1) {
    if (lines[line]?.trim() === FENCE) return line;
  }
  return -1;
}

function textBlock(lines: readonly string[]): Block {
  return { kind: 'text', segments: segmentsOf(lines.join('\n')) };
}
