"""Money: what was used and what it cost, who pays, prices; what something would cost.

Amounts are exact: whole billionths of a dollar, and the same as dollars. Days are those of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from types import MappingProxyType

from .errors import UsageError, WrongType
from .status import BatchStatus, Priced, Record
from .units import Amount, parse_bytes, parse_cpu, parse_seconds, reserved_mcpu

WARNED_AT = Decimal("0.8")
"""Of a limit: whoever submits is warned from here on."""
_NANO = 10**9
_MAX_NANOUSD = 2**63 - 1
_MCPU_MS_PER_CORE_HOUR = 1000 * 3_600_000
_PRICE = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18}|/[0-9]*[1-9][0-9]*)?")


@dataclass(frozen=True, slots=True)
class Cost(Priced):
    """What attempts that have ended used; of what `costs` was not asked to tell apart it says None or ''."""

    cost_nanousd: int
    msec_mcpu: int
    """Reserved thousandths of a core times milliseconds, counted once whatever was charged for it."""
    day: date | None = None
    """Of use."""
    billing_project: str = ""
    user: str = ""
    batch_id: int | None = None
    resource: str = ""

    @property
    def core_hours(self) -> Decimal:
        """Reserved cores times hours.

        >>> Cost(0, 3_600_000_000).core_hours
        Decimal('1')
        """
        return Decimal(self.msec_mcpu) / _MCPU_MS_PER_CORE_HOUR

    def _keys(self) -> tuple[str, ...]:
        return (*self.__dataclass_fields__, "cost", "core_hours")


@dataclass(frozen=True, slots=True)
class Member(Record):
    """Of a billing project."""

    user: str
    role: str
    """``member`` or ``owner``."""


@dataclass(frozen=True, slots=True)
class BillingProject(Record):
    """Who pays; ``limit``, ``spent`` and ``running`` are exact dollars."""

    name: str
    limit_nanousd: int | None
    """None: no limit. When it is spent nothing new starts."""
    hard: bool
    """What runs is cancelled then, too."""
    closed: bool
    """Nothing new starts, whatever is spent."""
    spent_nanousd: int
    """By attempts that have ended."""
    running_nanousd: int
    """By attempts that run, as of a minute ago at most."""
    members: tuple[Member, ...] = ()
    """By name; empty in lists."""

    @property
    def limit(self) -> Decimal | None:
        """What it may spend; None: all it wants.

        >>> client.billing.project('my-project').limit is None
        True
        """
        return None if self.limit_nanousd is None else _dollars(self.limit_nanousd)

    @property
    def spent(self) -> Decimal:
        """By attempts that have ended.

        >>> client.billing.project('my-project').spent > 0
        True
        """
        return _dollars(self.spent_nanousd)

    @property
    def running(self) -> Decimal:
        """By attempts that run, as of a minute ago at most.

        >>> client.billing.project('my-project').running >= 0
        True
        """
        return _dollars(self.running_nanousd)

    @property
    def share(self) -> Decimal | None:
        """Of the limit, that is spent or running up.

        >>> BillingProject('a', 200, False, False, 100, 50).share
        Decimal('0.75')
        """
        if self.limit_nanousd is None:
            return None
        used = self.spent_nanousd + self.running_nanousd
        return Decimal(used) / self.limit_nanousd if self.limit_nanousd else Decimal(1)

    @property
    def state(self) -> str:
        """``open``, ``warned`` (80 % of the limit are spent), ``spent`` (nothing starts) or ``closed``.

        >>> BillingProject('a', 200, False, False, 160, 0).state
        'warned'
        """
        share = self.share
        if self.closed:
            return "closed"
        if share is None or share < WARNED_AT:
            return "open"
        return "spent" if share >= 1 else "warned"

    def _keys(self) -> tuple[str, ...]:
        return ("name", "state", "limit", "hard", "closed", "spent", "running", "members")


@dataclass(frozen=True, slots=True)
class RateCard(Record):
    """What a core costs for an hour, from a day on until the next card's."""

    from_day: date
    prices: Mapping[str, str] = field(default_factory=dict)
    """By resource: exact dollars, as ``1/100`` or ``0.01``."""

    @property
    def total(self) -> Fraction:
        """Dollars per core and hour, exact.

        >>> RateCard(date(2026, 1, 1), {'compute': '0.01', 'ip': '1/4000'}).total
        Fraction(41, 4000)
        """
        return sum((Fraction(usd) for usd in self.prices.values()), Fraction(0))


