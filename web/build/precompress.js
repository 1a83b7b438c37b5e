import { readdir, readFile, writeFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

const TEXT = new Set(['.css', '.html', '.js', '.json', '.svg', '.txt', '.webmanifest']);
const WORTHWHILE_BYTES = 1000;

const brotliOptions = {
  params: {
    [constants.BROTLI_PARAM_MODE]: constants.BROTLI_MODE_TEXT,
    [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
  },
};
const gzipOptions = { level: constants.Z_BEST_COMPRESSION };

/**
 * Puts `.br` and `.gz` beside each text file of the build, so that the server compresses nothing.
 *
 * @returns {import('vite').Plugin}
 */
export function precompress() {
  let directory = '';
  return {
    name: 'precompress',
    apply: 'build',
    configResolved(config) {
      directory = join(config.root, config.build.outDir);
    },
    async closeBundle(error) {
      if (error) return;
      const entries = await readdir(directory, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile() && TEXT.has(extname(entry.name)));
      await Promise.all(files.map((file) => compress(join(file.parentPath, file.name))));
    },
  };
}

/** @param {string} path */
async function compress(path) {
  const text = await readFile(path);
  if (text.length <= WORTHWHILE_BYTES) return;
  await Promise.all([
    writeFile(`${path}.br`, await promisify(brotliCompress)(text, brotliOptions)),
    writeFile(`${path}.gz`, await promisify(gzip)(text, gzipOptions)),
  ]);
}
