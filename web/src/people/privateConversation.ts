import { Conversation } from '../chat/conversation';
import { REPLY_TIMEOUT_MS, type PrivateSocket } from '../connection/sockets';
import type { Login } from '../login/login';
import { isStored, STORED, type Message } from '../messages/message';
import { messageKey } from '../messages/messageKey';
import type { Outbox } from '../messages/outbox';
import type { ReadMarks } from '../reading/readMarks';
import { readPrivateMessages, type PrivateMessage } from './privateMessage';

const PAGE = 100;

interface PrivateConversationOptions {
  readonly peerID: string;
  readonly nameOfPeer: () => string;
  readonly me: Login;
  readonly socket: PrivateSocket;
  readonly outbox: Outbox;
  readonly marks: ReadMarks;
}

/** The conversation with a person, who may be oneself: then these are notes. */
export class PrivateConversation extends Conversation {
  readonly #socket: PrivateSocket;
  readonly #me: Login;
  readonly #nameOfPeer: () => string;

  constructor({ peerID, nameOfPeer, me, socket, outbox, marks }: PrivateConversationOptions) {
    super({ key: peerID, sender: { id: me.userID, name: me.user }, outbox, marks });
    this.#socket = socket;
    this.#me = me;
    this.#nameOfPeer = nameOfPeer;
  }

  hear(received: readonly PrivateMessage[]): void {
    const messages = received.map((message) => this.#read(message));
    this.timeline.receive(messages);
    this.settle(messages);
  }

  applySnapshot(snapshot: readonly PrivateMessage[]): void {
    const messages = snapshot.map((message) => this.#read(message));
    this.timeline.applySnapshot(messages);
    this.settle(messages);
    if (this.olderState.value !== 'loading') this.olderState.value = 'unknown';
  }

  override async loadOlder(): Promise<void> {
    if (this.older.value === 'loading' || this.older.value === 'none') return;
    // History that was stored without ids ends here: there is nothing to ask for.
    const oldest = this.timeline.messages[0];
    if (!oldest?.id || !isStored(oldest)) {
      this.olderState.value = 'none';
      return;
    }
    this.olderState.value = 'loading';
    const page = await this.#ask(oldest.id);
    // Meanwhile a snapshot may have replaced what the page precedes.
    if (this.timeline.messages[0]?.key !== oldest.key) this.olderState.value = 'unknown';
    else if (!Array.isArray(page)) this.olderState.value = 'failed';
    else this.#prepend(page);
  }

  #prepend(page: unknown): void {
    const messages = readPrivateMessages(page).map((message) => this.#read(message));
    this.olderState.value = this.timeline.prepend(messages) > 0 ? 'unknown' : 'none';
  }

  async #ask(before: string): Promise<unknown> {
    if (!this.#socket.connected) return null;
    try {
      const request = { with: this.key, before, limit: PAGE };
      return await this.#socket.timeout(REPLY_TIMEOUT_MS).emitWithAck('messages', request);
    } catch {
      return null;
    }
  }

  #read({ id, from, text, at }: PrivateMessage): Message {
    const own = from === this.#me.userID;
    const author = own ? this.#me.user : this.#nameOfPeer();
    return { key: messageKey(from, id), id, kind: 'message', author, own, text, at, delivery: STORED };
  }
}
