import { Manager } from 'socket.io-client';
import { computed, ref, shallowRef, type ComputedRef } from 'vue';
import { keepConnected } from './keepConnected';
import type { LobbySocket, PrivateSocket } from './sockets';
import type { Transport } from './transports';

export interface ConnectionStatus {
  readonly state: 'connected' | 'connecting' | 'reconnecting' | 'offline';
  /** The name that Engine.IO gives it; empty without a connection. */
  readonly transport: string;
}

interface ConnectionOptions {
  readonly transports: Transport[] | null;
  readonly stillLoggedIn: () => Promise<boolean>;
}

/** The page's one connection to the server, and the sockets of both namespaces on it. */
export class Connection {
  readonly privateSocket: PrivateSocket;
  readonly lobbySocket: LobbySocket;
  readonly status: ComputedRef<ConnectionStatus>;

  readonly #manager: Manager;
  readonly #transport = ref('');
  readonly #online = ref(navigator.onLine);
  readonly #wasConnected = ref(false);
  readonly #endings: (() => void)[] = [];

  constructor({ transports, stillLoggedIn }: ConnectionOptions) {
    this.#manager = new Manager({
      autoConnect: false,
      reconnectionDelay: 200,
      reconnectionDelayMax: 2_000,
      randomizationFactor: 0.5,
      timeout: 10_000,
      ...(transports && { transports }),
    });
    // Who comes and goes is told in batches: thousands may at once.
    this.privateSocket = this.#manager.socket('/', { auth: { presence: true } });
    this.lobbySocket = this.#manager.socket('/lobby');
    this.#endings.push(
      keepConnected(this.privateSocket, { loginIsOver: 'invalid username', stillLoggedIn }),
      keepConnected(this.lobbySocket, { loginIsOver: 'not logged in', stillLoggedIn }),
    );
    this.status = this.#watchStatus();
  }

  open(): void {
    this.privateSocket.connect();
    this.lobbySocket.connect();
  }

  close(): void {
    for (const end of this.#endings) end();
    this.privateSocket.disconnect();
    this.lobbySocket.disconnect();
  }

  #watchStatus(): ComputedRef<ConnectionStatus> {
    const connected = [this.privateSocket, this.lobbySocket].map((socket) => {
      const isConnected = shallowRef(false);
      socket.on('connect', () => (isConnected.value = true));
      socket.on('disconnect', () => (isConnected.value = false));
      return isConnected;
    });
    this.#watchTransport();
    this.#watchNetwork();
    return computed((): ConnectionStatus => {
      if (connected.every((isConnected) => isConnected.value)) {
        this.#wasConnected.value = true;
        return { state: 'connected', transport: this.#transport.value };
      }
      const trying = this.#wasConnected.value ? 'reconnecting' : 'connecting';
      return { state: this.#online.value ? trying : 'offline', transport: '' };
    });
  }

  #watchTransport(): void {
    this.#manager.on('open', () => {
      const { engine } = this.#manager;
      this.#transport.value = engine.transport.name;
      engine.on('upgrade', (transport) => {
        this.#transport.value = transport.name;
      });
    });
  }

  #watchNetwork(): void {
    const update = () => {
      this.#online.value = navigator.onLine;
    };
    const events = ['online', 'offline'];
    for (const event of events) window.addEventListener(event, update);
    this.#endings.push(() => {
      for (const event of events) window.removeEventListener(event, update);
    });
  }
}
