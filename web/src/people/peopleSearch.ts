import { ref, shallowRef, type Ref } from 'vue';
import { REPLY_TIMEOUT_MS, type PrivateSocket } from '../connection/sockets';
import { readIntroductions, type Introduction } from './introduction';

/** From the last key to the question: nobody wants an answer for every letter. */
const PAUSE_MS = 200;

const PAGE = 50;

/** Whether the answer to what is typed has come. */
export type SearchState = 'asking' | 'done' | 'failed';

/** Finds people by name whom the server has not told of: of very many it tells of those who matter most. */
export class PeopleSearch {
  readonly #socket: PrivateSocket;
  readonly #query = ref('');
  readonly #found = shallowRef<readonly Introduction[]>([]);
  readonly #state = ref<SearchState>('done');
  readonly #hasMore = ref(false);
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Only the newest question counts: answers may overtake each other. */
  #asked = 0;

  constructor(socket: PrivateSocket) {
    this.#socket = socket;
  }

  /** What was typed. */
  get query(): string {
    return this.#query.value;
  }

  /** Whether somebody is looked for. */
  get isOn(): boolean {
    return this.#query.value.trim() !== '';
  }

  /** Looks for people of that name. */
  find(text: string): void {
    this.#query.value = text;
    this.#found.value = [];
    this.#hasMore.value = false;
    this.#asked += 1;
    clearTimeout(this.#timer);
    if (!this.isOn) {
      this.#state.value = 'done';
      return;
    }
    this.#state.value = 'asking';
    this.#timer = setTimeout(() => void this.#ask(), PAUSE_MS);
  }

  get found(): readonly Introduction[] {
    return this.#found.value;
  }

  get state(): Readonly<Ref<SearchState>> {
    return this.#state;
  }

  get hasMore(): boolean {
    return this.#hasMore.value;
  }

  /** Asks for the next page; after a failure for the same one again. */
  async more(): Promise<void> {
    if (this.#state.value === 'asking') return;
    this.#state.value = 'asking';
    await this.#ask();
  }

  async #ask(): Promise<void> {
    const question = ++this.#asked;
    const page = await this.#page();
    if (question !== this.#asked) return;
    if (page === null) {
      this.#state.value = 'failed';
      return;
    }
    this.#found.value = [...this.#found.value, ...page];
    this.#hasMore.value = page.length === PAGE;
    this.#state.value = 'done';
  }

  async #page(): Promise<readonly Introduction[] | null> {
    if (!this.#socket.connected) return null;
    const after = this.#found.value.at(-1)?.userID;
    const request = { query: this.#query.value.trim(), limit: PAGE, ...(after !== undefined && { after }) };
    try {
      const answer: unknown = await this.#socket.timeout(REPLY_TIMEOUT_MS).emitWithAck('users_page', request);
      return Array.isArray(answer) ? readIntroductions(answer) : null;
    } catch {
      return null;
    }
  }
}
