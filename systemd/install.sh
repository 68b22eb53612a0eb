#!/bin/sh
# Installs Teleprinter as a systemd service on Debian 12 or newer; run as root from a clone.
#
#   sh systemd/install.sh              install, enable, start; say where the page is
#   sh systemd/install.sh upgrade      to this clone's version; requests wait, none is lost
#   sh systemd/install.sh remove       take it away; settings stay, unless --purge is given
#
# /opt/teleprinter/VERSION-TIME    a virtual environment and its units; `current` leads to one
# /usr/local/lib/systemd/system    the units
# /etc/teleprinter                 teleprinter.toml, and credentials/, which only root can read
# pip takes its options from PIP_*, as ever.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
home=/opt/teleprinter
units=/usr/local/lib/systemd/system
settings=/etc/teleprinter
command=/usr/local/bin/teleprinter
python=/usr/bin/python3 # the system's: what lives below /root or /home cannot run sandboxed

die() {
    echo "teleprinter: $*" >&2
    exit 1
}

check_machine() {
    [ "$(id -u)" = 0 ] || die "this needs root: sudo sh systemd/install.sh"
    [ -d /run/systemd/system ] || die "systemd does not run here: \`make run\` needs none"
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$python is missing or older than 3.11: Debian 12 has 3.11"
    ensurepip=$("$python" -c 'import venv, ensurepip; print(*ensurepip.__path__)' 2>/dev/null) ||
        die "$python has no venv module: apt-get install python3-venv"
    pip=$(find /usr/share/python-wheels "$ensurepip" -name 'pip-*.whl' 2>/dev/null | head -n 1)
    [ -n "$pip" ] || die "the pip that comes with $python is missing: apt-get install python3-venv"
}

# Makes a release beside the one that runs, whole or not at all; its folder's name is in $release.
build() {
    check_python
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/service/__init__.py")
    release=$home/$version-$(date +%Y%m%d%H%M%S)
    mkdir -p "$home"
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$release"' EXIT
    trap 'exit 130' INT TERM
    # pip builds where the sources are: not in the clone, and with nothing left from another build
    cp -R "$source/service" "$source/pyproject.toml" "$source/README.md" "$source/LICENSE" "$work"
    # the service needs no pip of its own: the one of the system's Python, out of its archive, will do
    "$python" -m zipfile -e "$pip" "$work/pip"
    "$python" -m venv --without-pip "$release"
    PYTHONPATH=$work/pip "$python" -m pip --python "$release/bin/python" --quiet \
        --disable-pip-version-check install -c "$source/requirements.lock" "$work[redis]"
    mkdir "$release/systemd"
    cp "$source"/systemd/teleprinter* "$release/systemd"
    chmod -R go+rX,go-w "$release"
    rm -rf "$work"
    trap - EXIT INT TERM
}

# Makes a release the one that the next start runs.
switch_to() {
    ln -sfn "$1" "$home/next"
    mv -T "$home/next" "$home/current"
    mkdir -p "$units" "$(dirname "$command")"
    cp "$1"/systemd/teleprinter* "$units"
    ln -sfn "$home/current/bin/teleprinter" "$command"
    systemctl daemon-reload
}

running() {
    systemctl list-units --plain --no-legend --state=active,reloading,activating \
        'teleprinter.service' 'teleprinter@*.service' | cut -d' ' -f1
}

# One after the other: what comes meanwhile waits in the sockets.
restart_all() {
    for unit in $(running); do
        systemctl restart "$unit" || return 1
    done
}

write_settings() {
    mkdir -p "$settings"
    chmod 755 "$settings"
    [ -e "$settings/teleprinter.toml" ] ||
        install -m 644 "$source/config/teleprinter.toml" "$settings/teleprinter.toml"
    install -d -m 700 "$settings/credentials"
}

say_where() {
    listen=$(systemctl show --value -p Listen teleprinter.socket | sed -n 's/ (Stream)$//p' | head -n 1)
    scheme=http
    ! grep -qs '^tls_cert *= *"[^"]' "$settings/teleprinter.toml" || scheme=https
    echo "Teleprinter runs: $scheme://$listen/"
    echo "Settings: $settings/teleprinter.toml, then  systemctl reload teleprinter"
}

install_it() {
    if [ -e "$home/current" ]; then
        upgrade
    else
        build
        write_settings
        switch_to "$release"
        systemctl --quiet enable teleprinter.target teleprinter.service
    fi
    systemctl start teleprinter.target teleprinter.socket teleprinter.service ||
        die "it did not start: journalctl -u teleprinter says why; mend it, then run this again"
    say_where
}

upgrade() {
    [ -e "$home/current" ] || die "not installed: sh systemd/install.sh"
    old=$(readlink -f "$home/current")
    build
    write_settings
    switch_to "$release"
    if ! restart_all; then
        switch_to "$old"
        restart_all || true
        rm -rf "$release"
        die "the new version did not start, the old one is back: journalctl -u teleprinter says why"
    fi
    find "$home" -mindepth 1 -maxdepth 1 -type d ! -path "$release" -exec rm -rf {} +
}

remove() {
    systemctl --quiet disable --now teleprinter.target teleprinter.service teleprinter.socket \
        2>/dev/null || true
    for unit in $(systemctl list-units --all --plain --no-legend 'teleprinter@*' | cut -d' ' -f1); do
        systemctl --quiet disable --now "$unit" 2>/dev/null || true
    done
    rm -rf "$home" "$command" "$units"/teleprinter.* "$units"/teleprinter@.*
    systemctl daemon-reload
    systemctl reset-failed 'teleprinter*' 2>/dev/null || true
    if [ "${1:-}" = --purge ]; then
        rm -rf "$settings" /etc/systemd/system/teleprinter*.d
        systemctl daemon-reload
        echo "Teleprinter is removed, its settings too."
    else
        echo "Teleprinter is removed. Its settings stay in $settings (--purge takes them too)."
    fi
}

check_machine
case "${1:-install} ${2:-}" in
"install ") install_it ;;
"upgrade ")
    upgrade
    say_where
    ;;
"remove ") remove ;;
"remove --purge") remove --purge ;;
*) die "expected install, upgrade, remove or remove --purge" ;;
esac
