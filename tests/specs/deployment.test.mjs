// The files that others deploy from: as far as they can be checked where they were written.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryDirectory } from '../harness/cluster.mjs';
import { BINARY, CHECKOUT, finished, Run } from '../harness/run.mjs';

const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;
const unit = readFileSync(join(CHECKOUT, 'packaging/systemd/chat-cluster.service'), 'utf8');

/** The value of a setting that is given once. */
const setting = (name) => new RegExp(`^${name}=(.*)$`, 'm').exec(unit)?.[1];

test('systemd accepts the unit and finds it hardened', { skip: !hasSystemd && 'no systemd-analyze here' }, (t) => {
  const directory = temporaryDirectory();
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'chat-cluster.service');
  // The binary is not installed here; another that is stands in, and nothing else is changed.
  writeFileSync(path, unit.replaceAll('=/usr/bin/chat-cluster', `=${BINARY}`));
  const socket = join(directory, 'chat-cluster.socket');
  copyFileSync(join(CHECKOUT, 'packaging/systemd/chat-cluster.socket'), socket);
  const verify = spawnSync('systemd-analyze', ['verify', '--man=no', path, socket], { encoding: 'utf8' });
  assert.equal(verify.status, 0, verify.stderr);
  assert.equal(verify.stderr.trim(), '', 'not even a warning');
  const security = spawnSync('systemd-analyze', ['security', '--offline=true', '--threshold=20', path], { encoding: 'utf8' });
  assert.equal(security.status, 0, `exposure above 2.0:\n${security.stdout}`);
});

test('the unit lets workers outlive their master, and ends them through it', () => {
  assert.equal(setting('ExecStart'), '/usr/bin/chat-cluster');
  assert.equal(setting('ExecReload'), '/usr/bin/chat-cluster reload');
  assert.equal(setting('Type'), 'notify');
  assert.equal(setting('KillMode'), 'process');
  assert.equal(setting('RuntimeDirectory'), 'chat-cluster');
  assert.equal(setting('RuntimeDirectoryPreserve'), 'restart');
  assert.equal(setting('OOMPolicy'), 'continue');
  assert.ok(Number(setting('LimitNOFILE')) >= 65_536);
  assert.ok(Number(setting('TimeoutStopSec')) > 10, 'longer than a stop takes');
  assert.ok(unit.includes('Environment=CHAT_CLUSTER_RUNTIME_DIR=%t/chat-cluster'));
});

test('the binary reads the variables that the compose file, the image and the unit set', async () => {
  const help = new Run(['--help']);
  await help.ended;
  const files = ['docker-compose.yml', 'Dockerfile', 'packaging/systemd/chat-cluster.service'];
  const named = files.flatMap((file) => readFileSync(join(CHECKOUT, file), 'utf8').match(/\b(CHAT_CLUSTER_[A-Z_]+|REDIS_URL|PORT)(?=[=:])/g));
  assert.ok(named.length >= 4);
  for (const variable of new Set(named)) assert.ok(help.stdout.includes(variable), variable);
});

test('the composition for two hosts starts nodes that accept its settings, and a balancer that accepts its file', async () => {
  const file = readFileSync(join(CHECKOUT, 'packaging/docker/two-hosts.yml'), 'utf8');
  const directory = temporaryDirectory();
  const secrets = { 'redis-url': 'redis://:password@redis:6379', 'cluster-secret': 'correct horse battery staple' };
  for (const [name, text] of Object.entries(secrets)) writeFileSync(join(directory, name), `${text}\n`);
  const variables = [...file.matchAll(/^ +((?:CHAT_CLUSTER|PORT)\w*): (.+)$/gm)].map(([, name, value]) => [name, value.replace('/run/secrets', directory)]);
  assert.deepEqual(variables.filter(([name]) => name === 'CHAT_CLUSTER_NODE_NAME').map(([, value]) => value), ['node-1', 'node-2']);
  // Of the second node, since what comes later wins; PORT is the image's.
  const { code, stderr } = await finished(['config', 'check'], { env: { PORT: '3000', ...Object.fromEntries(variables) } });
  assert.equal(code, 0, stderr);
  const checked = spawnSync('haproxy', ['-c', '-f', join(CHECKOUT, 'packaging/docker/haproxy.cfg')], { encoding: 'utf8' });
  assert.equal(checked.status, 0, checked.stderr);
});

test('the file of options that packages install is one, as it is and with every line in it used', async () => {
  const text = readFileSync(join(CHECKOUT, 'packaging/chat-cluster.toml'), 'utf8');
  const directory = temporaryDirectory();
  const [as, used] = ['as-it-is.toml', 'used.toml'].map((name) => join(directory, name));
  writeFileSync(as, text);
  writeFileSync(join(directory, 'redis-url'), 'redis://:password@10.0.0.9:6379');
  // All but the certificate, which is not there.
  writeFileSync(used, text.replaceAll(/^#(?=[a-z-]+ = )/gm, '').replaceAll(/^tls-.*$/gm, '').replace('/etc/chat-cluster', directory));
  for (const file of [as, used]) {
    const { code, stderr } = await finished(['--config', file, 'config', 'check']);
    assert.equal(code, 0, stderr);
  }
  const { stdout } = await finished(['--config', used, 'config', 'print']);
  assert.match(stdout, /^redis-file = .*used\.toml:\d+$/m);
  // What is in the file stays there, and what was printed is such a file again.
  assert.match(stdout, /^# redis +# not set$/m);
  writeFileSync(used, stdout);
  assert.equal((await finished(['--config', used, 'config', 'check'])).code, 0);
});

test('the README\'s app of one\'s own is the one that is built with the examples', () => {
  const readme = readFileSync(join(CHECKOUT, 'README.md'), 'utf8');
  const program = readFileSync(join(CHECKOUT, 'examples/your-own-app/src/bin/smallest.rs'), 'utf8');
  assert.ok(readme.includes(`\`\`\`rust\n${program}\`\`\`\n`), 'put smallest.rs into the README');
});
