#!/usr/bin/env bash
# Makes a user who may log in at /admin/ of what `make up` starts; the arguments are those of `baton create-superuser`.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec target/release/baton create-superuser "$@"
