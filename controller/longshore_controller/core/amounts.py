"""PURE. Amounts and moments as queries write them, each as the range of whole numbers that it means.

``1.00`` dollars is one number of nano-dollars; ``2026-11-22`` is every millisecond of that day (UTC).
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from collections.abc import Callable
from decimal import Decimal

MOST = 2**62
"""Greater numbers mean this one: also one more than it a database can look for."""

Range = tuple[int, int]
"""The first and the last number that are meant."""
Ends = tuple[int | None, int | None]


class Unreadable(Exception):
    """What is expected."""

    def __init__(self, expected: str, meant: str | None = None) -> None:
        super().__init__(expected)
        self.meant = meant
        """Probably."""


def between(text: str, read: Callable[[str, int], Range], now_ms: int) -> Ends:
    """``5``, ``5..90``, ``5..`` or ``..90``."""
    first, dots, last = text.partition("..")
    if not dots:
        if read is moment and _AGO.fullmatch(text):
            raise Unreadable("this is one instant: ask for what is later or earlier", None)
        return read(text, now_ms)
    if not first and not last:
        raise Unreadable("a range, e.g. 5..90")
    low = read(first, now_ms)[0] if first else None
    high = read(last, now_ms)[1] if last else None
    return low, high


def beyond(operator: str, value: Range) -> Ends:
    """What is after all of a value, or before; with ``=`` also what is in it."""
    first, last = value
    return {
        ">": (last + 1, None),
        ">=": (first, None),
        "<": (None, first - 1),
        "<=": (None, last),
    }[operator]


def number(text: str, now_ms: int) -> Range:
    if not re.fullmatch("-?[0-9]{1,30}", text):
        raise Unreadable("a whole number")
    return _exactly(int(text))


def cores(text: str, now_ms: int) -> Range:
    """In thousandths of a core; ``500m`` is half a core."""
    value, unit = _split(text, "m?", "cores, e.g. 4 or 0.5")
    return _exactly(value * (1 if unit else 1000))


def size(text: str, now_ms: int) -> Range:
    """In bytes; a bare number is gigabytes, as where a job asks for them."""
    value, unit = _split(text, "(?:[KMGTP]i?)?", "a size, e.g. 3.75G or 512Mi")
    return _exactly(value * _SCALES[unit])


def money(text: str, now_ms: int) -> Range:
    """In nano-dollars."""
    value, _ = _split(text.removeprefix("$"), "", "dollars, e.g. 1.00")
    return _exactly(value * 10**9)


def time(text: str, now_ms: int) -> Range:
    """In ms; a bare number is seconds.

    >>> time('1h30m', 0), time('90', 0), time('0.5s', 0)
    ((5400000, 5400000), (90000, 90000), (500, 500))
    """
    if re.fullmatch(_DECIMAL, text):
        return _exactly(Decimal(text) * 1000)
    if not _TIME.fullmatch(text):
        raise Unreadable("a time, e.g. 90s, 10m or 1h30m")
    return _exactly(sum(Decimal(n) * _MS[unit] for n, unit in _PART.findall(text)))


def moment(text: str, now_ms: int) -> Range:
    """In ms of UTC since 1970: a day, an hour and minute, a second; or so long ago.

    >>> moment('2026-11-22', 0)[0], moment('2026-11-22T10:00Z', 0), moment('-2d', 172_800_005)
    (1795305600000, (1795341600000, 1795341659999), (5, 5))
    """
    if text == "now":
        return _exactly(now_ms)
    if _AGO.fullmatch(text):
        ago, _ = time(text[1:], 0)
        return _exactly(now_ms - ago)
    if (found := _DATE.fullmatch(text)) is None:
        meant = f"-{text}" if _TIME.fullmatch(text) else None
        raise Unreadable("a day as 2026-11-22, a time as 2026-11-22T10:00, or so long ago as -2d", meant)
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in found.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]):
        raise Unreadable("there is no such day")
    if hour > 23 or minute > 59 or second > 59:
        raise Unreadable("there is no such time of the day")
    first = timegm((year, month, day, hour, minute, second)) * 1000
    lasts_ms = 1_000 if found[6] else 60_000 if found[4] else 86_400_000
    return first, first + lasts_ms - 1


_DECIMAL = r"[0-9]{1,20}(?:\.[0-9]{0,12})?|\.[0-9]{1,12}"
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(rf"({_DECIMAL})(ms|[smhdw])")
_TIME = re.compile(rf"(?:(?:{_DECIMAL})(?:ms|[smhdw]))+")
_AGO = re.compile(f"-{_TIME.pattern}")
_DATE = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?Z?)?")
_SCALES = {
    "": 10**9, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def _split(text: str, units: str, expected: str) -> tuple[Decimal, str]:
    if (found := re.fullmatch(f"({_DECIMAL})({units})", text)) is None:
        raise Unreadable(expected)
    return Decimal(found[1]), found[2]


def _exactly(value: int | Decimal) -> Range:
    whole = max(-MOST, min(MOST, round(value)))
    return whole, whole
