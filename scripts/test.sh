#!/usr/bin/env bash
# All tests, on a machine that may have nothing but the Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/needs.sh cc=gcc make=make curl=curl chromium=chromium debootstrap=debootstrap python3=python3 setpriv=util-linux \
  redis-server=redis-server redis-cli=redis-tools openssl=openssl nginx=nginx systemd-nspawn=systemd-container \
  man=man-db dpkg-shlibdeps=dpkg-dev fish=fish zsh=zsh
# Each test opens what it needs; the limit is per process.
ulimit -n "$(ulimit -Hn)"
scripts/autobahn-root.sh
scripts/systemd-root.sh
scripts/cargo-deb.sh
exec cargo test --locked --workspace "$@"
