#!/usr/bin/env bash
# boot.sh NAME DIRECTORY [OPTION ...]: boots systemd in a container, in the foreground, until it is off.
#
# Its root is that of systemd-root.sh, under a layer of its own that lasts as long as this process, also over a reboot; what is
# below DIRECTORY/etc, DIRECTORY/usr … is in that layer to begin with. Its network is a loopback of its own. OPTION: more for
# systemd-nspawn. Below this process there are one child, one grandchild (systemd-nspawn), and its child, which is the container's
# first process. Whoever kills this process ends everything in it.
#
# Needs to be root; systemd need not run here.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
root=$(scripts/systemd-root.sh)
# The pid namespace around it all makes its end certain: a killed systemd-nspawn alone would leave the container behind.
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount --pid --fork --kill-child=KILL --mount-proc --propagation private -- bash -euc '
  root=$1 name=$2 directory=$3
  shift 3
  # One cgroup2 hierarchy, as in all of today: where the machine has v1 beside it systemd-nspawn would take that.
  umount -R /sys/fs/cgroup
  mount -t cgroup2 none /sys/fs/cgroup
  mkdir -p "/sys/fs/cgroup/$name"
  echo 0 >"/sys/fs/cgroup/$name/cgroup.procs"
  mount -t tmpfs -o mode=755 none /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  cp -a "$directory/." /mnt/upper/
  chown -R 0:0 /mnt/upper
  mount -t overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" none /mnt/root
  status=133
  # A reboot, which it leaves to its own unit that it does not have.
  while [ $status = 133 ]; do
    status=0
    systemd-nspawn --directory=/mnt/root --machine="$name" --boot --register=no --keep-unit --console=pipe \
      --link-journal=no --private-network "$@" || status=$?
  done
  exit $status
' -- "$root" "$@"
