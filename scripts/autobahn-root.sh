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
# Needs to be root, for chroot.
set -euo pipefail
cd "$(dirname "$0")/.."

release=bullseye suite=0.8.2
cache=${AUTOBAHN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/autobahn}
# Named after what is in it: another release or suite is another root.
root=$cache/$release-$suite
# shellcheck source=scripts/kept-root.sh
source scripts/kept-root.sh ", since wstest runs in a chroot" "a few minutes"

scripts/needs.sh python3=python3
debian "$release" python2.7,python2.7-dev,gcc,libc6-dev,ca-certificates

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
rm -rf "$seed"
keep_root
