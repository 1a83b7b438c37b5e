#!/usr/bin/env bash
# need.sh COMMAND PACKAGE...: when COMMAND is missing, installs Debian's PACKAGEs for it and says so.
set -euo pipefail

command=$1
shift
# /usr/sbin is not on every user's PATH, and some daemons live there.
if PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null; then
  exit 0
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
  sudo=sudo
fi
if ! command -v apt-get >/dev/null || { [ -n "$sudo" ] && ! command -v sudo >/dev/null; }; then
  echo "$command is missing: please install it (Debian: apt-get install $*)" >&2
  exit 1
fi

echo "$command is missing: installing Debian's $* with apt-get" >&2
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install --yes --no-install-recommends "$@")
# A fresh machine has no package lists, an old one stale lists: update only when the first try fails.
$sudo "${install[@]}" >&2 || { $sudo apt-get update >&2 && $sudo "${install[@]}" >&2; }
