#!/usr/bin/env bash
# deny.sh FOLDER: holds the dependencies against deny.toml by cargo-deny, which it builds into FOLDER when it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
version=0.20.2
deny="$folder/bin/cargo-deny"
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
  echo "cargo-deny is missing: building it" >&2
  # Unoptimised: it takes a second all the same.
  cargo install --quiet --debug --locked --root "$folder" --target-dir "$folder/build" --version "$version" cargo-deny
  rm -rf "$folder/build"
fi
checks=(licenses bans sources)
# What is known against crates is a repository on GitHub, which not every machine reaches.
if "$deny" fetch db >/dev/null 2>&1; then
  checks+=(advisories)
else
  echo "the database of advisories cannot be fetched: not held against it" >&2
fi
"$deny" --log-level error check --hide-inclusion-graph "${checks[@]}"
