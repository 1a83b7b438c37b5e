/** What became of a message. All that others wrote is stored. */
export type Delivery =
  | { readonly state: 'sending' }
  | { readonly state: 'stored' }
  | { readonly state: 'failed'; readonly reason: string };

export const SENDING: Delivery = { state: 'sending' };
export const STORED: Delivery = { state: 'stored' };

export interface Message {
  /** Never missing, and different for messages of different senders, who may choose the same id. */
  readonly key: string;
  /** Missing in what servers without message ids stored, and in what other programs published. */
  readonly id: string | null;
  /** `control` tells what somebody did. */
  readonly kind: 'message' | 'control';
  readonly author: string;
  readonly own: boolean;
  readonly text: string;
  readonly at: number | null;
  readonly delivery: Delivery;
}

/** Whether the server has it. */
export function isStored(message: Message): boolean {
  return message.delivery.state === 'stored';
}
