#!/usr/bin/env bash
# manual.sh PROGRAMS DIRECTORY: writes manual pages and completions to DIRECTORY, with the programs baton, batonctl and
# baton-manual of the directory PROGRAMS.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
programs=$1 directory=$2
rm -rf "$directory"
mkdir -p "$directory"/{man,bash,fish,zsh}
# The same sources make the same pages.
"$programs/baton-manual" "$directory/man" "$(date --utc --date="@${SOURCE_DATE_EPOCH:-$(stat --format=%Y CHANGELOG.md)}" +%F)"
cp packaging/man/*.[1-8] "$directory/man/"
for command in baton batonctl; do
  "$programs/baton" completions bash "$command" >"$directory/bash/$command"
  "$programs/baton" completions fish "$command" >"$directory/fish/$command.fish"
  "$programs/baton" completions zsh "$command" >"$directory/zsh/_$command"
done
