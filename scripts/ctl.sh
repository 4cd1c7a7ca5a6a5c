#!/usr/bin/env bash
# batonctl for what up.sh started.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec target/release/batonctl "$@"
