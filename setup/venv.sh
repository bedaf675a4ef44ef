#!/bin/sh
# Makes a virtual environment with exactly the packages of requirements.lock: setup/venv.sh FOLDER
# An environment that works is kept and brought up to date.
set -eu
cd "$(dirname "$0")/.."
venv=$1

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if new_enough "$python"; then
            echo "$python"
            return
        fi
    done
    echo "no Python 3.11 or newer found: install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    return 1
}

if ! new_enough "$venv/bin/python"; then
    python=$(find_python)
    # Debian and Ubuntu ship Python without the part that puts pip into an environment.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || setup/apt.sh python3-venv
    "$python" -m venv --clear "$venv"
fi

echo "installing the packages of requirements.lock into $venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements.lock
