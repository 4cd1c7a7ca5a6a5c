#!/usr/bin/env bash
# Measures; see benches/README.md for what and how.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/needs.sh redis-server=redis-server
cargo build --release --locked
cargo build --release --locked -p baton-benches
ulimit -n "$(ulimit -Hn)"
exec target/release/bench "$@"
