/** Runs `task` soon after a call, once for all calls of the same moment, and then no sooner than `pause` after. */
export function coalesce(task: () => void, pause: number): () => void {
  let waiting = false;
  let lastRun = -Infinity;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(
      () => {
        waiting = false;
        lastRun = performance.now();
        task();
      },
      Math.max(0, lastRun + pause - performance.now()),
    );
  };
}
