"""Specs that were stored lately and are wanted soon: nobody has to read them back."""

from __future__ import annotations

import threading
from bisect import bisect_right

MOST_BYTES = 32 << 20
"""Of all specs held; beyond it the oldest bunches are forgotten."""
_OBJECT_BYTES = 50
"""What Python adds to a spec."""


class FreshSpecs:
    """Bunches of specs by batch, for any thread. What is not here is read from its row."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._bunches: dict[int, tuple[list[int], list[list[bytes]]]] = {}
        """By batch id: the first job ids, ascending, and beside each the specs from there on."""
        self._ages: dict[tuple[int, int], int] = {}
        """(batch id, first job id) -> bytes, oldest first."""

    def add(self, batch_id: int, first_job_id: int, specs: list[bytes]) -> None:
        """They are committed."""
        n_bytes = sum(map(len, specs)) + len(specs) * _OBJECT_BYTES
        with self._lock:
            if n_bytes > self._most_bytes or (batch_id, first_job_id) in self._ages:
                return
            firsts, bunches = self._bunches.setdefault(batch_id, ([], []))
            at = bisect_right(firsts, first_job_id)
            firsts.insert(at, first_job_id)
            bunches.insert(at, specs)
            self._ages[batch_id, first_job_id] = n_bytes
            self._n_bytes += n_bytes
            while self._n_bytes > self._most_bytes:
                self._drop(*next(iter(self._ages)))

    def get(self, batch_id: int, job_id: int) -> bytes | None:
        with self._lock:
            firsts, bunches = self._bunches.get(batch_id, ([], []))
            at = bisect_right(firsts, job_id) - 1
            if at < 0 or job_id - firsts[at] >= len(bunches[at]):
                return None
            return bunches[at][job_id - firsts[at]]

    def forget(self, batch_id: int) -> None:
        """Nothing of the batch will be wanted any more."""
        with self._lock:
            firsts, _ = self._bunches.pop(batch_id, ([], []))
            self._n_bytes -= sum(self._ages.pop((batch_id, first)) for first in firsts)

    def _drop(self, batch_id: int, first_job_id: int) -> None:
        self._n_bytes -= self._ages.pop((batch_id, first_job_id))
        firsts, bunches = self._bunches[batch_id]
        at = firsts.index(first_job_id)
        del firsts[at], bunches[at]
        if not firsts:
            del self._bunches[batch_id]
