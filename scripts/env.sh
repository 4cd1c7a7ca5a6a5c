# shellcheck shell=bash
# Where a service started from this checkout keeps its things. Sourced by the other scripts; whatever is in the
# environment already goes first.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
here=$PWD/run
export BATON_RUNTIME_DIR=${BATON_RUNTIME_DIR:-$here}
export BATON_STATE_DIR=${BATON_STATE_DIR:-$here/state}
export BATON_LISTEN=${BATON_LISTEN:-0.0.0.0:8000}
# shellcheck disable=SC2034 # for those who source this
color=${BATON_COLOR:-blue}
