#!/bin/sh
# Installs Debian or Ubuntu packages: setup/apt.sh PACKAGE...
# Exit 1 where that cannot be done here, with what a person has to do instead.
set -eu

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "missing: $*. Install it with your package manager; on Debian and Ubuntu:" >&2
    echo "    sudo apt-get update && sudo apt-get install $*" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

install() {
    apt-get install --yes --quiet --no-install-recommends "$@" >>"$log" 2>&1
}

echo "apt-get install $*"
# The package lists of a fresh machine are empty, those of an old one too old: only then are they fetched.
install "$@" || { apt-get update --quiet >>"$log" 2>&1 && install "$@"; } || {
    tail -n 20 "$log" >&2
    echo "apt-get could not install $*: see above." >&2
    exit 1
}
