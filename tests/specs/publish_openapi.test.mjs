// The HTTP interface is what its own OpenAPI document says, as schemathesis finds it.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { startCluster } from '../harness/cluster.mjs';
import { processEndsWithUs } from '../harness/leftovers.mjs';
import { CHECKOUT } from '../harness/run.mjs';
import { within } from '../harness/wait.mjs';

const TOKEN = 'a-token-of-this-test';
const SCHEMATHESIS = process.env.SCHEMATHESIS ?? join(CHECKOUT, 'target/tools/schemathesis/bin/schemathesis');

/** Runs it with a fixed seed; what it reports when it finds something. */
async function schemathesis(cluster, ...args) {
  if (!existsSync(SCHEMATHESIS)) throw new Error(`${SCHEMATHESIS} does not exist: make tools-schemathesis`);
  const process = spawn(
    SCHEMATHESIS,
    [
      ...['run', `${cluster.url}/api/openapi.json`, '--seed', '20', '--phases', 'examples,coverage,fuzzing'],
      ...['--checks', 'all', '--warnings', 'off', '--no-color', ...args],
    ],
    // It keeps what it found in the folder where it is started.
    { cwd: cluster.runtimeDir, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const tidied = processEndsWithUs(process.pid);
  let output = '';
  for (const stream of [process.stdout, process.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  const code = await within(new Promise((resolve) => process.once('close', resolve)), 'schemathesis ends', 180_000);
  tidied();
  return { code, output };
}

test('every answer is a documented one, and none is a server error', async (t) => {
  const cluster = await startCluster({ workers: 2, args: ['--publish-token', TOKEN], t });
  const { code, output } = await schemathesis(cluster, '--max-examples', '500', '--header', `Authorization: Bearer ${TOKEN}`);
  assert.equal(code, 0, output);
  const [, generated] = /(\d+) generated/.exec(output);
  assert.ok(Number(generated) >= 500, output);
});

test('without the token all of it is refused in the documented way', async (t) => {
  const cluster = await startCluster({ workers: 1, args: ['--publish-token', TOKEN], t });
  const { code, output } = await schemathesis(cluster, '--max-examples', '50', '--exclude-checks', 'positive_data_acceptance');
  assert.equal(code, 0, output);
});

test('without any token there is nothing to publish at', async (t) => {
  const cluster = await startCluster({ workers: 1, t });
  const { code, output } = await schemathesis(cluster, '--max-examples', '50', '--exclude-checks', 'positive_data_acceptance,ignored_auth,missing_required_header');
  assert.equal(code, 0, output);
});
