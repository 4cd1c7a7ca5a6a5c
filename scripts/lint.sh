#!/usr/bin/env bash
# Everything that can be said of the code without running it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/needs.sh cc=gcc shellcheck=shellcheck systemd-analyze=systemd
step() { printf '%s\n' "-- $*"; }

step formatting
cargo fmt --all -- --check
step clippy
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
step layering
scripts/layering.sh
step documentation
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet
step shell
shellcheck --external-sources scripts/*.sh .ci/run packaging/debian/{postinst,prerm,postrm}
step units
scripts/lint-units.sh
if command -v cargo-deny >/dev/null; then
  step 'licences, bans and sources of dependencies'
  cargo deny --log-level error --offline check bans licenses sources
fi
