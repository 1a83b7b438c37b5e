#!/usr/bin/env bash
# What `make run` does after the build: a redis-server of its own and chat-cluster on it, until Ctrl-C.
# The data stays in target/run, so a restart finds sessions and messages again. Nothing listens on a TCP
# port but chat-cluster itself.
set -euo pipefail
cd "$(dirname "$0")/.."

state=$PWD/target/run
mkdir -p "$state"

# Two Redis servers on one append-only file would destroy it. The Redis server inherits the lock, so it
# holds even when this script was killed and the server was not.
exec 9>"$state/lock"
if ! flock --nonblock 9; then
  echo "another 'make run' (or the redis-server it left behind) is using $state" >&2
  exit 1
fi

# A Unix socket's path has at most 107 bytes: a deep checkout must not matter.
sockets=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-run.XXXXXX")
redis_pid=
cluster_pid=

# Each job gets a process group of its own: Ctrl-C then reaches only this script, which ends the cluster
# first and takes its Redis away after that.
set -m
trap 'if [ -n "$cluster_pid" ]; then kill -TERM "$cluster_pid"; else exit 130; fi' INT TERM HUP
trap 'if [ -n "$redis_pid" ] && kill -TERM "$redis_pid" 2>/dev/null; then wait "$redis_pid" || true; fi
      rm -rf "$sockets"' EXIT

redis-server \
  --port 0 --unixsocket "$sockets/redis.sock" --unixsocketperm 700 \
  --dir "$state" --appendonly yes --save '' \
  --daemonize no --logfile "$state/redis.log" &
redis_pid=$!
until [ -S "$sockets/redis.sock" ]; do
  if ! kill -0 "$redis_pid" 2>/dev/null; then
    echo "redis-server did not start; the end of $state/redis.log:" >&2
    tail -n 5 "$state/redis.log" >&2
    exit 1
  fi
  sleep 0.05
done
echo "redis-server listens on $sockets/redis.sock and keeps its data in $state"

"$BINARY" --workers "${WORKERS:-4}" --redis "redis+unix://$sockets/redis.sock" "$@" 9>&- &
cluster_pid=$!
# A trap cuts `wait` short: wait again until the cluster has really ended.
status=0
while kill -0 "$cluster_pid" 2>/dev/null; do
  wait "$cluster_pid" && status=0 || status=$?
done
exit "$status"
