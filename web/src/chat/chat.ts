import { computed, type ComputedRef } from 'vue';
import { idOf, isRecord } from '../browser/json';
import { Connection } from '../connection/connection';
import type { Transport } from '../connection/transports';
import { Lobby } from '../lobby/lobby';
import type { Login } from '../login/login';
import { fetchLoginPatiently } from '../login/loginApi';
import { PrivateMessages } from '../people/privateMessages';
import { ReadMarks } from '../reading/readMarks';

interface ChatOptions {
  readonly me: Login;
  readonly transports: Transport[] | null;
  /** The login session is another one now; null: there is none. */
  readonly onLoginReplaced: (login: Login | null) => void;
}

/** All that the page knows while somebody is logged in. */
export class Chat {
  readonly me: Login;
  readonly connection: Connection;
  readonly lobby: Lobby;
  readonly privateMessages: PrivateMessages;
  readonly unread: ComputedRef<number>;

  readonly #onLoginReplaced: ChatOptions['onLoginReplaced'];
  readonly #marks: ReadMarks;
  #loginCheck: Promise<boolean> | null = null;
  #isClosed = false;

  constructor({ me, transports, onLoginReplaced }: ChatOptions) {
    this.me = me;
    this.#onLoginReplaced = onLoginReplaced;
    this.#marks = new ReadMarks(me.userID);
    this.connection = new Connection({ transports, stillLoggedIn: () => this.#stillLoggedIn() });
    this.lobby = new Lobby(this.connection.lobbySocket, me, this.#marks);
    this.privateMessages = new PrivateMessages(this.connection.privateSocket, me, this.#marks);
    this.unread = computed(() => {
      const people = this.privateMessages.roster.listed;
      return people.reduce((sum, { conversation }) => sum + conversation.unread.value, this.lobby.unread.value);
    });
    this.connection.privateSocket.on('session', (session) => {
      // The cookie, which other tabs share, may be another user's since the last connection.
      const userID = isRecord(session) ? idOf(session.userID) : null;
      if (userID !== null && userID !== me.userID) void this.#stillLoggedIn();
    });
    this.connection.open();
  }

  close(): void {
    this.#isClosed = true;
    this.connection.close();
    this.#marks.dispose();
  }

  /** Both sockets ask at the same time; one question answers both. */
  #stillLoggedIn(): Promise<boolean> {
    this.#loginCheck ??= this.#checkLogin().finally(() => {
      this.#loginCheck = null;
    });
    return this.#loginCheck;
  }

  async #checkLogin(): Promise<boolean> {
    const login = await fetchLoginPatiently();
    if (this.#isClosed) return false;
    if (login?.userID === this.me.userID) return true;
    this.#onLoginReplaced(login);
    return false;
  }
}
