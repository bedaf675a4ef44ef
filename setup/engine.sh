#!/bin/sh
# Sees to it that a Docker engine answers: setup/engine.sh PYTHON
# Exit 0: one does. Exit 1: none does, and the last lines say why and what to do.
#
# As root an engine is installed (Debian, Ubuntu) and started if need be; it is left running. An
# engine that runs already is never touched, nor anything that DOCKER_HOST names.
set -eu
cd "$(dirname "$0")/.."
python=$1
log=/var/log/dockerd.log

answers() {
    "$python" -c 'import docker; docker.from_env(timeout=10).ping()' 2>/dev/null
}

# Without an init system nobody has mounted the control groups that limit containers.
mount_cgroups() {
    mountpoint -q /sys/fs/cgroup && return
    if command -v cgroupfs-mount >/dev/null; then
        cgroupfs-mount
    else
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi
}

# start [OPTION...]: a dockerd of our own; true when it answers within a minute, else it is ended.
start() {
    setsid dockerd "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 60); do
        answers && return
        kill -0 $pid 2>/dev/null || return 1
        sleep 1
    done
    kill $pid
    return 1
}

if answers; then
    exit 0
fi
if [ -n "${DOCKER_HOST:-}" ]; then
    echo "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "no Docker engine answers for user $(id -un). Install and start one, and let the user in:" >&2
    echo "    sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)   (then log in again)" >&2
    exit 1
fi

if ! command -v dockerd >/dev/null; then
    setup/apt.sh docker.io iptables
fi
if [ -d /run/systemd/system ]; then
    systemctl start docker || true
    answers && exit 0
    echo "systemd did not bring up a Docker engine that answers: see journalctl -u docker." >&2
    exit 1
fi

echo "starting dockerd (its log: $log)"
mount_cgroups || echo "no control groups could be mounted at /sys/fs/cgroup; trying without." >&2
# overlay2 cannot lie on every file system (not on another overlay, for one); vfs can, and is slow.
start --storage-driver=overlay2 || start --storage-driver=vfs || {
    tail -n 5 "$log" >&2
    echo "dockerd did not start: see $log." >&2
    exit 1
}
