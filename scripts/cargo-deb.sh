#!/usr/bin/env bash
# Installs cargo-deb of a certain version, once, where it is in nobody's way, and prints its path.
#
#   CARGO_DEB_CACHE  where to keep it (default: ${XDG_CACHE_HOME:-$HOME/.cache}/baton/cargo-deb)
#
# A minute of one core. Several at a time wait for one another: cargo has a lock for it.
set -euo pipefail

version=3.8.0
root=${CARGO_DEB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/cargo-deb}/$version
program=$root/bin/cargo-deb

# A directory of its own: in the project's one its release build would end with the features of this program.
[ -x "$program" ] ||
  CARGO_TARGET_DIR=$root/build cargo install --quiet --locked --root "$root" --version "=$version" cargo-deb >&2
rm -rf "$root/build"
echo "$program"
