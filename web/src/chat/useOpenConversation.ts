import { onScopeDispose, readonly, ref, type Ref } from 'vue';
import { isRecord } from '../browser/json';
import { LOBBY } from '../lobby/lobby';

const LIST = '#list';
const PERSON = '#with-';
const FROM_LIST = { fromList: true };

export interface OpenConversation {
  /** The key of the conversation; null: only the list is open. */
  readonly open: Readonly<Ref<string | null>>;
  readonly show: (key: string) => void;
  readonly showList: () => void;
}

/** Which conversation is open: a refresh keeps it, and the browser's own "back" leads to the list. */
export function useOpenConversation(): OpenConversation {
  const open = ref(keyIn(location.hash));

  function show(key: string): void {
    if (key === open.value) return;
    if (open.value === null) history.pushState(FROM_LIST, '', hashOf(key));
    else history.replaceState(history.state, '', hashOf(key));
    open.value = key;
  }

  function showList(): void {
    open.value = null;
    if (isFromList(history.state)) history.back();
    else history.replaceState(null, '', LIST);
  }

  const readHash = () => {
    open.value = keyIn(location.hash);
  };
  window.addEventListener('popstate', readHash);
  onScopeDispose(() => {
    window.removeEventListener('popstate', readHash);
    // Whoever logs in next begins in the lobby.
    history.replaceState(null, '', location.pathname + location.search);
  });
  return { open: readonly(open), show, showList };
}

function keyIn(hash: string): string | null {
  if (hash === LIST) return null;
  return hash.startsWith(PERSON) ? hash.slice(PERSON.length) : LOBBY;
}

function hashOf(key: string): string {
  return key === LOBBY ? '#lobby' : PERSON + key;
}

function isFromList(state: unknown): boolean {
  return isRecord(state) && state.fromList === true;
}
