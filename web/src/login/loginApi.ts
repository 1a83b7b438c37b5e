import { idOf, isRecord, textOf } from '../browser/json';
import { Backoff } from '../connection/backoff';
import type { Login } from './login';

/** What the server says why it did not do it, as a sentence for the user. */
export class LoginError extends Error {}

const UNREACHABLE = 'The server cannot be reached. Please try again.';
const UNAVAILABLE = 'The server cannot do this at the moment. Please try again.';

/** Who is logged in; null if nobody is. */
async function fetchLogin(): Promise<Login | null> {
  return readLogin(await requestJson('/login', {}));
}

/** As `fetchLogin`, again and again until the server answers. */
export async function fetchLoginPatiently(onFailure?: () => void): Promise<Login | null> {
  const backoff = new Backoff({ first: 400, longest: 5_000 });
  for (;;) {
    try {
      return await fetchLogin();
    } catch {
      onFailure?.();
      await backoff.wait();
    }
  }
}

export async function logIn(user: string): Promise<Login> {
  const body = JSON.stringify({ user });
  const headers = { 'Content-Type': 'application/json' };
  const login = readLogin(await requestJson('/login', { method: 'POST', headers, body }));
  if (!login) throw new LoginError(UNAVAILABLE);
  return login;
}

/** Ends the session, in every tab. */
export async function logOut(): Promise<void> {
  await requestJson('/logout', {});
}

interface JsonRequest {
  readonly method?: 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

async function requestJson(path: string, request: JsonRequest): Promise<unknown> {
  const headers = { Accept: 'application/json', ...request.headers };
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(path, { ...request, headers, cache: 'no-store' });
    body = await response.json();
  } catch {
    throw new LoginError(UNREACHABLE);
  }
  if (response.ok) return body;
  throw new LoginError(response.status === 400 ? refusalIn(body) : UNAVAILABLE);
}

function refusalIn(body: unknown): string {
  const error = isRecord(body) && isRecord(body.error) ? body.error : {};
  return `The server says: ${textOf(error.message)}`;
}

function readLogin(body: unknown): Login | null {
  if (!isRecord(body)) return null;
  const userID = idOf(body.userID);
  return userID !== null && typeof body.user === 'string' ? { user: body.user, userID } : null;
}
