"""Runs a module as `python -m` does, in a process that ends when its parent does.

    python -P tied.py PARENT_PID LOCK_FD MODULE ARGUMENT...

However the parent ends, the kernel sends SIGTERM to this process. LOCK_FD is an open file that it keeps
as long as it lives, and that its own children do not get: whoever waits for the lock on that file waits
for this process too. A file of its own, without imports from the package, so that it costs nothing.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, lock_fd, module, *arguments = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent_pid):
        sys.exit("the process that started this one has ended already")
    os.set_inheritable(int(lock_fd), False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
