// What /proc tells of processes and their sockets: who serves a connection, what a process costs.
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';

/** Clock ticks a second in /proc/<pid>/stat: 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

function statFields(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The command name, in parentheses, may hold anything: the fields proper begin behind it.
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** Whether the process exists and is not a zombie. */
export function isAlive(pid) {
  try {
    return statFields(pid)[0] !== 'Z';
  } catch {
    return false;
  }
}

/** Whether every thread of the process stands still after a SIGSTOP. */
export function isStopped(pid) {
  return readdirSync(`/proc/${pid}/task`).every((thread) => statFields(`${pid}/task/${thread}`)[0] === 'T');
}

/** The living child processes of a process. */
export function childrenOf(pid) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => {
      try {
        const [state, parent] = statFields(candidate);
        return Number(parent) === pid && state !== 'Z';
      } catch {
        return false; // gone meanwhile
      }
    });
}

/** The living processes that a process started, and those that they started. */
export function descendants(pid) {
  return childrenOf(pid).flatMap((child) => [child, ...descendants(child)]);
}

/** Resident memory in KiB. */
export function residentKiB(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))[1]);
}

/** Memory in KiB, with what is shared divided among those who share it. */
export function proportionalKiB(pid) {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))[1]);
}

/** CPU time used so far, in seconds. */
export function cpuSeconds(pid) {
  const fields = statFields(pid);
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** How many descriptors a process has open. */
export function openDescriptors(pid) {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** The inodes of the sockets that a process holds. */
function socketInodes(pid) {
  const inodes = [];
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode) inodes.push(inode);
    } catch {
      // closed meanwhile
    }
  }
  return inodes;
}

/** "127.0.0.2" and 80 as /proc/net/tcp writes them: the address's bytes in the machine's (little endian) order. */
function hexEndpoint(address, port) {
  const bytes = address.split('.').map(Number).reverse();
  return Buffer.from(bytes).toString('hex').toUpperCase() + ':' + port.toString(16).toUpperCase().padStart(4, '0');
}

/**
 * For each client end, given as `{localAddress, localPort}` (IPv4), the pid among `pids` that holds the
 * server's end of that connection to `serverPort`, or undefined when none does (yet).
 */
export function holdersOf(clientEnds, serverPort, pids) {
  const inodeOf = new Map();
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)) {
    const columns = line.trim().split(/\s+/);
    if (columns.length > 9) inodeOf.set(`${columns[1].split(':')[1]} ${columns[2]}`, columns[9]);
  }
  const pidOf = new Map();
  for (const pid of pids) for (const inode of socketInodes(pid)) pidOf.set(inode, pid);
  const serverHex = serverPort.toString(16).toUpperCase().padStart(4, '0');
  return clientEnds.map((end) => pidOf.get(inodeOf.get(`${serverHex} ${hexEndpoint(end.localAddress, end.localPort)}`)));
}

/** The pid that holds a flock on the file, or undefined. */
export function flockHolder(path) {
  let inode;
  try {
    inode = statSync(path).ino;
  } catch {
    return undefined;
  }
  for (const line of readFileSync('/proc/locks', 'latin1').split('\n')) {
    const [, kind, , , pid, file] = line.trim().split(/\s+/);
    if (kind === 'FLOCK' && Number(file.split(':')[2]) === inode) return Number(pid);
  }
  return undefined;
}

/** The living workers of a runtime directory by worker id, as their locks say, whoever started them. */
export function workersIn(runtimeDir) {
  const workers = new Map();
  for (const name of readdirSync(runtimeDir)) {
    const id = /^worker-(\d+)\.lock$/.exec(name)?.[1];
    const pid = id === undefined ? undefined : flockHolder(`${runtimeDir}/${name}`);
    if (pid !== undefined) workers.set(Number(id), pid);
  }
  return workers;
}
