import { shallowRef } from 'vue';
import { isStored, SENDING, STORED, type Delivery, type Message } from './message';

export interface TimelineMessage extends Message {
  /** `at` where it is known; else just after the message before. */
  readonly saidAt: number;
}

interface Content {
  /** The position of the first message. Positions stay when older messages are put before. */
  readonly first: number;
  readonly messages: readonly TimelineMessage[];
}

/**
 * The messages of a conversation: those that are stored in the order of the server, then those that
 * are not stored yet. However often a message comes (sent, acknowledged, heard, in a snapshot), it
 * is there once.
 */
export class Timeline {
  readonly #content = shallowRef<Content>({ first: 0, messages: [] });
  readonly #historyChanges = shallowRef(0);
  #keys = new Set<string>();

  get messages(): readonly TimelineMessage[] {
    return this.#content.value.messages;
  }

  get first(): number {
    return this.#content.value.first;
  }

  /** Grows when messages come that were said before, rather than now. */
  get historyChanges(): number {
    return this.#historyChanges.value;
  }

  /** When the newest message of the server was said. */
  get newestSaidAt(): number | null {
    return this.messages.findLast(isStored)?.saidAt ?? null;
  }

  /** An own message that is not stored yet, or that failed. */
  addUnsent(message: Message): void {
    if (this.#keys.has(message.key)) return;
    this.#keys.add(message.key);
    this.#write([...this.messages, { ...message, saidAt: 0 }]);
  }

  /** Messages that were just said, in order. */
  receive(received: readonly Message[]): void {
    const unknown = received.filter((message) => !this.#keys.has(message.key));
    for (const message of received) this.store(message.key, message.at);
    const messages = [...this.messages];
    for (const message of unknown) {
      if (!this.#keys.has(message.key)) this.#insert(messages, message);
    }
    this.#write(messages);
  }

  /** The server has stored a message that was unsent. */
  store(key: string, at: number | null): void {
    const index = this.#unsentIndex(key);
    const message = this.messages[index];
    if (!message) return;
    this.#write(this.#insert(this.messages.toSpliced(index, 1), { ...message, at, delivery: STORED }));
  }

  fail(key: string, reason: string): void {
    this.#deliver(key, { state: 'failed', reason });
  }

  sendAgain(key: string): void {
    this.#deliver(key, SENDING);
  }

  /** Forgets an unsent message. */
  discard(key: string): void {
    const index = this.#unsentIndex(key);
    if (index < 0) return;
    this.#keys.delete(key);
    this.#write(this.messages.toSpliced(index, 1));
  }

  /** Messages that were missed, in order. */
  addMissed(missed: readonly Message[]): void {
    this.#historyChanges.value += 1;
    this.receive(missed);
  }

  /** The newest messages of the conversation as the server has them, without a gap, oldest first. */
  applySnapshot(snapshot: readonly Message[]): void {
    const keys = new Set(snapshot.map((message) => message.key));
    const others = this.messages.filter((message) => !keys.has(message.key) && message.id !== null);
    const { overlaps, kept, first } = this.#olderThan(snapshot);
    const keptKeys = new Set(kept.map((message) => message.key));

    this.#keys = new Set([...keptKeys, ...keys]);
    const messages = inOrder([...kept, ...snapshot]);
    for (const message of others) {
      if (keptKeys.has(message.key)) continue;
      if (isStored(message)) {
        // Nothing in common: there is a gap, and what is before it comes again with the history.
        if (overlaps) this.#insert(messages, message);
      } else {
        this.#keys.add(message.key);
        messages.push(message);
      }
    }
    this.#historyChanges.value += 1;
    this.#write(messages, first);
  }

  /** A page of history that ends before the first message. Returns how many of it are new. */
  prepend(page: readonly Message[]): number {
    const older = page.filter((message) => !this.#keys.has(message.key));
    for (const message of older) this.#keys.add(message.key);
    this.#historyChanges.value += 1;
    this.#write([...inOrder(older), ...this.messages], this.first - older.length);
    return older.length;
  }

  /** The messages here that precede a snapshot, and the position of the first one. */
  #olderThan(snapshot: readonly Message[]): { overlaps: boolean; kept: TimelineMessage[]; first: number } {
    const stored = this.messages.filter(isStored);
    const indices = new Map(stored.map((message, index) => [message.key, index]));
    const anchor = snapshot.findIndex((message) => indices.has(message.key));
    const index = indices.get(snapshot[anchor]?.key ?? '');
    if (index === undefined) return { overlaps: false, kept: [], first: 0 };
    // Messages without an id cannot be recognised; between others they have their places.
    const count = index - anchor;
    return { overlaps: true, kept: stored.slice(0, Math.max(0, count)), first: this.first + Math.min(0, count) };
  }

  /** Puts a stored message into `messages`, before those that were said later or are not stored. */
  #insert(messages: TimelineMessage[], message: Message): TimelineMessage[] {
    this.#keys.add(message.key);
    let index = messages.length;
    for (; index > 0; index -= 1) {
      const before = messages[index - 1];
      if (before && isStored(before) && !isLater(before, message)) break;
    }
    messages.splice(index, 0, { ...message, saidAt: saidAt(message, messages[index - 1]) });
    return messages;
  }

  #unsentIndex(key: string): number {
    for (let index = this.messages.length - 1; index >= 0; index -= 1) {
      const message = this.messages[index];
      // The unsent ones are the last.
      if (!message || isStored(message)) break;
      if (message.key === key) return index;
    }
    return -1;
  }

  #deliver(key: string, delivery: Delivery): void {
    const index = this.#unsentIndex(key);
    const message = this.messages[index];
    if (message) this.#write(this.messages.with(index, { ...message, delivery }));
  }

  #write(messages: readonly TimelineMessage[], first = this.first): void {
    this.#content.value = { first, messages };
  }
}

function isLater(message: Message, other: Message): boolean {
  return message.at !== null && other.at !== null && message.at > other.at;
}

function saidAt(message: Message, before: TimelineMessage | undefined): number {
  return message.at ?? (before?.saidAt ?? 0) + 1;
}

function inOrder(messages: readonly Message[]): TimelineMessage[] {
  const ordered: TimelineMessage[] = [];
  for (const message of messages) ordered.push({ ...message, saidAt: saidAt(message, ordered.at(-1)) });
  return ordered;
}
