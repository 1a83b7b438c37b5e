import { computed, defineComponent, h, type VNode } from 'vue';
import { blocksOf, type Block } from './blocks';
import { isEmojiOnly } from './emoji';
import type { Segment } from './segment';
import './messageText.css';

function segmentNode(segment: Segment): VNode | string {
  switch (segment.kind) {
    case 'text':
      return segment.text;
    case 'code':
      return h('code', segment.text);
    case 'link':
      return h('a', { href: segment.href, target: '_blank', rel: 'noopener noreferrer nofollow' }, segment.text);
  }
}

function blockNode(block: Block): VNode {
  // Focusable: code scrolls, and the keyboard has to get at its end.
  if (block.kind === 'code') return h('pre', { tabindex: 0 }, h('code', block.text));
  return h('div', { dir: 'auto' }, block.segments.map(segmentNode));
}

/** What a user wrote. It is nodes of text only: nothing in it can become markup. */
export const MessageText = defineComponent({
  name: 'MessageText',
  props: { text: { type: String, required: true } },
  setup(props) {
    const blocks = computed(() => blocksOf(props.text));
    return () => {
      const classes = ['message-text', { 'message-text-emoji': isEmojiOnly(props.text) }];
      return h('div', { class: classes, 'data-testid': 'message-text' }, blocks.value.map(blockNode));
    };
  },
});
