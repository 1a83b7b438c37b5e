import { onScopeDispose, readonly, ref, type Ref } from 'vue';

/** Whether somebody can see the page, not another tab in front of it. */
export function usePageVisible(): Readonly<Ref<boolean>> {
  const visible = ref(document.visibilityState === 'visible');
  const update = () => {
    visible.value = document.visibilityState === 'visible';
  };
  document.addEventListener('visibilitychange', update);
  onScopeDispose(() => {
    document.removeEventListener('visibilitychange', update);
  });
  return readonly(visible);
}
