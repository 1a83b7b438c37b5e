const MANY = 30;
const EMOJI =
  /^(?:\p{Regional_Indicator}{2}|\p{Extended_Pictographic}[\p{Emoji_Modifier}\uFE0F\u{E0020}-\u{E007F}]*(?:\u200D\p{Extended_Pictographic}[\p{Emoji_Modifier}\uFE0F]*)*)+$/u;

/** Whether a message is a few emoji and nothing else. */
export function isEmojiOnly(text: string): boolean {
  if (text.length > 2 * MANY) return false;
  const symbols = text.replace(/\s/g, '');
  return symbols.length <= MANY && EMOJI.test(symbols);
}
