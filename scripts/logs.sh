#!/usr/bin/env bash
# Follows the log of the supervisor and all workers, also those of the next generation.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec target/release/batonctl tail --follow all
