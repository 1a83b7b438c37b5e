export const MAX_MESSAGE_BYTES = 65_536;

const MAX_BYTES_PER_UNIT = 3;
const encoder = new TextEncoder();

export function isTooLong(text: string): boolean {
  // Counting is not free, and this is asked at every key stroke.
  if (text.length * MAX_BYTES_PER_UNIT <= MAX_MESSAGE_BYTES) return false;
  return encoder.encode(text).length > MAX_MESSAGE_BYTES;
}
