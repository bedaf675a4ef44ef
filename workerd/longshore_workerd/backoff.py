"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from random import Random


def backoff(failures: int, rng: Random, *, first_s: float = 0.5, longest_s: float = 15.0) -> float:
    """Seconds, with full jitter: anything up to ``first_s`` after one failure, doubling from there."""
    return rng.uniform(0, min(longest_s, first_s * 2 ** min(failures - 1, 30)))
