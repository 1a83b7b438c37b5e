import { computed, readonly, ref, type ComputedRef, type Ref } from 'vue';
import { messageKey } from '../messages/messageKey';
import { newMessageId } from '../messages/messageId';
import { SENDING, type Message } from '../messages/message';
import type { Outbox } from '../messages/outbox';
import { Timeline } from '../messages/timeline';
import type { Unsent } from '../messages/unsent';
import type { ReadMarks } from '../reading/readMarks';
import { countUnread } from '../reading/unread';

/** Whether there are messages older than those in the timeline, which the server can tell. */
export type Older = 'unknown' | 'loading' | 'failed' | 'none';

interface ConversationOptions {
  readonly key: string;
  readonly sender: { readonly id: string; readonly name: string };
  readonly outbox: Outbox;
  readonly marks: ReadMarks;
}

/** What the lobby and the conversation with a person have in common. */
export abstract class Conversation {
  readonly key: string;
  readonly timeline = new Timeline();
  readonly unread: ComputedRef<number>;
  readonly draft = ref('');

  protected readonly olderState = ref<Older>('unknown');
  readonly older: Readonly<Ref<Older>> = readonly(this.olderState);

  protected readonly sender: ConversationOptions['sender'];
  protected readonly outbox: Outbox;
  readonly #marks: ReadMarks;

  constructor({ key, sender, outbox, marks }: ConversationOptions) {
    this.key = key;
    this.sender = sender;
    this.outbox = outbox;
    this.#marks = marks;
    this.unread = computed(() => countUnread(this.timeline.messages, marks.of(key) ?? 0));
  }

  /** Asks the server for older messages. */
  abstract loadOlder(): Promise<void>;

  send(text: string): void {
    // Half of a surrogate pair is no text, and the server could not read it.
    const unsent = { id: newMessageId(), to: this.key, text: text.toWellFormed(), failure: null };
    this.showUnsent(unsent);
    this.outbox.add(unsent);
  }

  retry(id: string): void {
    this.timeline.sendAgain(messageKey(this.sender.id, id));
    this.outbox.retry(id);
  }

  discard(id: string): void {
    this.timeline.discard(messageKey(this.sender.id, id));
    this.outbox.remove(id);
  }

  stored(id: string, at: number | null): void {
    this.timeline.store(messageKey(this.sender.id, id), at);
  }

  failed(id: string, reason: string): void {
    this.timeline.fail(messageKey(this.sender.id, id), reason);
  }

  showUnsent({ id, text, failure }: Unsent): void {
    this.timeline.addUnsent({
      key: messageKey(this.sender.id, id),
      id,
      kind: 'message',
      author: this.sender.name,
      own: true,
      text,
      at: null,
      delivery: failure === null ? SENDING : { state: 'failed', reason: failure },
    });
  }

  markRead(): void {
    const { newestSaidAt } = this.timeline;
    if (newestSaidAt !== null) this.#marks.advance(this.key, newestSaidAt);
  }

  /** As `markRead`, unless some of it was read before: then the rest waits for its reader. */
  markReadIfNew(): void {
    if (this.#marks.of(this.key) === null) this.#marks.advance(this.key, this.timeline.newestSaidAt ?? 0);
  }

  /** Those that are our own are stored, whether or not the server has said so. */
  protected settle(messages: readonly Message[]): void {
    for (const { own, id } of messages) {
      if (own && id !== null) this.outbox.remove(id);
    }
  }
}
