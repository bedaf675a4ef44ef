"""PURE. In which ways jobs fail: what is the same of those that failed in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from longshore_controller.core.model import JobState

FAILED = (JobState.FAILURE, JobState.ERROR)
MAX_LENGTH = 200
"""Characters of a reason that tell one way from another."""

_VARIABLE = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b|[0-9]+(?:[.,][0-9]+)*", re.IGNORECASE)


class Way(NamedTuple):
    """How jobs of a batch failed."""

    batch_id: int
    state: JobState
    exit_code: str
    """Empty: there is none."""
    manner: str
    """The reason, but for its numbers."""


class Tally(NamedTuple):
    n: int
    first_job_id: int


def manner(reason: str) -> str:
    """What is the same in reasons that tell of the same.

    >>> manner("/io/part-0017 does not exist"), manner("exit at 0x7fa3")
    ('/io/part-# does not exist', 'exit at #')
    """
    return _VARIABLE.sub("#", reason[: 2 * MAX_LENGTH])[:MAX_LENGTH]


def tallied(failed: Iterable[tuple[int, int, JobState, int | None, str]]) -> dict[Way, Tally]:
    """Of failed jobs: batch, id, state, exit code, reason."""
    ways: dict[Way, Tally] = {}
    manners: dict[str, str] = {}
    for batch_id, job_id, state, exit_code, reason in failed:
        if (said := manners.get(reason)) is None:
            said = manners[reason] = manner(reason)
        way = Way(batch_id, state, "" if exit_code is None else str(exit_code), said)
        n, first = ways.get(way, (0, job_id))
        ways[way] = Tally(n + 1, min(first, job_id))
    return ways
