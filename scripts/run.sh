#!/usr/bin/env bash
# What `make run` does after the build: chat-cluster with its data in target/run, until Ctrl-C. A restart finds
# sessions and messages again.
set -euo pipefail
cd "$(dirname "$0")/.."

exec "$BINARY" --workers "${WORKERS:-4}" --data-dir "$PWD/target/run" "$@"
