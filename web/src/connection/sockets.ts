import type { Socket } from 'socket.io-client';

type Event = (value: unknown) => void;
type Request<Payload> = (payload: Payload, reply: (value: unknown) => void) => void;

interface PrivateEvents {
  session: Event;
  users: Event;
  'user connected': Event;
  'user disconnected': Event;
  presence: Event;
  'private message': Event;
}

interface PrivateRequests {
  'private message': Request<{ content: string; to: string; id: string }>;
  messages: Request<{ with: string; before: string; limit: number }>;
  users_page: Request<{ query: string; limit: number; after?: string }>;
}

interface LobbyEvents {
  chat: Event;
}

interface LobbyRequests {
  join: Request<Record<string, never> | { after: string | null }>;
  chat: Request<{ msg: string; id: string }>;
}

/** Namespace `/`: who is there, and private messages. */
export type PrivateSocket = Socket<PrivateEvents, PrivateRequests>;

/** Namespace `/lobby`. */
export type LobbySocket = Socket<LobbyEvents, LobbyRequests>;

/** How long to wait for an answer: a worker that died lets the connection go much sooner. */
export const REPLY_TIMEOUT_MS = 10_000;

/** How often the page shows what comes, when very much comes. */
export const BATCH_MS = 60;
