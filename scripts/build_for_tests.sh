#!/usr/bin/env bash
# Builds what the tests run: the release binary, and without optimisation the Rust tests and the examples. Side by
# side, since the last step of the release build, which optimises the binary as a whole, has work for one core only.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked &
release=$!
trap 'kill "$release" 2>/dev/null || true' EXIT
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace --locked --no-run
else
  cargo test --workspace --locked --no-run
fi
cargo build --locked --workspace --bin your-own-app --bin smallest --bin with_redis --example master
wait "$release"
trap - EXIT
