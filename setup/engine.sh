#!/bin/sh
# Sees to it that a Docker engine answers: setup/engine.sh PYTHON
# Exit 0: one does. Exit 1: none does, and the last lines say why and what to do.
#
# As root an engine is installed (Debian, Ubuntu) and started if need be; it is left running, and how
# to stop it is said. An engine that runs already is never touched, nor anything that DOCKER_HOST names.
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

runs() {
    grep -qsx "$1" /proc/[0-9]*/comm
}

# comes_up PID: true when an engine answers within a minute and as long as that process lives.
comes_up() {
    for _ in $(seq 60); do
        answers && return
        kill -0 "$1" 2>/dev/null || return 1
        sleep 1
    done
    return 1
}

# start [OPTION...]: a dockerd of our own that answers, or none.
start() {
    # What a machine that was switched off has left would be taken for a process that runs.
    rm -f /var/run/docker.pid
    runs containerd || rm -f /var/run/docker/containerd/containerd.pid
    setsid dockerd "$@" >>"$log" 2>&1 </dev/null &
    comes_up $! || {
        kill $! 2>/dev/null && wait $!
        return 1
    }
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
    echo "    sudo apt-get update && sudo apt-get install docker.io iptables" >&2
    echo "    sudo usermod -aG docker $(id -un)   (then log in again)" >&2
    exit 1
fi

if ! command -v dockerd >/dev/null; then
    setup/apt.sh docker.io iptables
fi
if [ -d /run/systemd/system ]; then
    systemctl start docker || true
    if answers; then
        echo "the Docker engine was started and is left running; to stop it: systemctl stop docker"
        exit 0
    fi
    echo "systemd did not bring up a Docker engine that answers: see journalctl -u docker." >&2
    exit 1
fi

if runs dockerd; then
    comes_up $$ && exit 0
    echo "a dockerd runs but does not answer at /var/run/docker.sock: see to it, or set DOCKER_HOST." >&2
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
echo "it is left running; to stop it: kill \$(cat /var/run/docker.pid)"
