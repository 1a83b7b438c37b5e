#!/usr/bin/env bash
# schemathesis.sh FOLDER: installs what tests/schemathesis.txt lists into a virtual environment there, and says so;
# nothing when that is done already.
set -euo pipefail

folder=$1
list="$(dirname "$0")/../tests/schemathesis.txt"
if cmp --silent "$list" "$folder/installed.txt"; then
  exit 0
fi

# Debian's python3 comes without what makes environments.
python=python3
if ! $python -c 'import ensurepip, venv' 2>/dev/null; then
  "$(dirname "$0")/need.sh" 'python3 with venv' python3 python3-venv
  python=/usr/bin/python3
fi
echo "schemathesis is missing: installing it from PyPI into $folder" >&2
rm -rf "$folder"
$python -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$list" >&2
cp "$list" "$folder/installed.txt"
