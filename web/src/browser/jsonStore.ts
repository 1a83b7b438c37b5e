/**
 * A JSON value that the browser keeps. Where it keeps nothing (storage may be forbidden, or full)
 * everything works but for what a refresh of the page then forgets.
 */
export class JsonStore {
  readonly key: string;
  readonly #area: 'localStorage' | 'sessionStorage';

  constructor(area: 'localStorage' | 'sessionStorage', key: string) {
    this.#area = area;
    this.key = `chat-cluster:${key}`;
  }

  read(): unknown {
    try {
      const text = globalThis[this.#area].getItem(this.key);
      return text === null ? null : JSON.parse(text);
    } catch {
      return null;
    }
  }

  write(value: unknown): void {
    try {
      globalThis[this.#area].setItem(this.key, JSON.stringify(value));
    } catch {
      // See above.
    }
  }
}
