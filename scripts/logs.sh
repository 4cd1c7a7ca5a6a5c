#!/usr/bin/env bash
# Follows the logs of the supervisor and all workers.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec tail --quiet -n 20 -F "${BATON_LOG_DIR:-$here/log}"/*
