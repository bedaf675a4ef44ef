"""PURE. How many jobs of each state are in each block of ids: which is the k-th of some, without counting."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import accumulate
from typing import NamedTuple

from longshore_controller.core.model import JobState

BLOCK = 1_024
"""Jobs of one block: ids 1 to 1,024 are block 0."""


class Stretch(NamedTuple):
    """Jobs ``after`` < id <= ``upto``: those wanted come after ``skip`` others of the same states."""

    after: int
    upto: int
    skip: int


class Blocks:
    """Of a batch that is complete: they never change."""

    def __init__(self, n_jobs: int, counts: Iterable[tuple[int, int, int]]) -> None:
        """``counts``: block, state, how many."""
        self._n_blocks = -(-n_jobs // BLOCK)
        self._counts: dict[int, array[int]] = defaultdict(lambda: array("I", bytes(4 * self._n_blocks)))
        for block, state, n in counts:
            self._counts[state][block] = n

    def n(self, states: Collection[JobState]) -> int:
        """Jobs in these states."""
        return sum(sum(self._counts[state]) for state in set(states) & self._counts.keys())

    def find(self, states: Collection[JobState], first: int, n: int) -> Stretch:
        """Where those at positions first .. first + n - 1 are, of which there is at least one."""
        some = [self._counts[state] for state in set(states) & self._counts.keys()]
        ends = list(accumulate(map(sum, zip(*some, strict=True))))
        begin, end = bisect_right(ends, first), bisect_right(ends, first + n - 1)
        return Stretch(begin * BLOCK, (end + 1) * BLOCK, first - (ends[begin - 1] if begin else 0))
