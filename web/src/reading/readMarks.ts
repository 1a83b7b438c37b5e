import { shallowReactive } from 'vue';
import { isRecord } from '../browser/json';
import { JsonStore } from '../browser/jsonStore';

/** Up to when each conversation is read. All tabs of the browser share it. */
export class ReadMarks {
  readonly #store: JsonStore;
  readonly #marks = shallowReactive(new Map<string, number>());

  constructor(userID: string) {
    this.#store = new JsonStore('localStorage', `read:${userID}`);
    this.#load();
    window.addEventListener('storage', this.#onStorage);
  }

  /** Null if nothing is known of the conversation. */
  of(conversation: string): number | null {
    return this.#marks.get(conversation) ?? null;
  }

  advance(conversation: string, readUpTo: number): void {
    if (readUpTo <= (this.of(conversation) ?? -1)) return;
    // Another tab may have written since.
    this.#load();
    this.#raise(conversation, readUpTo);
    this.#store.write(Object.fromEntries(this.#marks));
  }

  dispose(): void {
    window.removeEventListener('storage', this.#onStorage);
  }

  readonly #onStorage = (event: StorageEvent): void => {
    if (event.key === this.#store.key) this.#load();
  };

  #load(): void {
    const marks = this.#store.read();
    if (!isRecord(marks)) return;
    for (const [conversation, readUpTo] of Object.entries(marks)) {
      if (typeof readUpTo === 'number') this.#raise(conversation, readUpTo);
    }
  }

  #raise(conversation: string, readUpTo: number): void {
    if (readUpTo > (this.of(conversation) ?? -1)) this.#marks.set(conversation, readUpTo);
  }
}
