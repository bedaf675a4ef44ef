"""PURE. What core-hours cost: the seed's prices as versioned data, exact integer nano-dollars.

Source of the figures: the user's document, section Billing. Each attempt x resource x UTC day is
rounded to a nano-dollar once (half up); every total is a sum of those integers (SPEC R4-R6).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

DAY_MS = 86_400_000
HOURS_PER_MONTH = Fraction(36525, 100) / 12 * 24
"""365.25 / 12 = 30.4375 days."""


@dataclass(frozen=True, slots=True)
class RateCard:
    """Prices in dollars per core per hour, in force from an instant on until the next card's."""

    from_ms: int
    usd_per_core_hour: dict[str, Fraction]

    def total(self) -> Fraction:
        return sum(self.usd_per_core_hour.values(), Fraction(0))


RATE_CARDS = (
    RateCard(
        from_ms=0,
        usd_per_core_hour={
            "compute": Fraction(1, 100),
            # 0.17 $ per GB and month, 100 GB of disk on a machine of 16 cores.
            "disk": Fraction(17, 100) * 100 / HOURS_PER_MONTH / 16,
            "ip": Fraction(25, 100_000),
            "service": Fraction(1, 100),
        },
    ),
)
"""Ordered by start. An attempt's time is billed by the card of the instant at which its main
container started."""

_NANOUSD_PER_USD = 10**9
_MCPU_MS_PER_CORE_HOUR = 1000 * 3_600_000


def rate_card(at_ms: int, cards: tuple[RateCard, ...] = RATE_CARDS) -> RateCard:
    """The card in force at an instant."""
    return next(card for card in reversed(cards) if card.from_ms <= at_ms)


def charges(
    mcpu: int, started_at_ms: int, main_ms: int, cards: tuple[RateCard, ...] = RATE_CARDS
) -> dict[tuple[int, str], int]:
    """Nano-dollars by (UTC day since 1970, resource) for one attempt's main container.

    >>> sum(charges(1000, 0, 3_600_000).values())
    21704483
    """
    card = rate_card(started_at_ms, cards)
    out: dict[tuple[int, str], int] = {}
    at, left = started_at_ms, main_ms
    while left > 0:
        day = at // DAY_MS
        piece = min(left, (day + 1) * DAY_MS - at)
        for resource, usd in card.usd_per_core_hour.items():
            top = 2 * mcpu * piece * _NANOUSD_PER_USD * usd.numerator
            bottom = _MCPU_MS_PER_CORE_HOUR * usd.denominator
            out[day, resource] = (top + bottom) // (2 * bottom)
        at += piece
        left -= piece
    return out


def cost_nanousd(mcpu: int, started_at_ms: int, main_ms: int) -> int:
    """What one attempt costs: the sum of its charges."""
    return sum(charges(mcpu, started_at_ms, main_ms).values())
