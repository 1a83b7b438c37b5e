#!/usr/bin/env bash
# deb.sh FOLDER: makes a Debian package of the binary named by BINARY in FOLDER, by dpkg-deb, and prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(realpath -m "$1")
binary=${BINARY:-$PWD/target/release/chat-cluster}
version=$("$binary" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
# The newest symbols of the C library that the binary uses.
libc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -uV | tail -n 1 | cut -d_ -f2)

tree=$(mktemp -d "${TMPDIR:-/tmp}/chat-cluster-deb.XXXXXX")
trap 'rm -rf "$tree"' EXIT
put() { install -D -m "${3:-644}" "$1" "$tree/$2"; }

put "$binary" usr/bin/chat-cluster 755
# Function names stay, for what a crash prints; the table of lines is two thirds of the file.
strip --strip-debug "$tree/usr/bin/chat-cluster"
put packaging/systemd/chat-cluster.service usr/lib/systemd/system/chat-cluster.service
put packaging/systemd/chat-cluster.socket usr/lib/systemd/system/chat-cluster.socket
put packaging/systemd/chat-cluster.sysusers.conf usr/lib/sysusers.d/chat-cluster.conf
put packaging/chat-cluster.toml etc/chat-cluster/chat-cluster.toml
put packaging/debian/env etc/chat-cluster/env
for file in alerts.yml prometheus.yml grafana-dashboard.json; do
  put "packaging/monitoring/$file" "usr/share/doc/chat-cluster/monitoring/$file"
done
for file in packaging/debian/copyright LICENSE-MIT LICENSE-APACHE README.md; do
  put "$file" "usr/share/doc/chat-cluster/$(basename "$file")"
done
put CHANGELOG.md usr/share/doc/chat-cluster/changelog
gzip -9n "$tree/usr/share/doc/chat-cluster/changelog"

mkdir -p "$tree/usr/share/man/man1"
"$binary" man "$tree/usr/share/man/man1"
gzip -9n "$tree"/usr/share/man/man1/*
completions() { install -D -m 644 <("$binary" completions "$1") "$tree/$2"; }
completions bash usr/share/bash-completion/completions/chat-cluster
completions zsh usr/share/zsh/vendor-completions/_chat-cluster
completions fish usr/share/fish/vendor_completions.d/chat-cluster.fish

for script in postinst prerm postrm; do
  put "packaging/debian/$script" "DEBIAN/$script" 755
done
printf '/etc/chat-cluster/%s\n' chat-cluster.toml env >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: chat-cluster
Version: $version
Architecture: $architecture
Maintainer: The authors of chat-cluster <chat-cluster@localhost>
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, systemd | systemd-standalone-sysusers
Suggests: redis-server, prometheus
Description: Socket.IO chat on every core of a machine
 One command starts a master and as many worker processes as there are cores. The
 master accepts connections and hands the socket itself to the worker that owns the
 session; workers share the chat through an embedded store or a Redis.
CONTROL
mkdir -p "$folder"
package="$folder/chat-cluster_${version}_$architecture.deb"
dpkg-deb --root-owner-group -Zxz -z3 --build "$tree" "$package" >/dev/null
echo "$package"
