#!/usr/bin/env bash
# Installs cargo-deb of a certain version, once, where it is in nobody's way, and prints its path.
#
#   CARGO_DEB_CACHE  where to keep it (default: ${XDG_CACHE_HOME:-$HOME/.cache}/baton/cargo-deb)
#
# A minute or two. Several at a time wait for one another; what a killed one leaves is never used.
set -euo pipefail

version=3.8.0
cache=${CARGO_DEB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/cargo-deb}
program=$cache/$version/bin/cargo-deb
if [ ! -x "$program" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  # Whoever has the lock is the only one, and cargo puts the program there in one step. Built in a directory of its own: what
  # the project has built may be meant for other features.
  [ -x "$program" ] || CARGO_TARGET_DIR=$cache/build cargo install --quiet --locked --root "$cache/$version" \
    --version "=$version" cargo-deb >&2
  rm -rf "$cache/build"
fi
echo "$program"
