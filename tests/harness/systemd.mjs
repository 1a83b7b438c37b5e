// A real systemd as the first process of namespaces of its own: with directories for temporary files and units that are empty,
// and layers over what packages are installed into, all of which end with it. It shares the network and the processors. Root only.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { endsWithUs, processEndsWithUs } from './leftovers.mjs';
import { until, within } from './wait.mjs';

const SYSTEMD = '/lib/systemd/systemd';

/** A hierarchy that systemd may have for itself; only where the machine's own is of this kind. */
const HIERARCHY = '/sys/fs/cgroup/systemd';

/** All the units that there are, besides those that a test installs: none that would touch the machine. */
const UNITS = ['bare', 'basic', 'sysinit', 'shutdown', 'sockets', 'multi-user', 'network-online'].map((name) => `${name}.target`);

/** Prepares the namespaces, and becomes systemd. $1: a directory of ours. */
const BOOT = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for place in etc usr/bin usr/share usr/lib/sysusers.d var/lib; do
  layer=$1/$place
  mkdir -p "$layer/upper" "$layer/work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$layer/upper,workdir=$layer/work" "/$place"
done
for place in /run /tmp /var/tmp /etc/systemd/system /usr/lib/systemd/system; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
for unit in ${UNITS.join(' ')}; do
  printf '[Unit]\nDescription=Of a test\nDefaultDependencies=no\n' > "/usr/lib/systemd/system/$unit"
done
umount -R /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd
exec env -i container=test PATH="$PATH" ${SYSTEMD} --system --unit=bare.target --log-target=console`;

/** Why it cannot be had here; undefined if it can. */
export function whyNoSystemd() {
  if (process.getuid() !== 0) return 'only root can start a systemd';
  if (!existsSync(SYSTEMD) || spawnSync('unshare', ['--version']).status !== 0) return 'no systemd is installed';
  if (!existsSync(HIERARCHY)) return 'the machine has no cgroup hierarchy of the first version for systemd';
  const overlay = spawnSync('unshare', ['-m', 'sh', '-c', 'd=$(mktemp -d) && mount -t tmpfs tmpfs $d && mkdir $d/u $d/w && mount -t overlay overlay -o lowerdir=/etc,upperdir=$d/u,workdir=$d/w /etc; r=$?; umount $d; rmdir $d; exit $r']);
  return overlay.status === 0 ? undefined : 'no overlay file systems can be mounted';
}

export class Systemd {
  static async start(t, directory) {
    const systemd = new Systemd();
    systemd.cgroup = `${HIERARCHY}/chat-cluster-test-${process.pid}`;
    mkdirSync(systemd.cgroup);
    const script = `echo $$ > ${systemd.cgroup}/tasks; exec unshare -m -p -f -C --mount-proc --kill-child sh -c "$0" sh "$1"`;
    systemd.process = spawn('sh', ['-c', script, BOOT, directory], { stdio: ['ignore', 'pipe', 'pipe'] });
    systemd.tidied = processEndsWithUs(systemd.process.pid);
    systemd.output = '';
    for (const stream of [systemd.process.stdout, systemd.process.stderr]) stream.on('data', (text) => (systemd.output += text));
    endsWithUs(() => systemd.removeCgroup());
    t.after(() => systemd.stop());
    const isUp = async () => (await systemd.run('systemctl', 'is-active', 'bare.target')).code === 0;
    await until(isUp, 'systemd is up').catch((error) => {
      throw new Error(`${error.message}\n${systemd.output}`, { cause: error });
    });
    return systemd;
  }

  /** Its pid here: the child of `unshare`. */
  get pid() {
    const { pid } = this.process;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ')[0]);
  }

  /** Runs a command beside it: `{code, stdout, stderr}`. */
  async run(...words) {
    return await new Promise((resolve) => {
      const entered = ['-t', String(this.pid), '-m', '-p', '-C', ...words];
      const child = execFile('nsenter', entered, { timeout: 120_000 }, (error, stdout, stderr) => resolve({ code: error ? error.code : 0, stdout, stderr }));
      child.stdin.end();
    });
  }

  /** The same; throws unless it succeeds. Its output. */
  async must(...words) {
    const { code, stdout, stderr } = await this.run(...words);
    if (code !== 0) throw new Error(`${words.join(' ')}: ${code} ${stdout}${stderr}\n${this.output.slice(-3_000)}`);
    return stdout.trim();
  }

  /** Copies a file into its world. */
  async install(from, to, mode = '644') {
    await this.write(readFileSync(from), to, mode);
  }

  /** Writes a file there, as an installer does: what runs from an old one is not disturbed. */
  async write(content, to, mode = '644') {
    const script = 'mkdir -p "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"';
    const words = ['-t', String(this.pid), '-m', '-p', 'sh', '-c', script, 'sh', to, mode];
    const child = spawn('nsenter', words, { stdio: ['pipe', 'ignore', 'inherit'] });
    child.stdin.end(content);
    const [code] = await within(once(child, 'exit'), `${to} is written`);
    if (code !== 0) throw new Error(`${to} cannot be written`);
  }

  /** A property of a unit. */
  async property(unit, name) {
    return await this.must('systemctl', 'show', '--value', '-p', name, unit);
  }

  /** The groups of units that ended with it stay until they are removed, from the innermost. */
  removeCgroup() {
    const remove = (directory) => {
      for (const entry of readdirSync(directory, { withFileTypes: true })) if (entry.isDirectory()) remove(join(directory, entry.name));
      rmdirSync(directory);
    };
    try {
      remove(this.cgroup);
    } catch {
      // Gone already, or its processes are not yet.
    }
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const exited = once(this.process, 'exit');
      // The namespace's first process takes all others with it.
      process.kill(this.pid, 'SIGKILL');
      await within(exited, 'systemd ends');
    }
    this.tidied();
    await until(() => (this.removeCgroup(), !existsSync(this.cgroup)), 'its control group is removed');
  }
}
