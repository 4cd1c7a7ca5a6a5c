#!/usr/bin/env bash
# Runs baton in the foreground, debug build, readable log; Ctrl-C drains and ends it.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec cargo run --bin baton -- run "$@"
