# shellcheck shell=bash
# Builds a root directory once and keeps it. Sourced by those that build one, with `cache` and `root`, which is in it, set, and
# as arguments why only root may build it, and how long that takes. Where it is there already its path is printed, and that is
# all. Otherwise the caller goes on to fill `build`, and ends with keep_root.
#
# Several at a time wait for one another; what a killed one leaves is never used.
# shellcheck disable=SC2154 # cache and root are the caller's

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# print_if_there: ends with its path if the root is there.
print_if_there() {
  [ -d "$root" ] || return 0
  echo "$root"
  exit
}

# debian RELEASE PACKAGES: a minimal Debian with these, from where apt gets this machine's own packages.
debian() {
  scripts/needs.sh debootstrap=debootstrap
  local mirror
  # shellcheck disable=SC2016 # $(REPO_URI) is for apt-get to fill in
  mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security |
    sort -u | head -n 1)}
  [ -n "$mirror" ] || die "apt has no source; give a mirror in DEBIAN_MIRROR"
  debootstrap --variant=minbase --include="$2" "$1" "$build" "$mirror" >"$cache/log" ||
    { tail "$cache/log"; die "debootstrap of $1 failed"; }
}

# keep_root: what was built is the root from now on.
keep_root() {
  rm -rf "$build"/var/cache/apt/archives/*.deb "$build"/var/lib/apt/lists/*
  mv --no-target-directory "$build" "$root"
  echo "$root" >&3
}

print_if_there
[ "$(id -u)" = 0 ] || die "must be root to make $root$1"
# Mounts of the build live in a namespace of their own and end with it, also when it is killed.
[ -n "${ROOT_NAMESPACE:-}" ] || ROOT_NAMESPACE=1 exec unshare --mount --propagation private -- "scripts/${0##*/}"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
print_if_there
# From here on standard output is what the tools have to say, and 3 is for the path.
exec 3>&1 1>&2
# Whoever has the lock is the only one: this is what a killed build left.
rm -rf --one-file-system "$cache"/build.*
build=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf --one-file-system "$build"' EXIT
chmod 755 "$build"
echo "making $root: once, and it takes $2"
