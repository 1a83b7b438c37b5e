#!/usr/bin/env bash
# crowd.sh BENCH: 100,000 users on a cluster of 8 workers with a Redis, and 200 messages a second among them for a minute,
# in which each of them is pinged twice. BINARY is chat-cluster; all of it, and the load, on this machine.
set -euo pipefail
bench=$1
directory=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-crowd.XXXXXX")
started=()
cleanup() {
  for pid in "${started[@]}"; do
    kill "$pid" 2>/dev/null && wait "$pid" || true
  done
  rm -rf "$directory"
}
trap cleanup EXIT

redis-server --port 0 --unixsocket "$directory/redis.sock" --dir "$directory" --save '' >"$directory/redis.log" &
started+=($!)
redis=$!
until [ -S "$directory/redis.sock" ]; do sleep 0.05; done
# A list of 500 users for each of them would be 5 GB through the loopback, and say little about sockets.
"$BINARY" --workers 8 --listen 127.0.0.1:0 --runtime-dir "$directory/run" --roster-limit 20 \
  --redis "redis+unix://$directory/redis.sock" >"$directory/out" 2>"$directory/log" &
started=($! "${started[@]}")
master=$!
until grep -q 'ready at' "$directory/out"; do
  kill -0 "$master" || { cat "$directory/log"; exit 1; }
  sleep 0.05
done
target=$(sed -nE 's/.*ready at http:\/\/([^ ]+).*/\1/p' "$directory/out")
"$bench" load messages --clients "${CLIENTS:-100000}" --rate 200 --duration 60s --warm-up 2s --processes 8 --target "$target" \
  --process "Redis=$redis" --process "master=$master:self" --process "workers=$master:children"
echo "memory of master and workers: $(ps -o rss= -p "$master" --ppid "$master" | awk '{ sum += $1 } END { print int(sum / 1024) }') MiB (pages that are shared count for each)"
grep -iE 'warn|error' "$directory/log" || true
