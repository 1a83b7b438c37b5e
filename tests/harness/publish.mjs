// Publishing from outside over HTTP.
import { request } from './http.mjs';

/** `POST /api/publish`; resolves with `{status, body}`, the body parsed where it is JSON. */
export async function publish(cluster, event, { token, body = JSON.stringify(event), headers = {} } = {}) {
  const answer = await request(cluster, '/api/publish', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...(token ? { Authorization: `Bearer ${token}` } : {}), ...headers },
    body,
  });
  let parsed;
  try {
    parsed = JSON.parse(answer.body);
  } catch {
    parsed = answer.body;
  }
  return { status: answer.status, headers: answer.headers, body: parsed };
}
