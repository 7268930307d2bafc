# shellcheck shell=bash
# What every script shares: strict mode, the clone's root, messages, ports.
# Sourced. The scripts keep to bash 3.2, which is what macOS has.
set -euo pipefail

# CDPATH would make `cd` print, and so end up in the value.
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
export SCRIPTS=$ROOT/scripts

say() { printf 'rill: %s\n' "$*" >&2; }

die() {
    printf 'rill: error: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the range that the kernel takes outgoing connections' ports from, so
# that none of these is in the way. Two scripts may still pick the same port:
# whoever starts a server on it tries again with another.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        port_taken "$port" || break
    done
    echo "$port"
}

need_cargo() {
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust 1.90 or newer (https://rustup.rs)"
}

# Where cargo puts the binary; CARGO_TARGET_DIR or a user's own configuration
# may have moved it.
rill_binary() {
    cargo metadata --no-deps --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1\/debug\/rill/p'
}
