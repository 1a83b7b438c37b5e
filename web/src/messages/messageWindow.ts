import { shallowRef } from 'vue';

/** Messages that a conversation shows first, and that each step shows more. */
const STEP = 50;
/** More are not in the document while the reader is elsewhere in the conversation. */
const MOST = 300;
/** More are not in the document while the newest are read: there is nothing to see of them. */
const MOST_BEFORE_NEWEST = 150;

/** The positions of all messages of a conversation: those from `first` to before `end`. */
export interface Extent {
  readonly first: number;
  readonly end: number;
}

interface Range {
  readonly from: number;
  /** Null: to the newest message, whichever that is. */
  readonly to: number | null;
}

/** Which part of a conversation is in the document: never much, however long the conversation. */
export class MessageWindow {
  readonly #extent: () => Extent;
  readonly #range = shallowRef<Range>({ from: 0, to: null });

  constructor(extent: () => Extent) {
    this.#extent = extent;
    this.showNewest();
  }

  get from(): number {
    const { first, end } = this.#extent();
    const { from } = this.#range.value;
    // The conversation may have been replaced by a shorter one.
    return Math.max(first, from < end ? from : end - STEP);
  }

  get to(): number {
    return Math.min(this.#range.value.to ?? Infinity, this.#extent().end);
  }

  get showsOldest(): boolean {
    return this.from === this.#extent().first;
  }

  get showsNewest(): boolean {
    return this.to === this.#extent().end;
  }

  showNewest(): void {
    this.#range.value = { from: this.#extent().end - STEP, to: null };
  }

  showOlder(): void {
    const from = Math.max(this.#extent().first, this.from - STEP);
    this.#range.value = { from, to: this.#limitedEnd(from) };
  }

  showNewer(): void {
    const { end } = this.#extent();
    const to = Math.min(end, this.to + STEP);
    this.#range.value = { from: Math.max(this.from, to - MOST), to: to < end ? to : null };
  }

  /** Messages came. `following`: the reader sees the newest. */
  grow(following: boolean): void {
    const { end } = this.#extent();
    if (!following) this.#range.value = { from: this.from, to: this.#limitedEnd(this.from) };
    else if (end - this.from > MOST_BEFORE_NEWEST) this.showNewest();
  }

  #limitedEnd(from: number): number | null {
    const to = Math.min(this.to, from + MOST);
    return to < this.#extent().end ? to : null;
  }
}
