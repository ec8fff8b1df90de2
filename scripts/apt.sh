#!/bin/sh
# Installs packages on Debian and its relatives, and says so first: scripts/apt.sh PACKAGE...
set -eu

sudo=
if [ "$(id -u)" -ne 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null || {
        echo "apt-get must be called by root, and there is no sudo here." >&2
        exit 1
    }
fi

# A dpkg that is at work elsewhere is waited for; questions get their default answer.
apt_get() {
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# Mirrors fail now and then.
three_times() {
    for pause_s in 5 20; do
        "$@" && return
        echo "apt-get failed; trying again in $pause_s s" >&2
        sleep "$pause_s"
    done
    "$@"
}

echo "Installing with ${sudo:+sudo }apt-get: $*"
three_times apt_get -o APT::Update::Error-Mode=any update ||
    echo "apt-get update failed; trying with the package lists that are here" >&2
three_times apt_get --no-install-recommends install "$@"
