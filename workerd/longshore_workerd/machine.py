"""What this machine has and which clock it goes by."""

from __future__ import annotations

import os
import time
from pathlib import Path

BYTES_PER_CORE = 3_750_000_000
"""A core is offered only together with its 3.75 GB."""


def clock_ms() -> int:
    """Milliseconds since the machine booted, time in suspend included; never stops, never jumps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> str:
    """Names this boot of the kernel: another one means that no container of before runs."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def offered_mcpu() -> int:
    """What this machine can offer: its cores, as far as its memory goes with them; at least one core."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = min(len(os.sched_getaffinity(0)), memory_bytes // BYTES_PER_CORE)
    return max(1, cores) * 1000
