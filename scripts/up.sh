#!/usr/bin/env bash
# Starts baton in the background and returns when /readyz says 200.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
export BATON_LOG_DIR=${BATON_LOG_DIR:-$here/log}
# baton refuses directories that others may write to.
umask g-w,o-w
mkdir -p "$BATON_RUNTIME_DIR" "$BATON_LOG_DIR"
# 3: it answers, and not all slots serve.
if target/release/batonctl status >/dev/null 2>&1 || [ $? = 3 ]; then
  echo "baton is up already:"
  exec target/release/batonctl status
fi
# What it says before its log is open, and if it cannot start.
said=$BATON_RUNTIME_DIR/$color.start
setsid nohup target/release/baton run >"$said" 2>&1 </dev/null &
pid=$!
address=${BATON_LISTEN%%,*}
address=${address/#0.0.0.0:/localhost:}
ready() {
  case $address in
    unix:*) target/release/batonctl status >/dev/null 2>&1 ;;
    *) curl --fail --silent --max-time 2 --output /dev/null "http://$address/readyz" ;;
  esac
}
for _ in $(seq 600); do
  if ! kill -0 "$pid" 2>/dev/null; then
    cat "$said" >&2
    echo "baton did not start" >&2
    exit 1
  fi
  if ready; then
    cat <<TEXT
baton is up, pid $pid, color $color.

  test page   http://$address/test/
  WebSocket   ws://$address/ws/chat/
  status      make status       http://$address/status
  metrics     http://$address/metrics
  log         make logs         $BATON_LOG_DIR
  deploy      make promote      (a new build takes over; clients stay connected)
  stop        make down
TEXT
    exit 0
  fi
  sleep 0.05
done
echo "baton runs (pid $pid) but is not ready after 30 s:" >&2
curl --silent --max-time 2 "http://$address/readyz" >&2 || true
exit 1
