#!/usr/bin/env bash
# Loads the service at WS_BASE_URL with 5,000 connections, or with what the arguments of `baton load-test` say. If none
# answers there, one is started for it in a temporary directory, and ended afterwards.
set -euo pipefail
# Paths among the arguments are those of the caller, so this stays where it is.
baton=$(dirname "$0")/../target/release/baton
ulimit -n "$(ulimit -Hn)"
url=${WS_BASE_URL:-ws://localhost:8000}
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --url)
      url=${2:-}
      [ $# = 1 ] || shift
      ;;
    --url=*) url=${1#--url=} ;;
    -h | --help) exec "$baton" load-test --help ;;
    *) arguments+=("$1") ;;
  esac
  case $1 in -c* | --connections*) connections=given ;; esac
  shift
done
[ -n "${connections:-}" ] || arguments+=(--connections 5000)

# As http:// it is what curl can ask. Any answer is one: not every server is baton.
if curl --silent --insecure --max-time 5 --output /dev/null "${url/#ws/http}"; then
  exec "$baton" load-test --url "$url" "${arguments[@]}"
fi
case $url in
  ws://localhost | ws://localhost[:/]* | ws://127.* | ws://\[::1\]*) ;;
  *)
    echo "nobody answers at $url, and it is not of this machine" >&2
    exit 1
    ;;
esac
directory=$(mktemp --directory)
service=
# shellcheck disable=SC2317 # the trap calls it
finish() {
  if [ -n "$service" ]; then
    kill "$service" 2>/dev/null || true
    wait "$service" || true
  fi
  rm -rf "$directory"
}
trap finish EXIT
echo "nobody answers at $url: a service is started for this test" >&2
# A port that the kernel chooses, and nobody else's Redis: nobody is disturbed.
unset BATON_LOG_DIR BATON_REDIS_URL REDIS_URL
export BATON_LISTEN=127.0.0.1:0 BATON_RUNTIME_DIR=$directory/run BATON_STATE_DIR=$directory/state
setsid "$baton" run >"$directory/log" 2>&1 </dev/null &
service=$!
address=
for _ in $(seq 600); do
  if ! kill -0 "$service" 2>/dev/null; then break; fi
  address=$(sed -n 's/.*"message":"listening".*"address":"\([^"]*\)".*/\1/p' "$directory/log" | head -n 1)
  if [ -n "$address" ] && curl --fail --silent --max-time 2 --output /dev/null "http://$address/readyz"; then break; fi
  address=
  sleep 0.05
done
if [ -z "$address" ]; then
  cat "$directory/log" >&2
  echo "baton did not start" >&2
  exit 1
fi
"$baton" load-test --url "ws://$address" "${arguments[@]}"
