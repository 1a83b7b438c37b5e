import { readonly, shallowRef, type DeepReadonly, type Ref } from 'vue';
import type { Login } from './login';
import { fetchLoginPatiently, logOut as requestLogOut } from './loginApi';

export type LoginState =
  | { readonly phase: 'asking'; readonly serverAnswers: boolean }
  | { readonly phase: 'loggedOut'; readonly notice: string }
  | { readonly phase: 'loggedIn'; readonly login: Login };

export interface LoginSession {
  readonly state: DeepReadonly<Ref<LoginState>>;
  readonly enter: (login: Login) => void;
  /** What the server says now about a session that was interrupted: another one, or null for none. */
  readonly replace: (login: Login | null) => void;
  readonly logOut: () => Promise<void>;
}

const ENDED = 'You have been logged out, in another tab or by the server.';

/** Whether somebody is logged in. The server knows; scripts cannot read its cookie. */
export function useLogin(): LoginSession {
  const state = shallowRef<LoginState>({ phase: 'asking', serverAnswers: true });
  let loggingOut = false;

  function enter(login: Login): void {
    state.value = { phase: 'loggedIn', login };
  }

  function leave(notice: string): void {
    state.value = { phase: 'loggedOut', notice };
  }

  function replace(login: Login | null): void {
    if (login) enter(login);
    else leave(loggingOut ? '' : ENDED);
  }

  async function ask(): Promise<void> {
    const login = await fetchLoginPatiently(() => {
      state.value = { phase: 'asking', serverAnswers: false };
    });
    if (login) enter(login);
    else leave('');
  }

  async function logOut(): Promise<void> {
    loggingOut = true;
    try {
      await requestLogOut();
      leave('');
    } finally {
      loggingOut = false;
    }
  }

  void ask();
  return { state: readonly(state), enter, replace, logOut };
}
