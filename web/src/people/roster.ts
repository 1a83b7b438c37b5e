import { shallowReactive, shallowRef, type ShallowReactive } from 'vue';
import { coalesce } from '../browser/coalesce';
import type { PrivateConversation } from './privateConversation';

export type Person = ShallowReactive<{
  readonly userID: string;
  name: string;
  connected: boolean;
  readonly conversation: PrivateConversation;
}>;

/** The order of thousands need not be as fresh as their presence. */
const PUBLISH_EVERY_MS = 200;

const { compare } = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });

/** Everyone who is known, in the order of the list: oneself, who is connected, who is not. */
export class Roster {
  readonly #ownID: string;
  readonly #converse: (userID: string) => PrivateConversation;
  readonly #people = shallowReactive(new Map<string, Person>());
  readonly #listed = shallowRef<readonly Person[]>([]);
  #byName: Person[] = [];
  #isSorted = true;

  constructor(ownID: string, converse: (userID: string) => PrivateConversation) {
    this.#ownID = ownID;
    this.#converse = converse;
  }

  get everyone(): Iterable<Person> {
    return this.#people.values();
  }

  get listed(): readonly Person[] {
    return this.#listed.value;
  }

  find(userID: string): Person | undefined {
    return this.#people.get(userID);
  }

  /** Somebody may write before they are introduced: then the name is not known yet. */
  findOrAdd(userID: string, name = userID): Person {
    return this.#people.get(userID) ?? this.#add(userID, name);
  }

  introduce(userID: string, name: string, connected: boolean): Person {
    const person = this.findOrAdd(userID, name);
    if (person.name !== name) {
      person.name = name;
      this.#isSorted = false;
    }
    person.connected = connected;
    this.#publish();
    return person;
  }

  leave(userID: string): void {
    const person = this.#people.get(userID);
    if (!person) return;
    person.connected = false;
    this.#publish();
  }

  #add(userID: string, name: string): Person {
    const conversation = this.#converse(userID);
    const person = shallowReactive({ userID, name, connected: false, conversation });
    this.#people.set(userID, person);
    this.#byName.push(person);
    this.#isSorted = false;
    this.#publish();
    return person;
  }

  readonly #publish = coalesce(() => {
    if (!this.#isSorted) this.#byName.sort((one, other) => compare(one.name, other.name));
    this.#isSorted = true;
    const others = this.#byName.filter((person) => person.userID !== this.#ownID);
    const connected = others.filter((person) => person.connected);
    const away = others.filter((person) => !person.connected);
    const me = this.#people.get(this.#ownID);
    this.#listed.value = [...(me ? [me] : []), ...connected, ...away];
  }, PUBLISH_EVERY_MS);
}
