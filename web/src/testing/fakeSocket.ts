type Listener = (value: never) => void;

/** What the page uses of a `Socket`, with the test as the server. */
export class FakeSocket {
  active = false;
  connects = 0;
  readonly requests: { event: string; payload: unknown }[] = [];
  /** What the server answers; rejects for no answer. */
  answer: (event: string, payload: unknown) => Promise<unknown> = () => new Promise(() => undefined);

  readonly #listeners = new Map<string, Listener[]>();

  connect(): void {
    this.connects += 1;
  }

  on(event: string, listener: Listener): void {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
  }

  timeout(): this {
    return this;
  }

  emitWithAck(event: string, payload: unknown): Promise<unknown> {
    this.requests.push({ event, payload });
    return this.answer(event, payload);
  }

  tell(event: string, value?: unknown): void {
    for (const listener of this.#listeners.get(event) ?? []) listener(value as never);
  }
}
