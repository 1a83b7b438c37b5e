#!/usr/bin/env bash
# flamegraphs.sh BENCH INFERNO OUT: draws where the workers' CPU time goes on each path, one picture a path in the folder
# OUT. BENCH is the program of bench/, INFERNO the folder that cargo installs inferno into.
set -euo pipefail
bench=$1 inferno=$2 out=$3
data=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-flames.XXXXXX")
trap 'rm -rf "$data"' EXIT
mkdir -p "$out"

# draw NAME TITLE LOAD...
draw() {
  local name=$1 title=$2
  shift 2
  "$bench" profile redis "$@" --keep "$data/$name"
  perf script -i "$data/$name" 2>"$data/perf" | "$inferno/bin/inferno-collapse-perf" >"$data/$name.folded"
  # Narrower than a pixel nobody sees.
  "$inferno/bin/inferno-flamegraph" --title "$title" --width 1400 --minwidth 1 "$data/$name.folded" >"$out/$name.svg"
}

draw handshake 'Polling handshakes: workers' handshakes --clients 32
draw log-in 'Log-ins over WebSocket: workers' log-ins --clients 4000 --patience 1s
draw message 'Private messages, 6,000 a second: workers' messages --rate 6000
draw broadcast 'Users come and go, 400 are told: workers' broadcast --clients 400 --rate 20
