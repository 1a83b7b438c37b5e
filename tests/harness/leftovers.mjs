// What a test started ends with its file, whatever happened: also when an assertion kept the test from tidying up.
import { after } from 'node:test';
import { childrenOf, isAlive } from './proc.mjs';

const leftovers = new Set();

function endAll() {
  // The newest first: a process before the directory that it works in.
  for (const end of [...leftovers].reverse()) end();
  leftovers.clear();
}

// Behind the last test of the file, so that nothing open keeps the file from ending; and when it is cut short.
// Not in programs, which would report on tests that they do not have.
if (process.env.NODE_TEST_CONTEXT) after(endAll);
process.on('exit', endAll);

/** Calls `end` when the test file ends, unless the returned function was called before: it has ended already. */
export function endsWithUs(end) {
  leftovers.add(end);
  return () => leftovers.delete(end);
}

/** The same for a process and its children. */
export function processEndsWithUs(pid) {
  return endsWithUs(() => {
    if (!isAlive(pid)) return;
    for (const victim of [...childrenOf(pid), pid]) process.kill(victim, 'SIGKILL');
  });
}
