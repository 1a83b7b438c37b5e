import { Backoff } from '../connection/backoff';
import type { Refusal, Reply } from '../connection/reply';
import { readUnsent, type Unsent } from './unsent';

interface OutboxOptions {
  /** Sends once; rejects when no answer came in time. */
  readonly send: (message: Unsent) => Promise<Reply>;
  readonly store: { read(): unknown; write(value: unknown): void };
  readonly onStored: (message: Unsent, at: number | null) => void;
  readonly onFailed: (message: Unsent, reason: string) => void;
}

/** How long, while connected, a message is sent again by itself. */
const PATIENCE_MS = 30_000;

const NO_ANSWER: Refusal = { ok: false, code: 'no answer', message: '' };

/** After these nobody knows whether it is stored; the same id again does no harm. */
const WORTH_ANOTHER_TRY = new Set(['unavailable', 'rate_limited', NO_ANSWER.code]);

const REASONS: Readonly<Record<string, string>> = {
  [NO_ANSWER.code]: 'the server did not answer',
  rate_limited: 'too many messages in a short time',
  too_large: 'it is too long for this server',
  unavailable: 'the server could not store it',
};

/**
 * Sends the messages of one namespace in order, one at a time, each until the server says that it is
 * stored, over any number of connections and refreshes of the page.
 */
export class Outbox {
  readonly #options: OutboxOptions;
  readonly #backoff = new Backoff({ first: 500, longest: 5_000 });
  #unsent: readonly Unsent[];
  #connected = false;
  /** Changes with whatever makes the current try pointless: who awaits then looks away. */
  #course = 0;
  #working = false;
  #patience = { id: '', spent: 0 };
  #triedSince = 0;

  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#unsent = readUnsent(options.store.read());
  }

  get unsent(): readonly Unsent[] {
    return this.#unsent;
  }

  add(message: Unsent): void {
    this.#write([...this.#unsent, message]);
    this.#work();
  }

  /** Sends a failed message again, after those that wait already. */
  retry(id: string): void {
    const message = this.#unsent.find((unsent) => unsent.id === id && unsent.failure !== null);
    if (!message) return;
    this.#write([...this.#without(id), { ...message, failure: null }]);
    this.#work();
  }

  /** Takes a message out: it is stored, as is known by other ways, or no longer wanted. */
  remove(id: string): void {
    const isCurrent = this.#working && this.#next()?.id === id;
    if (this.#unsent.some((unsent) => unsent.id === id)) this.#write(this.#without(id));
    if (!isCurrent) return;
    this.#interrupt();
    this.#work();
  }

  /** The socket is connected. */
  resume(): void {
    this.#connected = true;
    this.#work();
  }

  /** The socket is not connected any more. */
  pause(): void {
    this.#connected = false;
    if (this.#working) this.#interrupt();
  }

  #interrupt(): void {
    this.#patience.spent += Date.now() - this.#triedSince;
    this.#course += 1;
    this.#working = false;
  }

  #work(): void {
    if (this.#connected && !this.#working) void this.#sendAll(this.#course);
  }

  async #sendAll(course: number): Promise<void> {
    this.#working = true;
    for (let message = this.#next(); message; message = this.#next()) {
      this.#expect(message);
      const reply = await this.#options.send(message).catch(() => NO_ANSWER);
      if (this.#isOver(course)) return;
      if (reply.ok) {
        this.#write(this.#without(message.id));
        this.#options.onStored(message, reply.at);
      } else if (this.#isWorthAnotherTry(reply)) {
        await this.#backoff.wait();
        if (this.#isOver(course)) return;
        this.#patience.spent += Date.now() - this.#triedSince;
      } else {
        this.#fail(message, reply);
      }
    }
    this.#working = false;
  }

  #isOver(course: number): boolean {
    return course !== this.#course;
  }

  #next(): Unsent | undefined {
    return this.#unsent.find((unsent) => unsent.failure === null);
  }

  #expect(message: Unsent): void {
    if (this.#patience.id !== message.id) {
      this.#patience = { id: message.id, spent: 0 };
      this.#backoff.reset();
    }
    this.#triedSince = Date.now();
  }

  #isWorthAnotherTry({ code }: Refusal): boolean {
    const spent = this.#patience.spent + Date.now() - this.#triedSince;
    return WORTH_ANOTHER_TRY.has(code) && spent < PATIENCE_MS;
  }

  #fail(message: Unsent, refusal: Refusal): void {
    const reason = REASONS[refusal.code] ?? (refusal.message || 'the server refused it');
    const failed = { ...message, failure: reason };
    this.#write(this.#unsent.map((unsent) => (unsent.id === message.id ? failed : unsent)));
    this.#patience = { id: '', spent: 0 };
    this.#options.onFailed(failed, reason);
  }

  #without(id: string): Unsent[] {
    return this.#unsent.filter((unsent) => unsent.id !== id);
  }

  #write(unsent: readonly Unsent[]): void {
    this.#unsent = unsent;
    this.#options.store.write(unsent);
  }
}
