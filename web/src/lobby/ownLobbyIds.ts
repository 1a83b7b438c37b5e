import { JsonStore } from '../browser/jsonStore';

/** As many messages as the server keeps, twice. */
const REMEMBERED = 400;

/** The ids of the messages that this tab has sent to the lobby, where names are not unique. */
export class OwnLobbyIds {
  readonly #store: JsonStore;
  readonly #ids: Set<string>;

  constructor(userID: string) {
    this.#store = new JsonStore('sessionStorage', `own-lobby-ids:${userID}`);
    const ids = this.#store.read();
    this.#ids = new Set(Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : []);
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }

  add(id: string): void {
    this.#ids.add(id);
    for (const oldest of this.#ids) {
      if (this.#ids.size <= REMEMBERED) break;
      this.#ids.delete(oldest);
    }
    this.#store.write([...this.#ids]);
  }
}
