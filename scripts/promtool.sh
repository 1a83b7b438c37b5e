#!/usr/bin/env bash
# Puts promtool into the directory given, unless it is there: out of Debian's package of Prometheus, which is not
# installed, since it would start a server.
set -euo pipefail
directory=$1

if [ -x "$directory/promtool" ]; then
  exit
fi
echo "promtool is not there: taking it out of Debian's package prometheus"
package=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-promtool.XXXXXX")
trap 'rm -rf "$package"' EXIT
cd "$package"
sudo=
if [ "$(id -u)" -ne 0 ]; then
  sudo=sudo
fi
# As root, apt would download as a user who cannot write here.
download=(apt-get -qq -o APT::Sandbox::User=root download prometheus)
# A fresh machine has no package lists.
"${download[@]}" 2>/dev/null || { $sudo apt-get -qq update && "${download[@]}"; }
dpkg-deb --extract prometheus_*.deb extracted
mkdir -p "$directory"
mv extracted/usr/bin/promtool "$directory/"
