"""PURE. What core-hours cost: prices as versioned data, exact integer nano-dollars.

Source of the seed's figures: the user's document, section Billing. Each attempt x resource x UTC day is
priced by the card of that day and rounded to a nano-dollar once (half up); every total is a sum of
those integers (SPEC R4-R6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

DAY_MS = 86_400_000
HOURS_PER_MONTH = Fraction(36525, 100) / 12 * 24
"""365.25 / 12 = 30.4375 days."""


@dataclass(frozen=True, slots=True)
class RateCard:
    """Prices in force from a UTC day on until the next card's first day."""

    from_day: int
    """Days since 1970-01-01."""
    prices: tuple[tuple[str, Fraction], ...]
    """(resource, dollars per core and hour)."""

    def total(self) -> Fraction:
        return sum((price for _, price in self.prices), Fraction(0))


Rates = tuple[RateCard, ...]
"""Ordered by first day; the first one's is day 0. A card never changes once its first day has begun."""

SEED_RATES: Rates = (
    RateCard(
        from_day=0,
        prices=(
            ("compute", Fraction(1, 100)),
            # 0.17 $ per GB and month, 100 GB of disk on a machine of 16 cores.
            ("disk", Fraction(17, 100) * 100 / HOURS_PER_MONTH / 16),
            ("ip", Fraction(25, 100_000)),
            ("service", Fraction(1, 100)),
        ),
    ),
)

_NANOUSD_PER_USD = 10**9
_MCPU_MS_PER_CORE_HOUR = 1000 * 3_600_000


class Charge(NamedTuple):
    """What a piece of an attempt's time costs: one resource on one day."""

    day: int
    resource: str
    mcpu_ms: int
    nanousd: int


def dollars(nanousd: int) -> str:
    """For people: whole cents, never more than it is; of less than a cent, as many digits as it takes.

    >>> dollars(231_409_999_999), dollars(0), dollars(36)
    ('$231.40', '$0.00', '$0.000000036')
    """
    if 0 < nanousd < 10**7:
        return f"${nanousd / 10**9:.9f}".rstrip("0")
    return f"${nanousd // 10**9:,}.{nanousd // 10**7 % 100:02}"


def rate_card(day: int, rates: Rates = SEED_RATES) -> RateCard:
    """The card in force on a UTC day since 1970."""
    return next(card for card in reversed(rates) if card.from_day <= day)


_last: tuple[tuple[int, int, int], Rates, tuple[Charge, ...]] = (0, 0, 0), (), ()
"""Whoever decides and whoever writes it down ask for the same, one after the other."""


def charges(mcpu: int, started_at_ms: int, main_ms: int, rates: Rates = SEED_RATES) -> tuple[Charge, ...]:
    """The charges for one attempt's main container, which reserved so much and ran so long.

    >>> sum(charge.nanousd for charge in charges(1000, 0, 3_600_000))
    21704483
    """
    global _last
    asked = mcpu, started_at_ms, main_ms
    if _last[0] != asked or _last[1] is not rates:
        _last = asked, rates, tuple(_charges(*asked, rates))
    return _last[2]


def _charges(mcpu: int, started_at_ms: int, main_ms: int, rates: Rates) -> Iterator[Charge]:
    at, left = started_at_ms, main_ms
    while left > 0:
        day = at // DAY_MS
        piece = min(left, (day + 1) * DAY_MS - at)
        for resource, price in rate_card(day, rates).prices:
            top = 2 * mcpu * piece * _NANOUSD_PER_USD * price.numerator
            bottom = _MCPU_MS_PER_CORE_HOUR * price.denominator
            yield Charge(day, resource, mcpu * piece, (top + bottom) // (2 * bottom))
        at += piece
        left -= piece


def cost_nanousd(mcpu: int, started_at_ms: int, main_ms: int, rates: Rates = SEED_RATES) -> int:
    """What one attempt costs: the sum of its charges."""
    return sum(charge.nanousd for charge in charges(mcpu, started_at_ms, main_ms, rates))


def with_card(rates: Rates, card: RateCard) -> Rates:
    """The rates with this card, instead of another one of the same day if there is one."""
    return tuple(sorted((*(c for c in rates if c.from_day != card.from_day), card), key=lambda c: c.from_day))
