import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vite';
import { precompress } from './build/precompress.js';

const server = 'http://localhost:3000';

export default defineConfig({
  plugins: [vue(), precompress()],
  build: {
    // The Content-Security-Policy allows no data: URLs.
    assetsInlineLimit: 0,
    // Everything is in one chunk: there is nothing to preload.
    modulePreload: false,
    sourcemap: false,
  },
  server: {
    proxy: {
      '/socket.io': { target: server, ws: true },
      '/login': server,
      '/logout': server,
    },
  },
  test: {
    include: ['src/**/*.test.ts'],
    environment: 'node',
  },
});
