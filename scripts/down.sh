#!/usr/bin/env bash
# Stops what up.sh and promote.sh started, of whatever color, and returns when it is gone.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
pids=()
for color in blue green; do
  pid=$(target/release/batonctl --color "$color" pid 2>/dev/null | awk '/supervisor/ { print $NF }') || continue
  [ -n "$pid" ] || continue
  # Of two that belong together one may end with the other, before it is told to.
  target/release/batonctl --color "$color" shutdown || ! kill -0 "$pid" 2>/dev/null
  pids+=("$pid")
done
if [ ${#pids[@]} = 0 ]; then
  echo "baton is not up"
  exit 0
fi
for pid in "${pids[@]}"; do
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
done
echo "baton is down"
