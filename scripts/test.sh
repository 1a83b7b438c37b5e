#!/usr/bin/env bash
# What `make test` does: all suites, also when one fails, then one line for each with its number of tests. Fails when
# one of them did.
#
# The release binary, which the last suite is about, is built beside the others: its last step, which optimises it as a
# whole, has work for one core only.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

results=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-test.XXXXXX")
echo "Building the release binary; its output is shown behind that of the tests that do not need it"
cargo build --release --locked >"$results/build" 2>&1 &
build=$!
trap 'kill "$build" 2>/dev/null; rm -rf "$results"' EXIT
status=0

# suite NAME COMMAND...: runs it, keeps what it says in $results/NAME.
suite() {
  local name=$1
  shift
  "$@" 2>&1 | tee "$results/$name" || status=1
}

# How many tests passed and failed, in the words of cargo test.
counted() {
  sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$1" |
    awk '{ passed += $1; failed += $2 } END { printf "%d passed, %d failed\n", passed, failed }'
}

# How many tests of the page passed and failed, in the words of vitest.
page() {
  sed -E 's/\x1b\[[0-9;]*m//g' "$1" | sed -nE 's/^ *Tests +//p'
}

# The runner's summaries, one for each store, as one line.
end_to_end() {
  sed -nE 's/^End to end on the store: (.*)/; \1: /p; s/^ℹ (tests|pass|fail|skipped) ([0-9]+)$/\2 \1 /p' "$1" |
    tr -d '\n' | sed -E 's/^; //; s/ ;/;/g; s/ $//; s/([a-z]) ([0-9])/\1, \2/g'
}

# Without optimisation, unlike the binary: compiling takes a third of the time then, and what `make lint` has built
# of the dependencies serves here as well.
if cargo nextest --version >/dev/null 2>&1; then
  suite rust cargo nextest run --workspace --locked --no-fail-fast
  rust=$(sed -nE 's/^ *Summary \[[^]]*\] *//p' "$results/rust" | tail -n 1)
else
  echo "cargo-nextest is not installed: using cargo test"
  suite rust cargo test --workspace --locked --no-fail-fast --lib --bins --tests
  rust=$(counted "$results/rust")
fi
suite doc cargo test --workspace --locked --doc

suite page npm --prefix web test

if wait "$build"; then
  tail -n 1 "$results/build"
  make --no-print-directory examples || status=1
  suite e2e scripts/e2e.sh
else
  cat "$results/build"
  status=1
fi

echo
echo "Rust:           ${rust:-did not build}"
echo "Documentation:  $(counted "$results/doc")"
echo "Page:           $(page "$results/page")"
echo "End to end:     $([ -e "$results/e2e" ] && end_to_end "$results/e2e" || echo did not build)"
exit "$status"
