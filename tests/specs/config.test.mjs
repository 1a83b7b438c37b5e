// The file of `--config` beneath environment and flags, and the commands that look at it.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ChatUser } from '../harness/client.mjs';
import { Cluster, emptyStore, STORE, temporaryDirectory } from '../harness/cluster.mjs';
import { finished } from '../harness/run.mjs';

/** The lines of `config print` by option: `{value, source}`, without those that are not set. */
function shown(stdout) {
  const lines = stdout.split('\n').map((line) => /^(?:# )?([a-z-]+)(?: = (.*?))? +# (.*)$/.exec(line));
  return new Map(lines.filter(Boolean).filter(([, , value]) => value).map(([, option, value, source]) => [option, { value, source }]));
}

test('a cluster runs by its file; what is changed there holds after an upgrade and a reload', async (t) => {
  const directory = temporaryDirectory();
  const file = join(directory, 'chat-cluster.toml');
  const { redis, dataDir } = await emptyStore(t);
  const secret = join(directory, 'redis-url');
  if (redis) writeFileSync(secret, `${redis.url}\n`);
  const write = (messageMax) =>
    writeFileSync(
      file,
      `workers = 2
listen = ["127.0.0.1:0"]
runtime_dir = "${join(directory, 'run')}"
${redis ? `redis-file = "${secret}"` : `data-dir = "${dataDir}"`}
${STORE === 'redis-cluster-sharded' ? 'sharded-pubsub = true' : ''}
message-max = ${messageMax}
drain-time = "1s"
`,
    );
  write(10);
  const cluster = new Cluster(['--config', file, '--workers', '1'], { runtimeDir: join(directory, 'run') });
  t.after(() => cluster.stop());
  await cluster.ready();
  assert.equal(cluster.workerPids().length, 1, 'the flag wins');
  const ann = await ChatUser.logIn(cluster, { username: 'ann' });
  t.after(() => ann.close());
  assert.equal((await ann.send(ann, 'x'.repeat(10))).ok, true);
  assert.equal((await ann.send(ann, 'x'.repeat(11))).ok, false);

  write(20);
  for (const command of ['upgrade', 'reload']) {
    const { code, stderr } = await finished([command, '--runtime-dir', cluster.runtimeDir]);
    assert.equal(code, 0, stderr);
  }
  const bob = await ChatUser.logIn(cluster, { username: 'bob' });
  t.after(() => bob.close());
  assert.equal((await bob.send(bob, 'x'.repeat(20))).ok, true);

  // A file with a mistake changes nothing.
  writeFileSync(file, 'workers = 2\nmesage-max = 30\n');
  const { code, stderr } = await finished(['upgrade', '--runtime-dir', cluster.runtimeDir]);
  assert.equal(code, 1);
  assert.match(stderr, /line 2: there is no option mesage-max; did you mean message-max\?/);
  assert.equal((await bob.send(bob, 'still here')).ok, true);
});

test('check and print tell what is wrong and where each value comes from', async () => {
  const directory = temporaryDirectory();
  const file = join(directory, 'c.toml');
  const secret = join(directory, 'secret');
  writeFileSync(secret, 'correct horse battery staple\n');
  writeFileSync(file, `workers = 3\nredis = "redis://ann:sesame@10.0.0.9"\nmessage-ttl = "7d"\nping-interval-ms = 5000\ncluster-secret-file = "${secret}"\n`);
  const flags = ['--config', file, '--workers', '5', '--publish-token', 'abc'];
  const env = { CHAT_CLUSTER_MESSAGE_TTL: '8d', PORT: '4000' };
  const printed = await finished([...flags, 'config', 'print'], { env });
  assert.equal(printed.code, 0, printed.stderr);
  const values = shown(printed.stdout);
  assert.deepEqual(values.get('workers'), { value: '5', source: '--workers' });
  assert.deepEqual(values.get('message-ttl'), { value: '"8d"', source: '$CHAT_CLUSTER_MESSAGE_TTL' });
  assert.deepEqual(values.get('listen'), { value: '["0.0.0.0:4000"]', source: '$PORT' });
  assert.deepEqual(values.get('ping-interval-ms'), { value: '5000', source: `${file}:4` });
  assert.deepEqual(values.get('message-max'), { value: '65536', source: 'default' });
  assert.equal(values.get('redis').value, '"redis://ann:(hidden)@10.0.0.9"');
  assert.equal(values.get('publish-token').value, '(hidden)');
  for (const hidden of ['sesame', 'abc', 'horse']) assert.ok(!printed.stdout.includes(hidden), hidden);
  // What it prints is such a file, and says the same.
  const again = join(directory, 'again.toml');
  writeFileSync(again, printed.stdout);
  const second = shown((await finished(['--config', again, 'config', 'print'])).stdout);
  second.forEach(({ value }, option) => assert.equal(value, values.get(option)?.value, option));
  assert.equal((await finished(['config', 'check', '--config', again])).code, 0);

  const check = async (text, ...args) => {
    writeFileSync(file, text);
    const { code, stdout, stderr } = await finished(['--config', file, ...args, 'config', 'check']);
    assert.ok(code === 0 || stderr.trimEnd().split('\n').length === 1, stderr);
    return [code, code === 0 ? stdout : stderr];
  };
  assert.deepEqual(await check('workers = 2'), [0, 'the configuration is good\n']);
  for (const [text, why, code = 2] of [
    ['wrokers = 2', /line 1: there is no option wrokers; did you mean workers\?/],
    ['\nworkers = "many"', /line 2: invalid value 'many' for '--workers <N>'/],
    ['workers = ', /line 1: /],
    ['cluster-secret-file = "/nowhere"', /--cluster-secret-file \/nowhere: No such file/],
    ['redis = "redis://a"\nredis-file = "/nowhere"', /--redis and --redis-file are both given/],
    ['advertise = "10.0.0.1:7000"', /--advertise needs --cluster-secret/],
    ['tls-cert = "/nowhere"', /--tls-cert and --tls-key go together/],
    ['tls-cert = "/nowhere"\ntls-key = "/nowhere"', /\/nowhere/, 1],
  ]) {
    const [found, said] = await check(text);
    assert.equal(found, code, said);
    assert.match(said, why);
  }
});
