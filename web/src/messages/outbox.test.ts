import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Reply } from '../connection/reply';
import { Outbox } from './outbox';
import type { Unsent } from './unsent';

const OK: Reply = { ok: true, at: 1 };
const refusal = (code: string): Reply => ({ ok: false, code, message: 'what the server says' });
const message = (id: string, to = 'bob'): Unsent => ({ id, to, text: id, failure: null });

/** Answers each attempt with what the test says, or never. */
class Server {
  attempts: string[] = [];
  answer: (id: string) => Reply | Promise<Reply> = () => OK;
  readonly send = ({ id }: Unsent): Promise<Reply> => {
    this.attempts.push(id);
    return Promise.resolve(this.answer(id));
  };
}

const never = () => new Promise<Reply>(() => undefined);

describe('an outbox', () => {
  let server: Server;
  let kept: unknown;
  let results: string[];

  function open(): Outbox {
    return new Outbox({
      send: server.send,
      store: {
        read: () => kept,
        write: (value) => {
          kept = JSON.parse(JSON.stringify(value));
        },
      },
      onStored: ({ id }) => results.push(`stored ${id}`),
      onFailed: ({ id }, reason) => results.push(`failed ${id}: ${reason}`),
    });
  }

  beforeEach(() => {
    vi.useFakeTimers();
    server = new Server();
    kept = null;
    results = [];
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  test('waits for a connection', async () => {
    const outbox = open();
    outbox.add(message('a'));
    await vi.advanceTimersByTimeAsync(600_000);
    expect(server.attempts).toEqual([]);
    outbox.resume();
    await vi.advanceTimersByTimeAsync(0);
    expect(results).toEqual(['stored a']);
    expect(outbox.unsent).toEqual([]);
  });

  test('sends in order, one at a time', async () => {
    const answers = new Map<string, (reply: Reply) => void>();
    server.answer = (id) => new Promise((resolve) => answers.set(id, resolve));
    const outbox = open();
    outbox.resume();
    for (const id of ['a', 'b', 'c']) outbox.add(message(id, `to ${id}`));
    await vi.advanceTimersByTimeAsync(0);
    expect(server.attempts).toEqual(['a']);
    answers.get('a')?.(OK);
    await vi.advanceTimersByTimeAsync(0);
    expect(server.attempts).toEqual(['a', 'b']);
    answers.get('b')?.(OK);
    await vi.advanceTimersByTimeAsync(0);
    answers.get('c')?.(OK);
    await vi.advanceTimersByTimeAsync(0);
    expect(results).toEqual(['stored a', 'stored b', 'stored c']);
  });

  test('sends what was not acknowledged again on the next connection, in order', async () => {
    server.answer = never;
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    outbox.add(message('b'));
    await vi.advanceTimersByTimeAsync(0);
    outbox.pause();
    server.answer = () => OK;
    outbox.resume();
    await vi.advanceTimersByTimeAsync(0);
    expect(server.attempts).toEqual(['a', 'a', 'b']);
    expect(results).toEqual(['stored a', 'stored b']);
  });

  test('an answer that comes after the connection was lost is not taken twice', async () => {
    let answerFirst: (reply: Reply) => void = () => undefined;
    server.answer = () => new Promise((resolve) => (answerFirst = resolve));
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    await vi.advanceTimersByTimeAsync(0);
    const answerLate = answerFirst;
    outbox.pause();
    outbox.resume();
    answerLate(OK);
    answerFirst(OK);
    await vi.advanceTimersByTimeAsync(0);
    expect(results).toEqual(['stored a']);
  });

  test.each(['unavailable', 'rate_limited'])('tries again by itself when it is %s', async (code) => {
    let tries = 0;
    server.answer = () => (++tries < 3 ? refusal(code) : OK);
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    outbox.add(message('b'));
    await vi.advanceTimersByTimeAsync(10_000);
    expect(server.attempts).toEqual(['a', 'a', 'a', 'b']);
    expect(results).toEqual(['stored a', 'stored b']);
  });

  test('tries again when no answer came', async () => {
    let tries = 0;
    server.answer = () => (++tries < 2 ? Promise.reject(new Error('timeout')) : OK);
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    await vi.advanceTimersByTimeAsync(2_000);
    expect(results).toEqual(['stored a']);
  });

  test('gives up after half a minute, and goes on with the next', async () => {
    server.answer = (id) => (id === 'a' ? refusal('unavailable') : OK);
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    outbox.add(message('b'));
    await vi.advanceTimersByTimeAsync(25_000);
    expect(results).toEqual([]);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(results).toEqual(['failed a: the server could not store it', 'stored b']);
    expect(outbox.unsent).toMatchObject([{ id: 'a', failure: 'the server could not store it' }]);
  });

  test('only the time of a connection counts', async () => {
    server.answer = () => refusal('unavailable');
    const outbox = open();
    outbox.add(message('a'));
    for (let outage = 0; outage < 4; outage += 1) {
      outbox.resume();
      await vi.advanceTimersByTimeAsync(6_000);
      outbox.pause();
      await vi.advanceTimersByTimeAsync(60_000);
    }
    expect(results).toEqual([]);
    outbox.resume();
    await vi.advanceTimersByTimeAsync(15_000);
    expect(results).toHaveLength(1);
  });

  test.each([
    ['too_large', 'it is too long for this server'],
    ['invalid', 'what the server says'],
  ])('%s is final', async (code, reason) => {
    server.answer = () => refusal(code);
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(server.attempts).toEqual(['a']);
    expect(results).toEqual([`failed a: ${reason}`]);
  });

  test('sends a failed message again when asked to, with the same id', async () => {
    server.answer = () => refusal('too_large');
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    await vi.advanceTimersByTimeAsync(0);
    server.answer = () => OK;
    outbox.retry('a');
    outbox.retry('a');
    await vi.advanceTimersByTimeAsync(0);
    expect(server.attempts).toEqual(['a', 'a']);
    expect(results.at(-1)).toBe('stored a');
  });

  test('goes on when a message is known to be stored by other ways', async () => {
    server.answer = (id) => (id === 'a' ? never() : OK);
    const outbox = open();
    outbox.resume();
    outbox.add(message('a'));
    outbox.add(message('b'));
    await vi.advanceTimersByTimeAsync(0);
    outbox.remove('a');
    await vi.advanceTimersByTimeAsync(0);
    expect(results).toEqual(['stored b']);
    expect(outbox.unsent).toEqual([]);
  });

  test('survives a refresh, with what failed', async () => {
    server.answer = (id) => (id === 'a' ? refusal('too_large') : never());
    const before = open();
    before.resume();
    before.add(message('a'));
    before.add(message('b'));
    before.add(message('c'));
    await vi.advanceTimersByTimeAsync(0);

    server.answer = () => OK;
    server.attempts = [];
    const after = open();
    expect(after.unsent.map(({ id }) => id)).toEqual(['a', 'b', 'c']);
    after.resume();
    await vi.advanceTimersByTimeAsync(0);
    expect(server.attempts).toEqual(['b', 'c']);
    expect(after.unsent).toMatchObject([{ id: 'a', failure: 'it is too long for this server' }]);
  });

  test.each([null, 'x', {}, [null, 1, {}, { id: 'a' }, { id: 'a', to: 'b', text: 1, failure: null }]])(
    'does not trust what is kept: %j',
    (value) => {
      kept = value;
      expect(open().unsent).toEqual([]);
    },
  );
});
