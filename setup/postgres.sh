#!/bin/sh
# Sees to it that PostgreSQL's programs are on this machine; the tests start servers of their own.
# Exit 1 when they are missing and cannot be installed here, with what to do.
set -eu
cd "$(dirname "$0")/.."

present() {
    command -v initdb >/dev/null && return
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return
    done
    return 1
}

present || setup/apt.sh postgresql
