"""PURE. Reports on their way to the controller: kept until acknowledged, repeated until then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from longshore_workerd.backoff import backoff
from longshore_workerd.model import AttemptState

LONGEST_WAIT_S = 30.0


@dataclass(slots=True)
class _Letter:
    state: AttemptState
    report: bytes
    tries: int = 0
    again_at_ms: int = 0


class Outbox:
    """At most one report of an attempt: the latest. ``now`` is a clock in ms that only grows."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._waiting: dict[str, _Letter] = {}
        self._sent: dict[str, _Letter] = {}

    def put(self, attempt_id: str, state: AttemptState, report: bytes) -> None:
        """To be sent, in place of what was to be said about this attempt before."""
        known = self._waiting.get(attempt_id) or self._sent.get(attempt_id)
        if known is None or known.state <= state:
            self._sent.pop(attempt_id, None)
            self._waiting[attempt_id] = _Letter(state, report)

    def take(self, now: int, limit: int) -> list[bytes]:
        """What is to be sent now; it counts as sent."""
        taken = list(islice(self._waiting.items(), limit))
        for attempt_id, letter in taken:
            del self._waiting[attempt_id]
            letter.tries += 1
            wait_s = 1 + backoff(letter.tries, self._rng, first_s=1, longest_s=LONGEST_WAIT_S)
            letter.again_at_ms = now + int(wait_s * 1000)
            self._sent[attempt_id] = letter
        return [letter.report for _, letter in taken]

    def repeat(self, now: int) -> None:
        """What was sent and not acknowledged for long enough is to be sent again."""
        self._resend([a for a, letter in self._sent.items() if letter.again_at_ms <= now])

    def repeat_all(self) -> None:
        """There is a new connection: everything is to be sent again."""
        self._resend(list(self._sent))

    def acked(self, acks: Iterable[tuple[str, AttemptState]]) -> Iterator[str]:
        """Forgets what was acknowledged; yields the attempts whose end was."""
        for attempt_id, state in acks:
            for letters in (self._sent, self._waiting):
                if attempt_id in letters and letters[attempt_id].state <= state:
                    del letters[attempt_id]
            if state is AttemptState.ENDED:
                yield attempt_id

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def _resend(self, attempt_ids: list[str]) -> None:
        for attempt_id in attempt_ids:
            self._waiting[attempt_id] = self._sent.pop(attempt_id)
