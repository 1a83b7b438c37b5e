// The `users` list, as a log-in gets it.

/** The messages in the list that are to the user: `[from, id]` of each. */
export function messagesTo(userID, users) {
  return users.flatMap(({ messages }) => messages).filter(({ to }) => to === userID).map(({ from, id }) => [from, id]);
}
