#!/usr/bin/env bash
# needs.sh COMMAND=PACKAGE ...: installs the Debian packages whose commands are missing.
set -euo pipefail
missing=()
for need in "$@"; do
  command -v "${need%%=*}" >/dev/null || missing+=("${need#*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing ${missing[*]}" >&2
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
