#!/usr/bin/env bash
# Builds, once, a root directory with a minimal Debian that boots systemd in a container, and prints its path.
#
# 200 MB, about a minute. Everything in it comes from where apt gets this machine's own packages.
#
#   SYSTEMD_CACHE   where to keep it (default: ${XDG_CACHE_HOME:-$HOME/.cache}/baton/systemd)
#   DEBIAN_MIRROR   a Debian mirror (default: the first one in apt's sources)
#
# Needs to be root.
set -euo pipefail
cd "$(dirname "$0")/.."

release=bookworm packages=systemd,systemd-sysv,dbus,procps,iproute2,make,nginx,sudo edition=2
cache=${SYSTEMD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/systemd}
# Named after what is in it: another list of packages is another edition.
root=$cache/$release-$edition
# shellcheck source=scripts/kept-root.sh
source scripts/kept-root.sh "" "about a minute"

debian "$release" "$packages"
# What only costs time at each boot, or belongs to the machine that built it.
: >"$build/etc/machine-id"
: >"$build/etc/apt/sources.list"
rm -f "$build/etc/hostname" "$build/etc/resolv.conf"
systemctl --quiet --root="$build" mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  fstrim.timer systemd-timesyncd.service getty.target console-getty.service
# It is there for whoever starts it.
systemctl --quiet --root="$build" disable nginx.service
keep_root
