import { readonly, ref } from 'vue';
import { Batches } from '../browser/batches';
import { JsonStore } from '../browser/jsonStore';
import { Conversation } from '../chat/conversation';
import { Backoff } from '../connection/backoff';
import { readReply } from '../connection/reply';
import { BATCH_MS, REPLY_TIMEOUT_MS, type LobbySocket } from '../connection/sockets';
import type { Login } from '../login/login';
import { isStored, type Message } from '../messages/message';
import { Outbox } from '../messages/outbox';
import type { Unsent } from '../messages/unsent';
import type { ReadMarks } from '../reading/readMarks';
import { readLobbyMessage } from './lobbyMessage';
import { OwnLobbyIds } from './ownLobbyIds';

export const LOBBY = 'lobby';

/** How far a return looks back behind the newest message: who speaks at the same time may be heard in another order. */
const OVERLAP_MS = 5_000;

/** The conversation of everyone. */
export class Lobby extends Conversation {
  readonly #socket: LobbySocket;
  readonly #me: Login;
  readonly #ownIds: OwnLobbyIds;
  /** Whether this tab is known to the lobby already: then nobody is told that it comes. */
  readonly #joined: JsonStore;
  readonly #loaded = ref(false);
  readonly loaded = readonly(this.#loaded);
  readonly #heard = new Batches<unknown>((values) => {
    this.#hear(values);
  }, BATCH_MS);
  /** Changes with each connection. */
  #visit = 0;
  /** The kept message up to which nothing is missing; null as long as there is none. */
  #completeTo: string | null = null;
  /** Whether nothing is missing up to now: not before the server has told what was missed. */
  #isComplete = false;

  constructor(socket: LobbySocket, me: Login, marks: ReadMarks) {
    const outbox = new Outbox({
      send: async ({ id, text }) => {
        return readReply(await socket.timeout(REPLY_TIMEOUT_MS).emitWithAck('chat', { msg: text, id }));
      },
      store: new JsonStore('sessionStorage', `unsent-lobby:${me.userID}`),
      onStored: ({ id }, at) => {
        this.stored(id, at);
      },
      onFailed: ({ id }, reason) => {
        this.failed(id, reason);
      },
    });
    super({ key: LOBBY, sender: { id: me.user, name: me.user }, outbox, marks });
    this.#socket = socket;
    this.#me = me;
    this.#ownIds = new OwnLobbyIds(me.userID);
    this.#joined = new JsonStore('sessionStorage', `joined-lobby:${me.userID}`);
    // The server keeps no more than it tells when the tab joins.
    this.olderState.value = 'none';

    for (const unsent of outbox.unsent) this.showUnsent(unsent);
    socket.on('connect', () => {
      this.#visit += 1;
      void this.#join(this.#visit);
      outbox.resume();
    });
    socket.on('disconnect', () => {
      this.#visit += 1;
      this.#heard.flush();
      if (this.#isComplete) this.#completeTo = this.#idBeforeNewest();
      this.#isComplete = false;
      outbox.pause();
    });
    socket.on('chat', (value) => {
      this.#heard.add(value);
    });
  }

  override loadOlder(): Promise<void> {
    return Promise.resolve();
  }

  override showUnsent(unsent: Unsent): void {
    this.#ownIds.add(unsent.id);
    super.showUnsent(unsent);
  }

  async #join(visit: number): Promise<void> {
    const backoff = new Backoff({ first: 500, longest: 5_000 });
    while (visit === this.#visit) {
      const isNew = this.#joined.read() !== true;
      const payload = isNew ? {} : { after: this.#completeTo };
      const answer = await this.#ask(payload);
      if (visit === this.#visit && Array.isArray(answer)) {
        this.#joined.write(true);
        this.#catchUp(answer);
        // Who is new has missed nothing.
        if (isNew) this.markReadIfNew();
        return;
      }
      await backoff.wait();
    }
  }

  async #ask(payload: Record<string, never> | { after: string | null }): Promise<unknown> {
    try {
      return await this.#socket.timeout(REPLY_TIMEOUT_MS).emitWithAck('join', payload);
    } catch {
      return null;
    }
  }

  #idBeforeNewest(): string | null {
    // The server keeps what is said; without a time it was published by another program.
    const kept = this.timeline.messages.filter(
      (message) => isStored(message) && message.kind === 'message' && message.id !== null && message.at !== null,
    );
    const newest = kept.at(-1)?.at ?? 0;
    return kept.findLast(({ at }) => at !== null && at <= newest - OVERLAP_MS)?.id ?? null;
  }

  #catchUp(values: readonly unknown[]): void {
    this.#heard.flush();
    const missed = this.#readAll(values);
    this.timeline.addMissed(missed);
    this.settle(missed);
    this.#isComplete = true;
    this.#loaded.value = true;
  }

  #hear(values: readonly unknown[]): void {
    const messages = this.#readAll(values);
    this.timeline.receive(messages);
    this.settle(messages);
  }

  #readAll(values: readonly unknown[]): Message[] {
    const isOwn = (id: string, user: string) => user === this.#me.user && this.#ownIds.has(id);
    return values.map((value) => readLobbyMessage(value, isOwn)).filter((message) => message !== null);
  }
}
