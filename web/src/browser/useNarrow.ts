import { onScopeDispose, readonly, ref, type Ref } from 'vue';

/** Whether list and conversation do not fit side by side; the style sheets say the same. */
export function useNarrow(): Readonly<Ref<boolean>> {
  const query = window.matchMedia('(width < 45rem)');
  const narrow = ref(query.matches);
  const update = () => {
    narrow.value = query.matches;
  };
  query.addEventListener('change', update);
  onScopeDispose(() => {
    query.removeEventListener('change', update);
  });
  return readonly(narrow);
}
