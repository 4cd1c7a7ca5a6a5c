#!/usr/bin/env bash
# Builds, once, a root directory that holds the Autobahn WebSocket test suite, and prints its path.
#
# The suite (autobahntestsuite, the command wstest) runs on Python 2.7 only, which today's distributions no longer have.
# So it gets a Debian 11 of its own: 540 MB, one to three minutes. Everything in it comes from where this machine gets
# its own packages: apt's sources and pip's index.
#
#   AUTOBAHN_CACHE  where to keep it (default: ${XDG_CACHE_HOME:-$HOME/.cache}/baton/autobahn)
#   DEBIAN_MIRROR   a Debian mirror (default: the first one in apt's sources)
#
# Needs to be root, for chroot. Several at a time wait for one another; what a killed one leaves is never used.
set -euo pipefail
cd "$(dirname "$0")/.."

release=bullseye suite=0.8.2
cache=${AUTOBAHN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/autobahn}
# Named after what is in it: another release or suite is another root.
root=$cache/$release-$suite

die() {
  echo "autobahn-root.sh: $*" >&2
  exit 1
}
if [ -d "$root" ]; then
  echo "$root"
  exit
fi
[ "$(id -u)" = 0 ] || die "must be root to make $root, since wstest runs in a chroot"
# Mounts of the build live in a namespace of their own and end with it, also when it is killed.
[ -n "${AUTOBAHN_NAMESPACE:-}" ] || AUTOBAHN_NAMESPACE=1 exec unshare --mount --propagation private -- "scripts/${0##*/}"

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
echo "making $root: once, and it takes a few minutes"

scripts/needs.sh debootstrap=debootstrap python3=python3
# shellcheck disable=SC2016 # $(REPO_URI) is for apt-get to fill in
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security |
  sort -u | head -n 1)}
[ -n "$mirror" ] || die "apt has no source; give a mirror in DEBIAN_MIRROR"
debootstrap --variant=minbase --include=python2.7,python2.7-dev,gcc,libc6-dev,ca-certificates \
  "$release" "$build" "$mirror" >"$cache/log" || { tail "$cache/log"; die "debootstrap of $release failed"; }

# The last pip for Python 2.7 is fetched by the pip of today, since there is none inside to begin with.
seed=$build/opt/seed
mkdir "$seed"
pips=(pip==20.3.4 setuptools==44.1.1 wheel==0.37.1)
python3 -m pip download --quiet --no-deps --dest "$seed" "${pips[@]}" || die "cannot download the last pip for Python 2.7"

# This machine's way to the index, as long as the build lasts.
cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$seed/ca.crt"
touch "$build/etc/hosts" "$build/etc/resolv.conf"
mount --bind /etc/hosts "$build/etc/hosts"
mount --bind /etc/resolv.conf "$build/etc/resolv.conf"
index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
inside() {
  chroot "$build" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONWARNINGS=ignore \
    PIP_CERT=/opt/seed/ca.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    ${index:+PIP_INDEX_URL="$index"} ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"
}
inside python2.7 /opt/seed/pip-20.3.4-py2.py3-none-any.whl/pip install --quiet --no-index --find-links=/opt/seed "${pips[@]}"
inside python2.7 -m pip install --quiet "autobahntestsuite==$suite" || die "pip does not install the suite"
inside wstest --help >/dev/null || die "wstest does not start"

umount "$build/etc/hosts" "$build/etc/resolv.conf"
echo '127.0.0.1 localhost' >"$build/etc/hosts"
rm -rf "$seed" "$build"/var/cache/apt/archives/*.deb "$build"/var/lib/apt/lists/*
mv --no-target-directory "$build" "$root"
echo "$root" >&3
