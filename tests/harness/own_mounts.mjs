// Commands with mounts that only they see and that end with them, for root and for everybody else.
import { spawnSync } from 'node:child_process';

/** Who is not root becomes it in a user namespace, of this one user. */
const UNSHARE = ['unshare', '--mount', ...(process.getuid() === 0 ? [] : ['--user', '--map-root-user'])];

/**
 * What to put in front of a command (see `wrapper` of `Run`): makes the mounts, a shell command, and then becomes
 * the command itself. `words` are the shell's $1, $2 and so on.
 */
export function withOwnMounts(mounts, ...words) {
  return [...UNSHARE, '--', 'sh', '-ec', `${mounts}; shift ${words.length}; exec "$@"`, 'sh', ...words];
}

/** Why this machine forbids it, as the reason to skip a test; false when it does not. */
export const NO_OWN_MOUNTS = (() => {
  const tried = spawnSync('sh', ['-c', '"$@"', 'sh', ...withOwnMounts('mount -t tmpfs tmpfs /mnt'), 'true'], { encoding: 'utf8' });
  return tried.status !== 0 && `no mounts of its own here, neither as root nor in a user namespace: ${tried.stderr.trim()}`;
})();

/** A path as the process with these mounts sees it, for us. */
export function seenBy(pid, path) {
  return `/proc/${pid}/root${path}`;
}
