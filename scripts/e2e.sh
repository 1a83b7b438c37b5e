#!/usr/bin/env bash
# The end-to-end tests on the binary named by BINARY: all, on the embedded store, on Redis and on a Redis Cluster, or the spec files
# given (paths inside tests/), each on the stores it is for. TEST_STORE=embedded, redis or redis-cluster restricts
# them to one; redis-cluster-sharded is the last with --sharded-pubsub.
#
# Specs named embedded_*, redis_* and redis_cluster_* are about that store; all others have to hold on each, but for
# those of connections, the command line and the page, which a Redis Cluster tells nothing new.
set -euo pipefail
cd "$(dirname "$0")/../tests"

if [ $# -eq 0 ]; then
  set -- specs/*.test.mjs
fi
export CHAT_CLUSTER_BINARY="${BINARY:-$PWD/../target/release/chat-cluster}"
output=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-e2e.XXXXXX")
trap 'rm -rf "$output"' EXIT

# Long, and mostly waiting: behind the Redis Cluster's, whose tests are few, so that all stores are done at about the
# same time.
is_long() {
  case ${1##*/} in
    operations.* | chaos.*) true ;;
    *) false ;;
  esac
}

# on STORE SPEC...: those of the specs that are for this store.
on() {
  local store=$1 specs=() spec
  shift
  for spec in "$@"; do
    case $store:${spec##*/} in
      redis-cluster:redis_cluster_*) specs+=("$spec") ;;
      redis-cluster*:page_* | redis-cluster*:*_clients.* | redis-cluster*:slow_readers.*) ;;
      redis-cluster*:balancing.* | redis-cluster*:command_line.* | redis-cluster*:deployment.* | redis-cluster*:engine_io.*) ;;
      redis-cluster*:operations.* | redis-cluster*:operators_commands.* | redis-cluster*:systemd.* | redis:systemd.*) ;;
      redis-cluster*:status.* | redis-cluster*:admin.* | redis-cluster*:config.* | redis*:logs.* | redis*:your_own_app.* | redis*:own_app_protocol.* | redis*:python_worker.*) ;;
      redis-cluster*:hostile_flood.* | redis-cluster*:limits.* | redis-cluster*:polling_sticks.* | redis-cluster*:publish_openapi.*) ;;
      redis-cluster*:protocol_conformance.* | redis-cluster*:real_proxies.* | redis-cluster*:shared_connections.* | redis-cluster*:tls.*) ;;
      embedded:redis_* | redis:embedded_* | redis:redis_cluster_* | redis-cluster*:embedded_* | redis-cluster*:redis_*) ;;
      *) specs+=("$spec") ;;
    esac
  done
  if [ ${#specs[@]} -eq 0 ]; then
    return
  fi
  echo "End to end on the store: $store"
  # One file at a time: some measure how evenly load is spread, and each starts a cluster of its own.
  TEST_STORE=$store node --test --test-concurrency=1 --test-timeout=240000 --test-reporter=spec "${specs[@]}"
}

# All stores at once: most of the time is waited. What the others say is shown behind the first, each in one piece.
read -ra stores <<<"${TEST_STORE:-embedded redis redis-cluster}"
long=()
if [ ${#stores[@]} -gt 1 ]; then
  rest=()
  for spec in "$@"; do
    if is_long "$spec"; then long+=("$spec"); else rest+=("$spec"); fi
  done
  set -- "${rest[@]}"
fi

# last STORE SPEC...: the last of the stores, then what takes long on all of them.
last() {
  local failed=0 store
  on "$@" || failed=1
  for store in "${stores[@]}"; do
    on "$store" "${long[@]}" || failed=1
  done
  return "$failed"
}

for store in "${stores[@]:1}"; do
  run=on
  if [ "$store" = "${stores[-1]}" ]; then run=last; fi
  "$run" "$store" "$@" >"$output/$store" 2>&1 &
done
status=0
on "${stores[0]}" "$@" || status=1
for store in "${stores[@]:1}"; do
  wait -n || status=1
done
for store in "${stores[@]:1}"; do
  cat "$output/$store"
done
exit "$status"
