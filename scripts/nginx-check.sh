#!/usr/bin/env bash
# Has nginx read the site that is shipped (`nginx -t`), as it would be installed; a warning is an error. Only paths and ports
# are others, so that it needs no certificate of a real host, and need not be root.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp -r nginx/snippets "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=baton.example.org \
  -out "$dir/fullchain.pem" -keyout "$dir/privkey.pem" 2>"$dir/openssl.log" || { cat "$dir/openssl.log" >&2; exit 1; }

# check NAME SED...: nginx -t of the site, changed like this.
check() {
  local name=$1
  shift
  sed -E -e "s|/etc/letsencrypt/live/[^/]+/||; s|/var/log/nginx/||" -e 's/listen (\[::\]:)?80;/listen \118080;/; s/listen (\[::\]:)?443 /listen \118443 /' "$@" \
    nginx/baton.conf >"$dir/baton.conf"
  cat >"$dir/nginx.conf" <<END
pid $dir/nginx.pid;
events {}
http {
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  access_log off;
  include baton.conf;
}
END
  if ! nginx -e stderr -p "$dir/" -c "$dir/nginx.conf" -t >"$dir/said" 2>&1 || grep -q '\[warn\]' "$dir/said"; then
    echo "nginx does not take $name:" >&2
    sed "s|$dir/baton.conf|nginx/baton.conf|; s|$dir/snippets|nginx/snippets|" "$dir/said" >&2
    exit 1
  fi
}
check 'the site'
check 'the site behind a load balancer' -e '/^# server \{/,$ s/^# ?//'
