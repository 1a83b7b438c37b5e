// A disk of a test's own: an ext4 image in a file, mounted through the loop device, which needs root.
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryDirectory } from './cluster.mjs';
import { endsWithUs } from './leftovers.mjs';

const IMAGE_BYTES = 512 * 1024 * 1024;

/** Runs a command; returns what went wrong, if anything did. */
export function run(command, ...args) {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
  return status === 0 ? undefined : `${command}: ${error ?? stderr}`.trim();
}

/** Mounts an image; returns `{path}`, or why it `failed`. Its file system hands to the disk what it is told to, and nothing else soon. */
export function mount(image, name) {
  const path = join(temporaryDirectory(), name);
  mkdirSync(path);
  const failed = run('mount', '-o', 'loop,commit=300', image, path);
  if (!failed) endsWithUs(() => run('umount', '--lazy', path));
  return failed ? { failed } : { path };
}

/** A new disk, as `{image, path}`, or why this machine has none, as `{failed}`. */
export function newDisk() {
  const image = join(temporaryDirectory(), 'disk');
  const file = openSync(image, 'w');
  ftruncateSync(file, IMAGE_BYTES);
  closeSync(file);
  endsWithUs(() => rmSync(image, { force: true }));
  const failed = run('mkfs.ext4', '-q', image);
  return failed ? { failed } : { image, ...mount(image, 'mounted') };
}

/** From now on whatever writes there waits, until the returned function is called. */
export function pauseDisk(path) {
  const failed = run('fsfreeze', '--freeze', path);
  if (failed) throw new Error(failed);
  const thaw = () => run('fsfreeze', '--unfreeze', path);
  // Nobody who waits for it can be ended.
  const tidied = endsWithUs(thaw);
  return () => {
    tidied();
    const stuck = thaw();
    if (stuck) throw new Error(stuck);
  };
}
