import { readonly, ref } from 'vue';
import { Batches } from '../browser/batches';
import { idOf } from '../browser/json';
import { JsonStore } from '../browser/jsonStore';
import { readReply } from '../connection/reply';
import { BATCH_MS, REPLY_TIMEOUT_MS, type PrivateSocket } from '../connection/sockets';
import type { Login } from '../login/login';
import { Outbox } from '../messages/outbox';
import type { ReadMarks } from '../reading/readMarks';
import { readIntroduction, readIntroductions } from './introduction';
import { PrivateConversation } from './privateConversation';
import { readPrivateMessages, type PrivateMessage } from './privateMessage';
import { PeopleSearch } from './peopleSearch';
import { Roster } from './roster';

/** Namespace `/`: who there is, and the conversations with them. */
export class PrivateMessages {
  readonly roster: Roster;
  readonly search: PeopleSearch;
  readonly #me: Login;
  readonly #outbox: Outbox;
  readonly #loaded = ref(false);
  readonly loaded = readonly(this.#loaded);
  readonly #heard = new Batches<unknown>((values) => {
    this.#hear(values);
  }, BATCH_MS);

  constructor(socket: PrivateSocket, me: Login, marks: ReadMarks) {
    this.#me = me;
    this.#outbox = new Outbox({
      send: async ({ id, to, text }) => {
        const message = { content: text, to, id };
        return readReply(await socket.timeout(REPLY_TIMEOUT_MS).emitWithAck('private message', message));
      },
      store: new JsonStore('sessionStorage', `unsent-private:${me.userID}`),
      onStored: ({ id, to }, at) => {
        this.roster.find(to)?.conversation.stored(id, at);
      },
      onFailed: ({ id, to }, reason) => {
        this.roster.find(to)?.conversation.failed(id, reason);
      },
    });
    this.roster = new Roster(me.userID, (peerID) => {
      const nameOfPeer = () => this.roster.find(peerID)?.name ?? peerID;
      return new PrivateConversation({ peerID, nameOfPeer, me, socket, outbox: this.#outbox, marks });
    });
    this.search = new PeopleSearch(socket);
    for (const unsent of this.#outbox.unsent) this.roster.findOrAdd(unsent.to).conversation.showUnsent(unsent);
    this.#listen(socket);
  }

  #listen(socket: PrivateSocket): void {
    socket.on('connect', () => {
      this.#outbox.resume();
    });
    socket.on('disconnect', () => {
      this.#outbox.pause();
    });
    socket.on('users', (users) => {
      this.#applySnapshot(users);
    });
    socket.on('user connected', (user) => {
      const person = readIntroduction(user);
      if (person) this.roster.introduce(person.userID, person.name, true);
    });
    socket.on('user disconnected', (user) => {
      const userID = idOf(user);
      if (userID !== null) this.roster.leave(userID);
    });
    socket.on('presence', (batch) => {
      for (const { userID, name, connected } of readIntroductions(batch)) {
        if (connected) this.roster.introduce(userID, name, true);
        else this.roster.leave(userID);
      }
    });
    socket.on('private message', (value) => {
      this.#heard.add(value);
    });
  }

  #applySnapshot(users: unknown): void {
    // Messages without ids could not be recognised in what is in the snapshot.
    this.#heard.flush();
    const introductions = readIntroductions(users);
    const introduced = new Set(introductions.map(({ userID }) => userID));
    for (const { userID, name, connected, messages } of introductions) {
      this.roster.introduce(userID, name, connected).conversation.applySnapshot(messages);
    }
    // Whom the server does not tell of is at least nobody of whom it would say that they go.
    for (const { userID } of this.roster.everyone) {
      if (!introduced.has(userID)) this.roster.leave(userID);
    }
    this.#loaded.value = true;
  }

  #hear(values: readonly unknown[]): void {
    const byPeer = new Map<string, PrivateMessage[]>();
    for (const message of readPrivateMessages(values)) {
      const peerID = message.from === this.#me.userID ? message.to : message.from;
      const messages = byPeer.get(peerID);
      if (messages) messages.push(message);
      else byPeer.set(peerID, [message]);
    }
    for (const [peerID, messages] of byPeer) this.roster.findOrAdd(peerID).conversation.hear(messages);
  }
}
