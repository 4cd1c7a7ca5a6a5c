#!/usr/bin/env bash
# A live view of what up.sh started; the arguments are those of `baton monitor`: --metrics-only, --logs-only, --interval 5.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec target/release/baton monitor "$@"
