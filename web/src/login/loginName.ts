const MAX_CHARACTERS = 64;

/** Why nobody can log in under this name, which has no spaces around it; null if one can. */
export function problemOfName(name: string): string | null {
  if (name === '') return 'Please give a name.';
  if (Array.from(name).length > MAX_CHARACTERS) return `Please give a name of at most ${MAX_CHARACTERS} characters.`;
  return null;
}
