#!/bin/sh
# Finds out what this machine is missing for `make run` or `make test`, and installs it where there is
# apt-get; elsewhere it says what to install: scripts/setup.sh run|test
set -eu
purpose=$1
. scripts/env.sh

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

has_cxx() { echo | ${CXX:-c++} -x c++ -E - >/dev/null 2>&1; }
has_cmake() {
    cmake --version 2>/dev/null |
        awk '{ split($3, v, "."); ok = v[1] > 3 || v[1] == 3 && v[2] >= 10; exit } END { exit !ok }'
}
has_pkg_config() { command -v pkg-config >/dev/null; }
has_openssl() {
    echo '#include <openssl/ssl.h>' |
        ${CC:-cc} ${OPENSSL_ROOT_DIR:+-I"$OPENSSL_ROOT_DIR/include"} -x c -E - >/dev/null 2>&1
}
has_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# need PROBE NAME DEBIAN FEDORA ARCH MACOS: notes what to install if the probe fails.
need() {
    "has_$1" && return
    missing="$missing${missing:+, }$2"
    debian="$debian $3" fedora="$fedora $4" arch="$arch $5" macos="$macos $6"
}

# Without what is required nothing can be built. Without Python its client's test is skipped.
probe() {
    missing='' debian='' fedora='' arch='' macos=''
    need cxx 'a C++ compiler' g++ gcc-c++ gcc gcc
    need cmake 'cmake 3.10 or later' cmake cmake cmake cmake
    need pkg_config pkg-config pkg-config pkgconf-pkg-config pkgconf pkgconf
    need openssl "OpenSSL's headers" libssl-dev openssl-devel openssl openssl@3
    required=$missing
    [ "$purpose" = run ] || need python 'Python 3 with venv' python3-venv python3 python python
}

check_rust() {
    oldest=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' Cargo.toml)
    command -v cargo >/dev/null && command -v rustc >/dev/null ||
        fail "Rust is missing. Get 1.$oldest or later from https://rustup.rs"
    rust=$(rustc --version) || fail 'rustc does not run; see the line above.'
    minor=$(echo "$rust" | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge "$oldest" ] ||
        fail "$rust is here, and 1.$oldest or later is needed." \
            'Type: rustup update, or get it from https://rustup.rs'
}

check_rust_components() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null ||
        fail 'rustfmt or clippy is missing. Install the packages of your Rust toolchain:' \
            '  Fedora:  dnf install rustfmt clippy' \
            '  others:  get Rust from https://rustup.rs, then type: rustup component add rustfmt clippy'
    echo 'Installing with rustup: rustfmt clippy'
    rustup component add rustfmt clippy
}

set_up_packages() {
    probe
    if [ -n "$missing" ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086 # a word is a package
        scripts/apt.sh $debian || true
        probe
    fi
    [ -z "$required" ] ||
        fail "make $purpose needs what this machine does not have: $missing" \
            "  Debian, Ubuntu:  apt-get install$debian" \
            "  Fedora:          dnf install$fedora" \
            "  Arch:            pacman -S$arch" \
            "  macOS:           brew install$macos" \
            '                   export OPENSSL_ROOT_DIR="$(brew --prefix openssl@3)"'
    [ -z "$missing" ] ||
        echo "There is no $missing here, so the test of the Python client will be skipped." >&2
}

check_rust
set_up_packages
[ "$purpose" = run ] || check_rust_components
