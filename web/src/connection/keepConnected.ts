import { Backoff } from './backoff';

/** What it needs of a `Socket`, whatever the events of its namespace. */
interface ConnectingSocket {
  readonly active: boolean;
  connect(): unknown;
  on(event: 'connect', listener: () => void): unknown;
  on(event: 'connect_error', listener: (error: Error) => void): unknown;
  on(event: 'disconnect', listener: (reason: string) => void): unknown;
}

interface KeepConnectedOptions {
  /** The message of a `connect_error` that says that the login session is over. */
  readonly loginIsOver: string;
  /** Asks the server; when it says no, the page leaves the chat, and the socket is not used again. */
  readonly stillLoggedIn: () => Promise<boolean>;
}

/** A connection that held for so long was a success: the next try need not wait. */
const SUCCESS_MS = 5_000;

/**
 * Connects a socket again that the server has turned away or disconnected. The Manager does so only
 * when the connection is lost. Returns what ends it.
 */
export function keepConnected(socket: ConnectingSocket, options: KeepConnectedOptions): () => void {
  const backoff = new Backoff({ first: 400, longest: 5_000 });
  let timer: ReturnType<typeof setTimeout> | undefined;
  let connectedAt = 0;
  let isEnded = false;

  function connectLater(): void {
    if (isEnded) return;
    clearTimeout(timer);
    timer = setTimeout(() => socket.connect(), backoff.next());
  }

  async function connectIfLoggedIn(): Promise<void> {
    if (await options.stillLoggedIn()) connectLater();
  }

  socket.on('connect', () => {
    connectedAt = Date.now();
  });
  socket.on('connect_error', (error) => {
    if (socket.active) return;
    if (error.message === options.loginIsOver) void connectIfLoggedIn();
    else connectLater();
  });
  socket.on('disconnect', (reason) => {
    if (Date.now() - connectedAt > SUCCESS_MS) backoff.reset();
    if (reason === 'io server disconnect') void connectIfLoggedIn();
  });

  return () => {
    isEnded = true;
    clearTimeout(timer);
  };
}
