// Hosts on one machine: network namespaces, each with a cable to a switch in a namespace of its own. Nothing of it
// touches the machine's own network.
import { spawnSync } from 'node:child_process';
import { endsWithUs } from './leftovers.mjs';

/** The addresses inside. */
const NETWORK = '10.77.0';

function ip(...words) {
  const { status, error, stderr } = spawnSync('ip', words.join(' ').split(' '), { encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`ip ${words.join(' ')}: ${stderr.trim()}`);
}

export class Hosts {
  /** `names`: of the hosts, which get the addresses from .2 on; the switch itself, `hub`, is .1. */
  constructor(names) {
    this.prefix = `cc${process.pid}`;
    this.address = { hub: `${NETWORK}.1` };
    this.end = () => {
      this.tidied?.();
      for (const name of Object.keys(this.address)) spawnSync('ip', ['netns', 'del', this.namespace(name)]);
    };
    this.tidied = endsWithUs(this.end);
    try {
      this.add('hub');
      ip('-n', this.namespace('hub'), 'link add switch type bridge');
      ip('-n', this.namespace('hub'), `addr add ${this.address.hub}/24 dev switch`);
      ip('-n', this.namespace('hub'), 'link set switch up');
      names.forEach((name, n) => {
        this.address[name] = `${NETWORK}.${n + 2}`;
        this.add(name);
        ip(`link add cable netns ${this.namespace(name)} type veth peer name to-${name} netns ${this.namespace('hub')}`);
        ip('-n', this.namespace('hub'), `link set to-${name} master switch up`);
        ip('-n', this.namespace(name), `addr add ${this.address[name]}/24 dev cable`);
        ip('-n', this.namespace(name), 'link set cable up');
      });
    } catch (error) {
      this.end();
      throw error;
    }
  }

  namespace(name) {
    return `${this.prefix}-${name}`;
  }

  add(name) {
    ip('netns add', this.namespace(name));
    ip('-n', this.namespace(name), 'link set lo up');
  }

  /** What to put in front of a command so that it runs on that host; it becomes the command itself. */
  on(name) {
    return ['ip', 'netns', 'exec', this.namespace(name)];
  }

  /** From where to where the ports go that connections from this host have. */
  limitPorts(name, first, last) {
    const [command, ...words] = this.on(name);
    const write = ['sh', '-c', `echo ${first} ${last} > /proc/sys/net/ipv4/ip_local_port_range`];
    const { status, stderr } = spawnSync(command, [...words, ...write], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
  }

  /** Pulls a host's cable, so that packets are lost and nobody is told, or plugs it in again. */
  setCable(name, state) {
    ip('-n', this.namespace('hub'), `link set to-${name} ${state}`);
  }
}

/** Why there can be no hosts here, as the reason to skip a test; false when there can. */
export const NO_HOSTS = (() => {
  if (process.getuid() !== 0) return 'network namespaces are for root';
  try {
    const hosts = new Hosts(['try']);
    const { status, stderr } = spawnSync(hosts.on('try')[0], [...hosts.on('try').slice(1), 'true'], { encoding: 'utf8' });
    hosts.end();
    return status !== 0 && `no command runs in a network namespace: ${stderr.trim()}`;
  } catch (error) {
    return `no network namespaces: ${error.message}`;
  }
})();
