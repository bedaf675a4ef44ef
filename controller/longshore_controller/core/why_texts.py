"""PURE. Every reason why something does not run, or ended as it did, in words: all of the texts in one place.

A text is one line: what keeps it, with names and numbers. A fix is what whoever reads it can do about it,
and empty where that is to wait. No text ends in a full stop; names of people's own making are passed on as
they are, and cleaned by whoever shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from longshore_controller.core.model import Pause


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a word for programs, a line for people, what to do, and since when it is so."""

    code: str
    text: str
    fix: str = ""
    since_ms: int | None = None
    jobs: tuple[int, ...] = ()
    """Other jobs of the same batch that it names."""


def frozen(pause: Pause) -> Reason:
    """
    >>> frozen(Pause('root', 'a new network', 0)).text
    'the service is frozen by root: a new network; what runs goes on, nothing new starts'
    """
    why = f": {pause.reason}" if pause.reason else ""
    return Reason(
        "FROZEN",
        f"the service is frozen by {pause.by}{why}; what runs goes on, nothing new starts",
        "wait until an admin thaws it (longshore admin thaw)",
        pause.at_ms,
    )
