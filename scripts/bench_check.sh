#!/usr/bin/env bash
# Measures what can be compared between machines, and says what got worse by more than 10 % since benches/baseline.json was
# committed. With `--json FILE` it measures nothing, and compares what `scripts/bench.sh --json FILE` has written.
set -euo pipefail
status=0
case $#-${1-} in
  0-) now='' ;;
  2---json) now=$(realpath "$2") ;;
  *) printf 'usage: %s [--json FILE]\n' "$0" >&2 && exit 2 ;;
esac
cd "$(dirname "$0")/.."
if [[ -z $now ]]; then
  now=$(mktemp)
  trap 'rm -f "$now"' EXIT
  scripts/bench.sh --only one,burst,redis,idle,scale --json "$now" || status=$?
fi
cargo build --release --locked --quiet -p baton-benches
target/release/bench_check benches/baseline.json "$now" || status=$?
exit "$status"
