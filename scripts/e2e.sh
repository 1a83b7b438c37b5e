#!/usr/bin/env bash
# The end-to-end tests on the binary named by BINARY: all, first on the embedded store and then on Redis, or
# the spec files given (paths inside tests/), each on the stores it is for. TEST_STORE=embedded or redis
# restricts them to one.
#
# Specs named embedded_* and redis_* are about that store; all others have to hold on both.
set -euo pipefail
cd "$(dirname "$0")/../tests"

if [ $# -eq 0 ]; then
  set -- specs/*.test.mjs
fi
export CHAT_CLUSTER_BINARY="${BINARY:-$PWD/../target/release/chat-cluster}"
status=0
for store in ${TEST_STORE:-embedded redis}; do
  specs=()
  for spec in "$@"; do
    case $store:${spec##*/} in
      embedded:redis_* | redis:embedded_*) ;;
      *) specs+=("$spec") ;;
    esac
  done
  if [ ${#specs[@]} -eq 0 ]; then
    continue
  fi
  echo "End to end on the store: $store"
  # One file at a time: some measure how evenly load is spread, and each starts a cluster of its own.
  TEST_STORE=$store node --test --test-concurrency=1 --test-timeout=240000 --test-reporter=spec "${specs[@]}" || status=1
done
exit "$status"
