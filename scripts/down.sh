#!/usr/bin/env bash
# Stops what up.sh started, and returns when it is gone.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
if ! pid=$(target/release/batonctl pid 2>/dev/null | awk '/supervisor/ { print $NF }') || [ -z "$pid" ]; then
  echo "baton is not up"
  exit 0
fi
target/release/batonctl shutdown
while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
echo "baton is down"
