// The rules of the tests.
export { default } from '../../../tests/eslint.config.mjs';
