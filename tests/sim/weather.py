"""What befalls a history of the second layer, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Weather:
    """What befalls this history, how often: each seed has some kinds of trouble and not others.

    Mean times between them are in seconds; None: never.
    """

    lasts_ms: int
    slowest_ms: int
    slow_calls: bool
    long_jobs: bool
    failing: float
    refusing: float
    dying: float
    stalling: float
    troubles: dict[str, float]

    @classmethod
    def of(cls, rng: Random, troubles: dict[str, float]) -> Weather:
        return cls(
            lasts_ms=rng.choice([20_000, 60_000, 120_000, 180_000]),
            slowest_ms=rng.choice([2, 50, 50, 3_000]),
            slow_calls=rng.random() < 0.5,
            long_jobs=rng.random() < 0.5,
            failing=rng.choice([0.0, 0.0, 0.1, 0.4]),
            refusing=rng.choice([0.0, 0.0, 0.1, 0.3]),
            dying=rng.choice([0.0, 0.0, 0.01, 0.05]),
            stalling=rng.choice([0.0, 0.0, 0.01, 0.05]),
            troubles={t: s * rng.choice([0.3, 1.0, 3.0]) for t, s in troubles.items() if rng.random() < 0.45},
        )


Change = Callable[[Weather], Weather]
