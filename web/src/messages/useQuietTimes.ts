import { onScopeDispose, readonly, ref, watch, type Ref } from 'vue';

/** Screen readers look at what is new a moment after it is there. */
const QUIET_MS = 500;

/** True for a moment, from now on and after each change: what comes then is not to be read aloud. */
export function useQuietTimes(changes: () => unknown): Readonly<Ref<boolean>> {
  const quiet = ref(false);
  let timer: ReturnType<typeof setTimeout> | undefined;

  function begin(): void {
    quiet.value = true;
    clearTimeout(timer);
    timer = setTimeout(() => {
      quiet.value = false;
    }, QUIET_MS);
  }

  begin();
  watch(changes, begin, { flush: 'sync' });
  onScopeDispose(() => {
    clearTimeout(timer);
  });
  return readonly(quiet);
}
