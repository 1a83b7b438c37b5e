import { describe, expect, test } from 'vitest';
import { blocksOf, type Block } from './blocks';
import type { Segment } from './segment';

const text = (content: string): Segment => ({ kind: 'text', text: content });
const code = (content: string): Segment => ({ kind: 'code', text: content });
const link = (content: string, href = content): Segment => ({ kind: 'link', text: content, href });
const paragraph = (...segments: Segment[]): Block => ({ kind: 'text', segments });
const fenced = (content: string): Block => ({ kind: 'code', text: content });

const SIZE = 65_536;
const filled = (piece: string) => piece.repeat(Math.ceil(SIZE / piece.length)).slice(0, SIZE);

/** What a reader sees, and nothing else. */
function visible(blocks: Block[]): string {
  return blocks
    .map((block) => (block.kind === 'code' ? block.text : block.segments.map((segment) => segment.text).join('')))
    .join('\n');
}

describe('plain text', () => {
  test.each(['', ' ', 'hello', '  two\n\n lines ', '<b onclick="x">&amp;</b>', '\u0000\t', '`', '``', '```'])(
    '%j stays as it is',
    (content) => {
      expect(visible(blocksOf(content))).toBe(content);
      expect(blocksOf(content).every((block) => block.kind === 'text')).toBe(true);
    },
  );
});

describe('links', () => {
  test.each([
    ['see https://example.org.', [text('see '), link('https://example.org', 'https://example.org/'), text('.')]],
    ['(http://a.example/b)', [text('('), link('http://a.example/b'), text(')')]],
    ['https://a.example/x_(y)', [link('https://a.example/x_(y)')]],
    ['https://a.example/?q=1&r=%20#f!', [link('https://a.example/?q=1&r=%20#f'), text('!')]],
    ['HTTPS://A.example/', [link('HTTPS://A.example/', 'https://a.example/')]],
    ['"https://a.example/"', [text('"'), link('https://a.example/'), text('"')]],
    ['<https://a.example/>', [text('<'), link('https://a.example/'), text('>')]],
  ])('%s', (content, segments) => {
    expect(blocksOf(content)).toEqual([paragraph(...segments)]);
  });

  test.each([
    'javascript:alert(1)',
    'JaVaScRiPt://%0aalert(1)',
    'data:text/html,<script>alert(1)</script>',
    'vbscript:x',
    'file:///etc/passwd',
    'ftp://a.example/',
    'xhttp://a.example/',
    'http://',
    'https:// a.example',
    'http://[',
    'https://%',
  ])('%s is none', (content) => {
    expect(blocksOf(content)).toEqual([paragraph(text(content))]);
  });

  test('an address ends where the direction of the text is changed', () => {
    const [block] = blocksOf('https://a.example/\u202egro.live');
    expect(block).toEqual(paragraph(link('https://a.example/'), text('\u202egro.live')));
  });
});

describe('inline code', () => {
  test.each([
    ['a `b` c', [text('a '), code('b'), text(' c')]],
    ['``a`b``', [code('a`b')]],
    ['```x```', [code('x')]],
    ['`https://a.example/`', [code('https://a.example/')]],
    ['`<i>`', [code('<i>')]],
    ['`a', [text('`a')]],
    ['`a``', [text('`a``')]],
    ['`a\nb`', [text('`a\nb`')]],
  ])('%j', (content, segments) => {
    expect(blocksOf(content)).toEqual([paragraph(...segments)]);
  });
});

describe('fenced code', () => {
  test.each([
    ['```\na\n  b\n```', [fenced('a\n  b')]],
    ['```rust\nfn main() {}\n```', [fenced('fn main() {}')]],
    ['```\n```', [fenced('')]],
    ['before\n```\na\n```\nafter', [paragraph(text('before')), fenced('a'), paragraph(text('after'))]],
    ['```\nhttps://a.example/ `x`\n```', [fenced('https://a.example/ `x`')]],
    ['```\na', [paragraph(text('```\na'))]],
    ['``` no language, but text\na\n```', [paragraph(text('``` no language, but text\na\n```'))]],
  ])('%j', (content, blocks) => {
    expect(blocksOf(content)).toEqual(blocks);
  });
});

describe('the longest messages take no time', () => {
  const lines = (line: (number: number) => string) => filled(Array.from({ length: 9_000 }, (_, n) => line(n)).join(''));
  test.each([
    ['backticks', filled('`')],
    ['code that never closes', filled('`a``b')],
    ['backtick runs of all lengths', lines((n) => `${'`'.repeat((n % 300) + 1)}a`)],
    ['fences that never close', filled('```js\n')],
    ['fences and spaces', `\`\`\`${filled(' ')}x`],
    ['fenced nothing', filled('```\n```\n')],
    ['one address', `https://${filled('a.')}`],
    ['addresses', filled('http://a.b ')],
    ['beginnings of addresses', filled('http://')],
    ['beginnings of beginnings', filled('http:/')],
    ['brackets', `https://a.b/${filled('(')}${filled(')')}`],
    ['closing brackets', `https://a.b/${filled(')')}`],
    ['sentence ends', `https://a.b/${filled('.')}`],
    ['new lines', filled('\n')],
    ['spaces', filled(' ')],
  ])('%s', (_, content) => {
    const began = performance.now();
    blocksOf(content);
    expect(performance.now() - began).toBeLessThan(1_000);
  });
});
