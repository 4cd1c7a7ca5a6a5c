#!/usr/bin/env bash
# autobahn.sh URL DIRECTORY CASES: tests the WebSocket server at URL with cases of the Autobahn suite, such as
# '1.*,2.*'. It must echo. The reports go to DIRECTORY: index.json, index.html, and a page for each case.
set -euo pipefail
cd "$(dirname "$0")"
[ $# = 3 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
url=$1 reports=$(realpath "$2") cases=$3
[ "$(id -u)" = 0 ] || { echo 'autobahn.sh: must be root, since wstest runs in a chroot' >&2; exit 1; }
root=$(./autobahn-root.sh)
cat >"$reports/spec.json" <<END
{
  "outdir": "/mnt",
  "servers": [{ "agent": "server", "url": "$url" }],
  "cases": ["${cases//,/\", \"}"],
  "exclude-cases": [],
  "exclude-agent-cases": {}
}
END
# In a mount namespace of its own the reports appear as /mnt in the root, and several runs do not disturb one another.
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount --propagation private -- bash -euc '
  mount --bind "$2" "$1/mnt"
  mount --types proc proc "$1/proc"
  cd "$1"
  exec chroot . /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONWARNINGS=ignore \
    PYTHONDONTWRITEBYTECODE=1 wstest --mode fuzzingclient --spec /mnt/spec.json' -- "$root" "$reports"
