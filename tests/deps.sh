#!/bin/sh
# Installs the system's programs that the tests run, and starts no service of theirs.
# Root on Debian: apt-get. Elsewhere: names what is missing; the tests concerned are skipped.
set -eu

PATH=$PATH:/usr/sbin:/sbin # where Debian's users do not look
missing=
need() { # PACKAGE COMMAND…: the package, if the command fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

need tinyproxy-bin command -v tinyproxy
need microsocks command -v microsocks
need squid command -v squid
need dante-server command -v danted
need shadowsocks-libev command -v ss-server
need redis-server command -v redis-server
need nginx-light command -v nginx
need chromium-headless-shell command -v chromium-headless-shell
need curl command -v curl
need systemd test -x /usr/lib/systemd/systemd
need util-linux command -v setpriv
need python3-venv /usr/bin/python3 -c 'import ensurepip, venv' # what the service runs on
need gcc cc -E -x c -include sys/epoll.h /dev/null
need libc6-dev cc -E -x c -include sys/epoll.h /dev/null
need python3-venv "${PYTHON:-python3}" -c 'import ensurepip, venv'
if [ -e tests/clients/package.json ]; then
    need npm command -v npm
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed:$missing. The tests that need them are skipped." \
        "On Debian:  sudo make test-deps" >&2
    exit 0
fi

# invoke-rc.d and deb-systemd-invoke ask this file; 101 = do not start anything
policy=/usr/sbin/policy-rc.d
mark='# made by teleprinter'
if [ ! -e $policy ] || grep -qsx "$mark" $policy; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy
    chmod 755 $policy
fi

install() {
    # shellcheck disable=SC2086  it is a list
    DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 $missing
}
echo "Installing$missing" >&2
install || { apt-get update -qq && install; }

# nor at the next boot, those that were not there before
for pair in squid:squid dante-server:danted shadowsocks-libev:shadowsocks-libev redis-server:redis-server nginx-light:nginx; do
    case "$missing " in *" ${pair%:*} "*) update-rc.d "${pair#*:}" disable ;; esac
done
