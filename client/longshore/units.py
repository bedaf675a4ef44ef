"""PURE. Amounts as people write them: cores, bytes, seconds, and the refusal of what is none; dollars."""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import UsageError, WrongType

Amount = str | int | float

_SCALES = {
    "": 10**9, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_CPU = re.compile(_NUMBER + "(m?)")
_BYTES = re.compile(_NUMBER + "([KMGTP]i?|)")
BYTES_PER_CORE = 3_750_000_000
"""Of memory, that come with a core."""
_MAX_MCPU = 2**32 - 1
_MAX_BYTES = 2**63 - 1
_MAX_MS = 2**63 - 1


def dollars(usd: Decimal, *, so_far: bool = False) -> str:
    """Rounded for people: cents or, of less than a dollar, two digits that say something, to the billionth.

    `so_far`: more may come.

    >>> dollars(Decimal('231.4012'), so_far=True), dollars(Decimal('0.000006028')), dollars(Decimal(0))
    ('≥$231.40', '$0.0000060', '$0.00')
    >>> dollars(Decimal('4E-9'))
    '$0.000000004'
    """
    at_least = "≥" if so_far else ""
    places = min(9, max(2, 1 - usd.adjusted())) if usd else 2
    return f"{at_least}${usd:,.{places}f}"


def reserved_mcpu(cpu_mcpu: int, memory_bytes: int) -> int:
    """Thousandths of a core that a job gets, and pays for; 0 means: not said.

    The greater of the cores asked for and those that come with the memory asked for, 3.75 GB each;
    of more than one of these, whole cores.

    >>> reserved_mcpu(1000, 7_000_000_000), reserved_mcpu(100, 375_000_000), reserved_mcpu(0, 0)
    (2000, 100, 1000)
    """
    worth = -(-memory_bytes * 1000 // BYTES_PER_CORE)
    if worth > 1000:
        worth = -(-worth // 1000) * 1000
    return max(cpu_mcpu or 1000, worth)


def parse_cpu(value: Amount) -> int:
    """Thousandths of a core.

    >>> parse_cpu(2), parse_cpu('500m'), parse_cpu(0.25), parse_cpu('1.5')
    (2000, 500, 250, 1500)
    """
    form = "cpu is cores, e.g. 2, 0.5 or '500m' (half a core)"
    number, unit = _split("cpu", value, _CPU, form)
    return _whole("cpu", value, number if unit == "m" else number * 1000, _MAX_MCPU, form)


def parse_bytes(what: str, value: Amount) -> int:
    """Bytes of memory or storage (`what` is for the error); a bare number is gigabytes (10^9).

    >>> parse_bytes('memory', '3.75G'), parse_bytes('memory', '4Gi'), parse_bytes('memory', 2)
    (3750000000, 4294967296, 2000000000)
    """
    form = f"{what} is a number with K, M, G, T, P or Ki, Mi, Gi, Ti, Pi, e.g. '3.75G'; a bare number is G"
    number, unit = _split(what, value, _BYTES, form)
    return _whole(what, value, number * _SCALES[unit], _MAX_BYTES, form)


def parse_seconds(what: str, value: float) -> int:
    """Milliseconds of a time given in seconds.

    >>> parse_seconds('timeout', 1.5)
    1500
    """
    form = f"{what} is a number of seconds greater than 0, e.g. 600"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(f"{what}({value!r}): {form}")
    if not 0 < value < _MAX_MS / 1000:  # also false for NaN
        raise UsageError(f"{what}({value!r}): {form}")
    return max(1, round(value * 1000))


def _split(what: str, value: Amount, pattern: re.Pattern[str], form: str) -> tuple[Decimal, str]:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise WrongType(f"{what}({value!r}): {form}")
    # A float's shortest form may have an exponent; `f` writes it out.
    text = str(value) if isinstance(value, str) else format(Decimal(str(value)), "f")
    match = pattern.fullmatch(text)
    if match is None:
        raise UsageError(f"{what}({value!r}): {form}")
    return Decimal(match[1]), match[2]


def _whole(what: str, value: Amount, number: Decimal, most: int, form: str) -> int:
    """The nearest whole number of the smallest unit, which must be there and be storable."""
    if number > most:
        raise UsageError(f"{what}({value!r}) is more than any machine has; {form}")
    whole = round(number)
    if whole < 1:
        raise UsageError(f"{what}({value!r}) is nothing: it must be greater than 0; {form}")
    return whole
