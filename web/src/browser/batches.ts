/** Hands items over: each at once while few come, together while many do. */
export class Batches<Item> {
  readonly #handle: (items: readonly Item[]) => void;
  readonly #pause: number;
  #items: Item[] = [];
  #isPause = false;

  constructor(handle: (items: readonly Item[]) => void, pause: number) {
    this.#handle = handle;
    this.#pause = pause;
  }

  add(item: Item): void {
    this.#items.push(item);
    // No timer for the first: those of a hidden page are slow.
    if (!this.#isPause) this.#handOver();
  }

  /** Hands over what waits. */
  flush(): void {
    const items = this.#items;
    this.#items = [];
    if (items.length > 0) this.#handle(items);
  }

  #handOver(): void {
    this.#isPause = true;
    setTimeout(() => {
      this.#isPause = false;
      if (this.#items.length > 0) this.#handOver();
    }, this.#pause);
    this.flush();
  }
}
