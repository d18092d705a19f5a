#!/bin/sh
# The foreign programs that the tests marked "server" need: installs what is missing where that is allowed,
# and else fails with the one line that does it.
set -u

missing=
for pair in haproxy:haproxy chromium:chromium openssl:openssl \
    mosquitto_pub:mosquitto-clients node:nodejs npm:npm \
    redis-server:redis-server redis-sentinel:redis-sentinel \
    pg_ctlcluster:postgresql mariadb-install-db:mariadb-server \
    systemd-analyze:systemd docker-compose:docker-compose gcc:gcc; do # program:Debian package
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
command -v java >/dev/null || missing="$missing default-jre-headless"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -e /usr/include/openssl/evp.h ] || missing="$missing libssl-dev"
[ -e /usr/share/java/zookeeper.jar ] || missing="$missing zookeeper" # no program of it is on the path
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=env
    else
        as_root="sudo -n env" # -n: a run without a terminal must not wait for a password
    fi
    echo "installing$missing"
    install() { $as_root DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >/dev/null 2>&1; }
    # shellcheck disable=SC2086 # one word a package
    { install install -y -q --no-install-recommends $missing \
        || { install update -q && install install -y -q --no-install-recommends $missing; }; } && exit 0
fi

echo "make test needs$missing:  sudo apt-get install -y$missing   (make test-core does without)" >&2
exit 1
