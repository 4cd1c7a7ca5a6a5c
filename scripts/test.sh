#!/usr/bin/env bash
# All tests, on a machine that may have nothing but the Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/needs.sh cc=gcc make=make curl=curl chromium=chromium debootstrap=debootstrap python3=python3 setpriv=util-linux \
  redis-server=redis-server redis-cli=redis-tools openssl=openssl nginx=nginx ip=iproute2 logrotate=logrotate prometheus=prometheus \
  systemd-nspawn=systemd-container faketime=faketime \
  git=git man=man-db dpkg-shlibdeps=dpkg-dev fish=fish zsh=zsh
# It has no command of its own, and belongs to Debian's Python.
/usr/bin/python3 -c 'import websockets' 2>/dev/null || scripts/needs.sh websockets=python3-websockets
# Each test opens what it needs; the limit is per process.
ulimit -n "$(ulimit -Hn)"
scripts/autobahn-root.sh
scripts/systemd-root.sh
scripts/cargo-deb.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo test --locked --workspace --no-fail-fast "$@" 2>&1 | tee "$log"; then
  # Again, behind the backtraces and the logs of services.
  printf '\nwhat failed:\n' >&2
  grep --text --after-context=3 "^thread '.*' .*panicked at " "$log" | grep --text --invert-match '^ *[0-9]*:\|^stack backtrace:' >&2 || true
  exit 101
fi
