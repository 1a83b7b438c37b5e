import js from '@eslint/js';
import globals from 'globals';

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: 'module', globals: globals.node },
    rules: {
      eqeqeq: 'error',
      'no-var': 'error',
      'object-shorthand': 'error',
      'prefer-const': 'error',
      'require-await': 'error',
      'no-unused-vars': ['error', { args: 'after-used', caughtErrors: 'all' }],
    },
  },
  // Parts of these run inside of a page.
  { files: ['specs/page_*.mjs'], languageOptions: { globals: { ...globals.node, ...globals.browser } } },
];
