"""PURE. How values read on the screen: states, money, durations, counts, bars; text made harmless.

Every symbol takes one cell, and has one in ASCII that stands for it where there are no others. A
`Part` is a text and the name of its look, for which every theme has a colour: what a colour says, the
text says too.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from longshore.terminal import clean
from longshore.units import dollars

Part = tuple[str, str]

DIM = "longshore.quiet"
WARNING = "longshore.warning"
KEY = "longshore.key"

_STATES = {
    "pending": ("·", "longshore.pending"),
    "ready": ("○", "longshore.ready"),
    "running": ("▶", "longshore.running"),
    "success": ("✓", "longshore.success"),
    "failure": ("✗", "longshore.failure"),
    "error": ("!", "longshore.error"),
    "cancelled": ("⊘", "longshore.cancelled"),
    "open": ("…", "longshore.open"),
}
_UNKNOWN = ("?", DIM)

IN_ASCII = str.maketrans(
    "·○◐●▶✓✗⊘…⇄▸▲▼▾≥×–—█▓▚▒░▐│─╭╮╰╯◆⋯⏎↑↓←→",
    ".o@*>+x-~%>^vv>x--#X-=.||-++++*~<^v<>",
)
"""What stands for a symbol on a terminal that has none, cell by cell."""

TEXTURES = {
    "█": "longshore.success",
    "▓": "longshore.failure",
    "▚": "longshore.cancelled",
    "▒": "longshore.running",
    "░": "longshore.pending",
}
"""What a `bar` is made of, and the look of each part where it can have one of its own."""

MEANINGS = {
    "pending": "waits for the jobs it depends on",
    "ready": "waits for a worker",
    "running": "a worker has it",
    "success": "exit code 0",
    "failure": "exit code not 0",
    "error": "a container had an error: image, memory, disk, time, files",
    "cancelled": "the batch was cancelled, or a job it depends on did not succeed",
    "open": "not all jobs of the batch were submitted",
}
"""Every state, in a sentence."""


def state(word: str) -> Part:
    """Symbol and word.

    >>> state('Failure')[0]
    '✗ failure'
    """
    symbol, look = _STATES.get(word.lower(), _UNKNOWN)
    return f"{symbol} {word.lower()}", look


def symbol(word: str) -> Part:
    return _STATES.get(word.lower(), _UNKNOWN)


def one_line(text: str, limit: int = 500) -> str:
    r"""Text of others, harmless, on one line, cut after `limit` characters.

    >>> one_line('a\nb\x1b[2J')
    'a\\nb\\x1b[2J'
    """
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return clean(cut).replace("\n", "\\n").replace("\t", " ")


def money(nanousd: int, *, so_far: bool = False) -> str:
    """Dollars, rounded; ``≥`` while more will come.

    >>> money(231_401_200_000), money(6_028, so_far=True), money(0)
    ('$231.40', '≥$0.0000060', '$0.00')
    """
    return dollars(Decimal(nanousd).scaleb(-9), so_far=so_far)


def duration(ms: float) -> str:
    """At most seven characters.

    >>> duration(412), duration(3_210), duration(842_000), duration(8_070_000), duration(200_000_000)
    ('412ms', '3.2s', '14m 02s', '2h 14m', '2d 07h')
    """
    if ms < 1000:
        return f"{max(0, int(ms))}ms"
    seconds = int(ms / 1000)
    if seconds < 10:
        return f"{int(ms / 100) / 10:.1f}".removesuffix(".0") + "s"
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h" if days < 100 else f"{days}d"
    if hours:
        return f"{h}h {m:02}m"
    return f"{m}m {s:02}s" if minutes else f"{s}s"


def elapsed(seconds: float) -> str:
    """A duration that still grows, in whole seconds."""
    return "0s" if seconds < 1 else duration(int(seconds) * 1000)


def some(n: int) -> str:
    """In at most five cells or so, for narrow terminals.

    >>> some(999), some(63_642), some(2_400_000)
    ('999', '63.6k', '2.4M')
    """
    for scale, unit in ((10**6, "M"), (10**3, "k")):
        if n >= scale:
            return f"{n // (scale // 10) / 10:.1f}{unit}"
    return str(n)


def count(n: int, width: int = 20) -> str:
    """Whole where there is room.

    >>> count(104_332), count(0), count(1_204_332, 7)
    ('104,332', '·', '1.2M')
    """
    whole = f"{n:,}" if n else "·"
    return whole if len(whole) <= width else some(n)


def percent(n: int, of: int) -> str:
    """Rounded down, so that 100 % is said of nothing less; an empty batch has all it has.

    >>> percent(104_331, 104_332), percent(0, 0)
    ('99%', '100%')
    """
    return f"{100 * n // of if of else 100}%"


def bar(width: int, succeeded: int, failed: int, cancelled: int, running: int, total: int) -> str:
    """How a batch stands: █ succeeded, ▓ failed, ▚ cancelled, ▒ running, ░ waiting.

    `width` cells, of which each kind that is there has at least one; `width` is at least 5.

    >>> bar(10, 63_642, 29, 0, 3_129, 104_332)
    '█████▓▒░░░'
    """
    waiting = max(0, total - succeeded - failed - cancelled - running)
    numbers = [succeeded, failed, cancelled, running, waiting]
    whole = sum(numbers)
    if not whole:
        return "█" * width
    cells = [max(1, width * n // whole) if n else 0 for n in numbers]
    while sum(cells) > width:
        cells[cells.index(max(cells))] -= 1
    while sum(cells) < width:
        # To whoever is furthest below its due.
        due = [width * n / whole - has if n else -width for n, has in zip(numbers, cells, strict=True)]
        cells[due.index(max(due))] += 1
    return "".join(texture * n for texture, n in zip(TEXTURES, cells, strict=True))


def cores(mcpu: int) -> str:
    """
    >>> cores(1000), cores(250)
    ('1 core', '0.25 cores')
    """
    return f"{Decimal(mcpu) / 1000:f} core{'' if mcpu == 1000 else 's'}"


def size(n_bytes: int) -> str:
    """
    >>> size(3_750_000_000), size(12)
    ('3.75 GB', '12 B')
    """
    value = Decimal(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3f}".rstrip("0").rstrip(".") + " TB"


def document(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Names and values below each other, as in YAML; texts of several lines as they are, harmless.

    What is empty is left out.

    >>> document({'name': 'a', 'env': {'X': '1'}, 'command': ['sh', '-c', 'true'], 'image': ''})
    ['name: a', 'env:', '  X: 1', 'command:', '  - sh', '  - -c', '  - true']
    """
    lines: list[str] = []
    for name, value in values.items():
        if value is None or value in ("", 0, False) or value in ([], {}, ()):
            continue
        lines += _entry(f"{indent}{one_line(str(name))}:", value, indent)
    return lines


def _entry(head: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        return [head, *document(value, f"{indent}  ")]
    if isinstance(value, list | tuple):
        return [head, *(line for each in value for line in _entry(f"{indent}  -", each, f"{indent}  "))]
    text = clean(str(value)).replace("\t", "        ").rstrip("\n")
    if "\n" not in text:
        return [f"{head} {text}"]
    return [f"{head} |", *(f"{indent}    {line}" for line in text.split("\n"))]
