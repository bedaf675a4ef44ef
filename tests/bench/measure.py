"""What a measurement is: figures of ours and of a base, taken in turns, and whether they reach a goal."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RUNS = 5
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Goal:
    """A bound, and which side of it is good."""

    bound: float
    at_most: bool = False

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Result:
    """One line of the table. ``ours`` and ``base`` were measured in turns, in the same ``unit``."""

    number: str
    what: str
    unit: str
    ours: Sequence[float]
    base: Sequence[float]
    base_is: str
    ratio_goal: Goal | None = None
    value_goal: Goal | None = None
    cpu: dict[str, float] = field(default_factory=dict)
    """µs of CPU for each job, by process, median."""
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.ours)

    @property
    def ratio(self) -> float:
        return self.value / statistics.median(self.base)

    @property
    def verdict(self) -> str:
        """``pass`` or ``miss``; of a figure that has no goal ``-``."""
        asked = [(self.ratio_goal, self.ratio), (self.value_goal, self.value)]
        met = [goal.met_by(value) for goal, value in asked if goal is not None]
        return "-" if not met else "pass" if all(met) else "miss"

    def as_dict(self) -> dict[str, object]:
        return {
            "goal": self.number,
            "what": self.what,
            "unit": self.unit,
            "ours": list(self.ours),
            "base": list(self.base),
            "base_is": self.base_is,
            "ratio": self.ratio,
            "ratio_goal": self.ratio_goal and str(self.ratio_goal),
            "value_goal": self.value_goal and str(self.value_goal),
            "verdict": self.verdict,
            "cpu_us_per_job": self.cpu,
            "note": self.note,
        }


@dataclass(frozen=True)
class Size:
    """How much a run of the benchmarks does."""

    quick: bool = False
    tiny: bool = False
    """Only so much that every line of the program has run: for its test."""

    def of(self, full: int, quick: int, tiny: int) -> int:
        return tiny if self.tiny else quick if self.quick else full

    @property
    def runs(self) -> int:
        return 1 if self.tiny else RUNS


def in_turns(
    runs: int, ours: Callable[[], float], base: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Both measured ``runs`` times, the base first, so that both meet the same weather."""
    pairs = [(base(), ours()) for _ in range(runs)]
    return [o for _, o in pairs], [b for b, _ in pairs]


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def medians(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(f[key] for f in figures), 1) for key in figures[0]}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, with that of its children, dead or alive, and of their dead ones."""
    total = 0.0
    for process in (pid, *_children(pid)):
        values = _stat(process)
        total += sum(map(int, values[11:15])) / _TICK if values else 0
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in millions of bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


def _children(pid: int) -> Iterable[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            values = _stat(int(name))
            if values and int(values[1]) == pid:
                yield int(name)


def _stat(pid: int) -> list[str]:
    """The fields from the state on; none of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def spread(values: Sequence[float]) -> str:
    return f"{_number(min(values))}–{_number(max(values))}"


def table(results: Sequence[Result]) -> str:
    """For people: two lines for each result."""
    lines = []
    for r in results:
        asked = ", ".join(
            [f"ratio {r.ratio_goal}"] * bool(r.ratio_goal) + [f"{r.value_goal} {r.unit}"] * bool(r.value_goal)
        )
        lines.append(
            f"{r.verdict:4}  goal {r.number:3} {r.what}: {_number(r.value)} {r.unit} ({spread(r.ours)}), "
            f"ratio {r.ratio:.3g} to {_number(statistics.median(r.base))} ({spread(r.base)}) {r.base_is}"
            + (f"; goal: {asked}" if asked else "")
        )
        cpu = ", ".join(f"{name} {us:g}" for name, us in r.cpu.items())
        more = "; ".join(filter(None, [f"µs of CPU per job: {cpu}" if cpu else "", r.note]))
        if more:
            lines.append(f"      {more}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
