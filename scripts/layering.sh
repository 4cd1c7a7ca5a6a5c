#!/usr/bin/env bash
# Who may know whom: commands -> supervisor, worker -> ipc. The supervisor forks, so nothing in it may start threads or
# bring a runtime; the worker leaves processes alone; ipc carries and decides nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
complain() { printf 'layering: %s\n' "$*" >&2; failed=1; }

# forbid CRATE NAME...: none of these in what CRATE is built from.
forbid() {
  local crate=$1 tree name
  shift
  tree=$(cargo tree --locked --package "$crate" --edges normal --prefix none --format '{lib}')
  for name in "$@"; do
    if grep -qx "$name" <<<"$tree"; then complain "$crate must not depend on $name"; fi
  done
}
forbid baton-ipc baton_supervisor baton_worker baton tokio tracing hyper tungstenite redis heed
forbid baton-supervisor baton_worker baton tokio hyper tungstenite tokio_tungstenite redis heed mio tracing_appender
forbid baton-worker baton_supervisor baton

# No process is made, reaped or signalled but by the supervisor's process.rs, with the system calls of sys.rs, and by the parent of
# all generations, which does nothing else.
while IFS=: read -r file line text; do
  complain "$file:$line: only supervisor/src/process.rs, parent.rs and sys.rs handle processes:$text"
done < <(grep -rnE 'unistd::fork|signal::kill|sys::wait|waitpid|waitid|pidfd_' --include='*.rs' worker/src supervisor/src src |
  grep -vE '^supervisor/src/(parent|process|sys)\.rs|/tests?(/|\.rs)|testing\.rs|^[^:]+:[0-9]+: *//' || true)

# `unsafe` only where the first lines of the file say why.
while read -r file; do
  head -n 12 "$file" | grep -q 'allow(unsafe_code)' || grep -q '#\[allow(unsafe_code)\]' "$file" ||
    complain "$file: unsafe code without saying why at the top"
done < <(grep -rlE '\bunsafe (\{|fn|impl)' --include='*.rs' worker/src supervisor/src supervisor/ipc/src src || true)

exit $failed
