interface BackoffOptions {
  readonly first: number;
  readonly longest: number;
}

/** Waits longer after each failure, and never as long as others who failed at the same moment. */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Milliseconds to wait before the next try. */
  next(): number {
    const full = Math.min(this.#options.longest, this.#options.first * 2 ** this.#failures);
    this.#failures += 1;
    return full * (0.5 + Math.random() / 2);
  }

  wait(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, this.next()));
  }

  reset(): void {
    this.#failures = 0;
  }
}
