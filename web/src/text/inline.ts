import { linksIn } from './links';
import type { Segment } from './segment';

interface Run {
  readonly start: number;
  readonly length: number;
}

/** Code between equally many backticks of a line, links, and the text around them. */
export function segmentsOf(text: string): Segment[] {
  const runs = backtickRuns(text);
  const segments: Segment[] = [];
  let position = 0;
  for (const [opening, closing] of codeSpans(runs)) {
    const codeStart = opening.start + opening.length;
    segments.push(...linksIn(text.slice(position, opening.start)));
    segments.push({ kind: 'code', text: text.slice(codeStart, closing.start) });
    position = closing.start + closing.length;
  }
  segments.push(...linksIn(text.slice(position)));
  return segments;
}

/** The runs of backticks of each line. */
function backtickRuns(text: string): Run[][] {
  const lines: Run[][] = [[]];
  for (const { 0: found, index } of text.matchAll(/`+|\n/g)) {
    if (found === '\n') lines.push([]);
    else lines.at(-1)?.push({ start: index, length: found.length });
  }
  return lines;
}

function codeSpans(lines: readonly (readonly Run[])[]): [Run, Run][] {
  const spans: [Run, Run][] = [];
  for (const runs of lines) {
    const closings = closingRuns(runs);
    for (let index = 0; index < runs.length; index += 1) {
      const opening = runs[index];
      const closingIndex = closings[index] ?? -1;
      const closing = runs[closingIndex];
      if (!opening || !closing) continue;
      spans.push([opening, closing]);
      index = closingIndex;
    }
  }
  return spans;
}

/** For each run the index of the next one of the same length; looked up from the end, each is seen once. */
function closingRuns(runs: readonly Run[]): number[] {
  const nextOfLength = new Map<number, number>();
  const closings: number[] = [];
  for (const [index, { length }] of [...runs.entries()].reverse()) {
    closings[index] = nextOfLength.get(length) ?? -1;
    nextOfLength.set(length, index);
  }
  return closings;
}
