#!/usr/bin/env bash
# Makes the Debian package of this checkout, and prints where it is: package.sh [--programs DIRECTORY] [--version VERSION]
# [--output DIRECTORY]
#
#   --programs  take baton, batonctl and baton-manual from there, as they are, and pack in a hurry; else they are built for
#               release, and their debug symbols go into a package of their own, baton-dbgsym
#   --version   of the package (default: the crate's, and revision 1)
#   --output    where to (default: target/debian)
#
#   DEBFULLNAME, DEBEMAIL  who makes it
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
programs='' version='' output=$target/debian
while [ $# -gt 0 ]; do
  case $1 in
    --programs) programs=$(realpath "$2") ;;
    --version) version=$2 ;;
    --output) output=$(realpath --canonicalize-missing "$2") ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
scripts/needs.sh dpkg-shlibdeps=dpkg-dev objcopy=binutils gzip=gzip >&2
cargo_deb=$(scripts/cargo-deb.sh)

options=(--fast --strip --no-dbgsym)
if [ -z "$programs" ]; then
  cargo build --release --locked
  cargo build --release --locked --package baton-manual
  programs=$target/release options=(--dbgsym)
fi
if [ -z "$version" ]; then
  id=$(cargo pkgid --locked --package baton)
  version=${id##*[@#]}-1
fi

# A place of its own for each run, which cargo-deb is told is the target directory: it finds its assets below its release/.
# What `make install` installs is what the package holds.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/release/root
mkdir -p "$root" "$output"
scripts/manual.sh "$programs" "$work/manual"
PREFIX=/usr DESTDIR=$root PROGRAMS=$programs MANUAL=$work/manual ZSHDIR=/usr/share/zsh/vendor-completions \
  scripts/install.sh install
# Where cargo-deb looks for programs that it is to strip.
mv "$root"/usr/bin/* "$work/release/"
# dpkg keeps the list.
rm "$root/usr/share/baton/manifest"
doc=$root/usr/share/doc/baton
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
rm "$doc/CHANGELOG.md"
maintainer="${DEBFULLNAME:-The baton authors} <${DEBEMAIL:-baton@localhost}>"
date=$(date --rfc-email --utc --date="@${SOURCE_DATE_EPOCH:-$(stat --format=%Y CHANGELOG.md)}")
cat >"$work/changelog" <<TEXT
baton ($version) stable; urgency=medium

  * See /usr/share/doc/baton/changelog.gz.

 -- $maintainer  $date
TEXT
gzip -9nc "$work/changelog" >"$doc/changelog.Debian.gz"
install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/baton"

CARGO_TARGET_DIR=$work "$cargo_deb" --no-build --locked --quiet "${options[@]}" --deb-version "$version" \
  --maintainer "$maintainer" --output "$output/"
# What Debian has to say, where it is installed.
if command -v lintian >/dev/null; then
  lintian --allow-root --fail-on error,warning "$output/baton_${version}_$(dpkg --print-architecture).deb" >&2
fi
