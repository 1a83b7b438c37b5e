#!/usr/bin/env bash
# Fuzzes each target for FUZZ_TIME seconds, starting from the corpus in fuzz/corpus. What it finds on its way stays
# in target/fuzz; what makes a target fail is in fuzz/artifacts, and the last lines say how to run it again.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_TIME:-60}
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing: installing it with cargo" >&2
  cargo install --locked cargo-fuzz
fi
# The coverage flags of the fuzzer are unstable; without a sanitizer the compiler that is there takes them so.
export RUSTC_BOOTSTRAP=1
for source in fuzz/fuzz_targets/*.rs; do
  target=$(basename "$source" .rs)
  grown="${CARGO_TARGET_DIR:-target}/fuzz/corpus/$target"
  mkdir -p "$grown"
  echo "Fuzzing $target for $seconds s"
  cargo fuzz run --sanitizer none "$target" "$grown" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len=70000 -print_final_stats=1
done
