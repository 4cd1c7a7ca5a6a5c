#!/usr/bin/env bash
# Builds, once, a root directory with a minimal Debian that boots systemd in a container, and prints its path.
#
# 200 MB, about a minute. Everything in it comes from where apt gets this machine's own packages.
#
#   SYSTEMD_CACHE   where to keep it (default: ${XDG_CACHE_HOME:-$HOME/.cache}/baton/systemd)
#   DEBIAN_MIRROR   a Debian mirror (default: the first one in apt's sources)
#
# Needs to be root. Several at a time wait for one another; what a killed one leaves is never used.
set -euo pipefail
cd "$(dirname "$0")/.."

release=bookworm packages=systemd,systemd-sysv,dbus,procps,iproute2 edition=1
cache=${SYSTEMD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/systemd}
# Named after what is in it: another list of packages is another edition.
root=$cache/$release-$edition

die() {
  echo "systemd-root.sh: $*" >&2
  exit 1
}
if [ -d "$root" ]; then
  echo "$root"
  exit
fi
[ "$(id -u)" = 0 ] || die "must be root to make $root"
# Mounts of the build live in a namespace of their own and end with it, also when it is killed.
[ -n "${SYSTEMD_NAMESPACE:-}" ] || SYSTEMD_NAMESPACE=1 exec unshare --mount --propagation private -- "scripts/${0##*/}"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -d "$root" ]; then
  echo "$root"
  exit
fi
# From here on standard output is what the tools have to say, and 3 is for the path.
exec 3>&1 1>&2
# Whoever has the lock is the only one: this is what a killed build left.
rm -rf --one-file-system "$cache"/build.*
build=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf --one-file-system "$build"' EXIT
chmod 755 "$build"
echo "making $root: once, and it takes about a minute"

scripts/needs.sh debootstrap=debootstrap
# shellcheck disable=SC2016 # $(REPO_URI) is for apt-get to fill in
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security |
  sort -u | head -n 1)}
[ -n "$mirror" ] || die "apt has no source; give a mirror in DEBIAN_MIRROR"
debootstrap --variant=minbase --include="$packages" "$release" "$build" "$mirror" >"$cache/log" ||
  { tail "$cache/log"; die "debootstrap of $release failed"; }
# What only costs time at each boot, or belongs to the machine that built it.
rm -rf "$build"/var/cache/apt/archives/*.deb "$build"/var/lib/apt/lists/* "$build"/etc/machine-id
: >"$build/etc/machine-id"
: >"$build/etc/apt/sources.list"
rm -f "$build/etc/hostname" "$build/etc/resolv.conf"
systemctl --quiet --root="$build" mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  fstrim.timer systemd-timesyncd.service getty.target console-getty.service
mv --no-target-directory "$build" "$root"
echo "$root" >&3
