#!/usr/bin/env bash
# Hands the service over to a new generation from target/release, without disconnecting anybody; the arguments are those of
# `baton promote`. `promote.sh status` shows the generations instead.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
if [ "${1:-}" = status ]; then
  # Both of them, whichever was chosen otherwise.
  unset BATON_COLOR
  exec target/release/batonctl "$@"
fi
# As up.sh: the new generation logs where the old one does.
export BATON_LOG_DIR=${BATON_LOG_DIR:-$here/log}
exec target/release/baton promote "$@"
