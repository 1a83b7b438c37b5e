import { onMounted, onScopeDispose, readonly, ref, watch, type Ref } from 'vue';

/** So close to the end counts as at the end. */
const AT_END_PX = 40;

interface StickyScrollOptions {
  readonly scroller: Readonly<Ref<HTMLElement | null>>;
  readonly list: Readonly<Ref<HTMLElement | null>>;
  /** What changes with each row. */
  readonly rows: Readonly<Ref<unknown>>;
  /** Selects the rows that stay between their neighbours. */
  readonly fixedRows: string;
}

interface StickyScroll {
  readonly atEnd: Readonly<Ref<boolean>>;
  readonly toEnd: () => void;
  /** To be called when the reader scrolls. */
  readonly update: () => void;
}

/**
 * Keeps what the reader sees where it is when the rows change: the end of the list if that is in
 * view, else the first row in view.
 */
export function useStickyScroll({ scroller, list, rows, fixedRows }: StickyScrollOptions): StickyScroll {
  const atEnd = ref(true);
  let last = { top: 0, height: 0 };
  let anchor: { row: Element; top: number } | null = null;

  function toEnd(): void {
    atEnd.value = true;
    if (!scroller.value) return;
    scroller.value.scrollTop = scroller.value.scrollHeight;
    last = { top: scroller.value.scrollTop, height: scroller.value.clientHeight };
  }

  function update(): void {
    if (!scroller.value) return;
    const { scrollHeight, scrollTop: top, clientHeight: height } = scroller.value;
    // The browser scrolls by itself when the place becomes larger.
    const readerWentUp = top < last.top && height === last.height;
    last = { top, height };
    if (scrollHeight - top - height < AT_END_PX) atEnd.value = true;
    else if (readerWentUp) atEnd.value = false;
    // The end went away from the reader, who did nothing.
    else stayAtEnd();
  }

  function firstRowInView(): Element | undefined {
    const top = scroller.value?.getBoundingClientRect().top ?? 0;
    const fixed = Array.from(list.value?.querySelectorAll(fixedRows) ?? []);
    return fixed.find((row) => row.getBoundingClientRect().bottom > top);
  }

  function stayAtEnd(): void {
    if (atEnd.value) toEnd();
  }

  watch(
    rows,
    () => {
      const row = atEnd.value ? undefined : firstRowInView();
      anchor = row ? { row, top: row.getBoundingClientRect().top } : null;
    },
    { flush: 'pre' },
  );

  watch(
    rows,
    () => {
      stayAtEnd();
      if (!scroller.value || !anchor?.row.isConnected) return;
      scroller.value.scrollTop += anchor.row.getBoundingClientRect().top - anchor.top;
    },
    { flush: 'post' },
  );

  const sizes = new ResizeObserver(stayAtEnd);
  onMounted(() => {
    if (scroller.value) sizes.observe(scroller.value);
    if (list.value) sizes.observe(list.value);
    toEnd();
  });
  onScopeDispose(() => {
    sizes.disconnect();
  });

  return { atEnd: readonly(atEnd), toEnd, update };
}
