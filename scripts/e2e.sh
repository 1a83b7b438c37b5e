#!/usr/bin/env bash
# The end-to-end tests on the binary named by BINARY: all, or the spec files given (paths inside tests/).
set -euo pipefail
cd "$(dirname "$0")/../tests"

if [ $# -eq 0 ]; then
  set -- specs/*.test.mjs
fi
# One file at a time: some measure how evenly load is spread, and each starts a cluster of its own.
CHAT_CLUSTER_BINARY="${BINARY:-$PWD/../target/release/chat-cluster}" \
  exec node --test --test-concurrency=1 --test-timeout=240000 --test-reporter=spec "$@"