@dataclass(frozen=True, slots=True)
class Estimate(Priced):
    """What jobs would cost whose main containers run for so long, by the prices of one day."""

    reserved_mcpu: int
    """Of one job: what is billed, whether it is used or not."""
    duration_ms: int
    n_jobs: int
    cost_nanousd: int
    by_resource: Mapping[str, Decimal]
    """Dollars."""


def estimate(
    card: RateCard, cpu: Amount | None, memory: Amount | None, seconds: float, n_jobs: int
) -> Estimate:
    """Raises UsageError for amounts that are none.

    >>> card = RateCard(date(1970, 1, 1), {'compute': '1/100', 'service': '0.01'})
    >>> found = estimate(card, 1, '7G', 3600, 10)
    >>> found.reserved_mcpu, found.cost
    (2000, Decimal('0.400000000'))
    """
    mcpu = reserved_mcpu(
        0 if cpu is None else parse_cpu(cpu), 0 if memory is None else parse_bytes("memory", memory)
    )
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or not 0 < n_jobs <= 10_000_000:
        raise UsageError(f"{n_jobs!r} jobs: a whole number from 1 to 10,000,000")
    ms = parse_seconds("duration", seconds)
    parts = {name: n_jobs * _charge(mcpu, ms, Fraction(usd)) for name, usd in card.prices.items()}
    in_dollars = {name: _dollars(nanousd) for name, nanousd in parts.items()}
    return Estimate(mcpu, ms, n_jobs, sum(parts.values()), MappingProxyType(in_dollars))


FEW = 30
"""With fewer complete jobs a forecast is but a guess."""


def forecast(batch: BatchStatus) -> tuple[Decimal, str] | None:
    """What the batch will come to if the rest is as what is complete, and how good that is, if it is any."""
    if batch.complete or not batch.closed or not batch.n_succeeded or batch.state == "cancelled":
        return None
    usd = batch.cost / batch.n_completed * batch.n_jobs
    rough = batch.n_completed < FEW or batch.n_completed * 20 < batch.n_jobs
    least = batch.cost + batch.unfinished_cost
    return max(usd, least), "rough" if rough else "if the rest is like what is complete"


def parse_dollars(value: object) -> int:
    """Billionths of a dollar.

    >>> parse_dollars('500'), parse_dollars(Decimal('0.25')), parse_dollars('$1,000')
    (500000000000, 250000000, 1000000000000)
    """
    form = "dollars, e.g. 500 or 0.25"
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise WrongType(f"{value!r} must be {form}")
    try:
        text = value.strip().removeprefix("$").replace(",", "") if isinstance(value, str) else str(value)
        nanousd = Decimal(text) * _NANO
    except InvalidOperation:
        raise UsageError(f"{value!r} must be {form}") from None
    if not nanousd.is_finite() or not 0 < nanousd <= _MAX_NANOUSD or nanousd != nanousd.to_integral_value():
        raise UsageError(f"{value!r} must be {form}: more than 0, and whole billionths")
    return int(nanousd)


def check_prices(prices: Mapping[str, str]) -> dict[str, str]:
    """Of a card, as they are. Raises UsageError."""
    if not prices:
        raise UsageError("no prices were given", hint="e.g. compute=0.01 disk=17/11688")
    for name, usd in prices.items():
        if not isinstance(usd, str) or not _PRICE.fullmatch(usd):
            raise UsageError(f"{name}={usd!r}: a price is exact text, dollars per core-hour: 0.01 or 1/100")
    return dict(prices)


def _charge(mcpu: int, ms: int, usd: Fraction) -> int:
    """Half up, as each attempt's is."""
    top = 2 * mcpu * ms * _NANO * usd.numerator
    bottom = _MCPU_MS_PER_CORE_HOUR * usd.denominator
    return (top + bottom) // (2 * bottom)


def _dollars(nanousd: int) -> Decimal:
    return Decimal(nanousd).scaleb(-9)
