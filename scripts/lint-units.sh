#!/usr/bin/env bash
# What systemd says of the units: no key or value that it does not understand, and a sandbox as tight as promised.
set -euo pipefail
cd "$(dirname "$0")/.."
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
# Also where baton is not installed.
for unit in systemd/*.{service,socket,target}; do
  sed -E 's#/usr/bin/baton(ctl)?#/bin/true#' "$unit" >"$units/${unit##*/}"
done
mkdir "$units/baton@.service.d"
for conf in '' systemd/socket-activation.conf; do
  # Optional parts too: with and without.
  [ -z "$conf" ] || cp "$conf" "$units/baton@.service.d/"
  # It succeeds whatever it finds.
  said=$(systemd-analyze verify --man=no "$units"/*.{service,socket,target} 2>&1)
  [ -z "$said" ] || { printf '%s\n' "$said" >&2; exit 1; }
done
# In tenths: an exposure of 1.5.
systemd-analyze security --offline=true --threshold=15 "$units/baton@.service" >"$units/exposure" 2>&1 ||
  { cat "$units/exposure" >&2; exit 1; }
