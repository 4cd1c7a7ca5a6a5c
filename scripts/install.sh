#!/usr/bin/env bash
# Installs what `make build manual` has made, or removes it again: install.sh [install|uninstall]
#
#   PREFIX      where to (default: /usr/local)
#   SYSCONFDIR  settings (default: /etc). What is there already is kept, and `uninstall` leaves it
#   DESTDIR     a directory to install below, for who makes a package; its paths are in no file
#   PROGRAMS    where the commands were built (default: target/release)
#   MANUAL      what scripts/manual.sh wrote (default: target/manual)
#   ZSHDIR      completions for zsh (default: PREFIX/share/zsh/site-functions)
#   FISHDIR     completions for fish (default: PREFIX/share/fish/vendor_completions.d)
#
# PREFIX/share/baton/manifest lists what was installed; uninstall goes by it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
: "${PREFIX:=/usr/local}" "${SYSCONFDIR:=/etc}" "${DESTDIR:=}" "${PROGRAMS:=$target/release}" "${MANUAL:=$target/manual}"
: "${ZSHDIR:=$PREFIX/share/zsh/site-functions}" "${FISHDIR:=$PREFIX/share/fish/vendor_completions.d}"
manifest=$PREFIX/share/baton/manifest

die() {
  echo "install.sh: $*" >&2
  exit 1
}
for path in "$PREFIX" "$SYSCONFDIR" "$ZSHDIR" "$FISHDIR"; do
  # They are written into units and the manifest.
  [[ $path =~ ^/[A-Za-z0-9._/+-]*$ ]] || die "$path must be an absolute path of plain characters"
done

# put MODE SOURCE PATH: in place of what is there in one step, so that a program that runs is not written into.
put() {
  install -D -m "$1" "$2" "$DESTDIR$3.new"
  mv -f "$DESTDIR$3.new" "$DESTDIR$3"
  printf '%s\n' "$3" >>"$list"
}
# put_tree SOURCE PATH: a directory of files.
put_tree() {
  local file
  while IFS= read -r file; do
    put 644 "$1/$file" "$2/$file"
  done < <(cd "$1" && find . -type f -printf '%P\n' | sort)
}
# settings MODE SOURCE PATH: what is there is the operator's.
settings() {
  if [ -e "$DESTDIR$3" ]; then
    cmp -s "$2" "$DESTDIR$3" || echo "kept $DESTDIR$3, which differs from ${2#"$work"/}"
  else
    install -D -m "$1" "$2" "$DESTDIR$3"
  fi
}

do_install() {
  if [ ! -x "$PROGRAMS/baton" ] || [ ! -x "$PROGRAMS/batonctl" ] || [ ! -d "$MANUAL/man" ]; then
    die "nothing to install in $PROGRAMS and $MANUAL: run make build manual first"
  fi
  local file page
  work=$(mktemp -d) list=$work/manifest
  trap 'rm -rf "$work"' EXIT
  put 755 "$PROGRAMS/baton" "$PREFIX/bin/baton"
  put 755 "$PROGRAMS/batonctl" "$PREFIX/bin/batonctl"
  for file in systemd/*.service systemd/*.socket systemd/*.target; do
    place "$file"
    put 644 "$work/placed" "$PREFIX/lib/systemd/system/${file##*/}"
  done
  put 644 systemd/sysusers.d/baton.conf "$PREFIX/lib/sysusers.d/baton.conf"
  put 644 systemd/tmpfiles.d/baton.conf "$PREFIX/lib/tmpfiles.d/baton.conf"
  for file in "$MANUAL"/man/*; do
    page=${file##*/}
    gzip -9nc "$file" >"$work/page"
    put 644 "$work/page" "$PREFIX/share/man/man${page##*.}/$page.gz"
  done
  put_tree "$MANUAL/bash" "$PREFIX/share/bash-completion/completions"
  put_tree "$MANUAL/zsh" "$ZSHDIR"
  put_tree "$MANUAL/fish" "$FISHDIR"
  local doc=$PREFIX/share/doc/baton
  put 644 README.md "$doc/README.md"
  put 644 CHANGELOG.md "$doc/CHANGELOG.md"
  put_tree docs "$doc/docs"
  put 644 systemd/socket-activation.conf "$doc/examples/socket-activation.conf"
  # Examples to copy and change; what Prometheus and Grafana take as it is is in share/baton.
  put_tree nginx "$doc/examples/nginx"
  put_tree monitoring "$PREFIX/share/baton/monitoring"
  settings 644 packaging/etc/baton.toml "$SYSCONFDIR/baton/baton.toml"
  settings 640 packaging/etc/default "$SYSCONFDIR/default/baton"
  settings 644 logrotate/baton "$SYSCONFDIR/logrotate.d/baton"
  install -D -m 644 "$list" "$DESTDIR$manifest"
}

# place UNIT: for these directories.
place() {
  local edits=(-e "s#/usr/bin/baton#$PREFIX/bin/baton#" -e "s#=-/etc/default/#=-$SYSCONFDIR/default/#")
  [ "$SYSCONFDIR" = /etc ] || edits+=(-e "/^EnvironmentFile=/i Environment=BATON_CONFIG=$SYSCONFDIR/baton/baton.toml")
  sed "${edits[@]}" "$1" >"$work/placed"
}

do_uninstall() {
  [ -f "$DESTDIR$manifest" ] || die "$DESTDIR$manifest is not there: nothing was installed with this PREFIX"
  local path directory
  while IFS= read -r path; do
    rm -f "$DESTDIR$path"
    # What is empty now and was made for it.
    directory=${path%/*}
    while [ "$directory" != "$PREFIX" ] && rmdir "$DESTDIR$directory" 2>/dev/null; do
      directory=${directory%/*}
    done
  done < <(cat "$DESTDIR$manifest"; printf '%s\n' "$manifest")
}

case ${1:-install} in
  install)
    do_install
    [ -n "$DESTDIR" ] || cat <<TEXT
baton is installed below $PREFIX, its settings are $SYSCONFDIR/baton/baton.toml and $SYSCONFDIR/default/baton. Once, as root:

  systemd-sysusers $PREFIX/lib/sysusers.d/baton.conf
  systemctl daemon-reload
  systemctl enable --now baton@blue

After an update, and nobody is disconnected:  systemctl daemon-reload && baton promote
TEXT
    ;;
  uninstall) do_uninstall ;;
  *)
    sed -n '2s/^# //p' "$0" >&2
    exit 2
    ;;
esac
