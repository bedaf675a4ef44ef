"""Brings logs to the controller: of ended attempts all, of those that somebody watches while they grow.

A folder in which an ended attempt's logs still lie *is* the fact that they were not delivered. So
nothing need be remembered across restarts but what the disk shows; bytes that the controller has
already it skips.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from longshore_workerd.backoff import backoff
from longshore_workerd.logs import Logs
from longshore_workerd.runtime import ContainerId
from longshore_workerd.session import CHUNK_BYTES, LogPiece, PushFailed

_log = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.2
ROUND_BYTES = 8 << 20
"""Pushed in one call at most; what a broken connection makes us send again."""
SHARE_BYTES = 1 << 20
"""Of one log in one call, so that a long one does not hold up the others."""


Push = Callable[[Iterable[LogPiece]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Share:
    id: ContainerId
    offset: int
    length: int
    end: bool


class LogPusher:
    """Pushes in the background; a log that cannot be pushed delays nothing but logs."""

    def __init__(
        self, logs: Logs, push: Callable[[Iterable[LogPiece]], Awaitable[None]], rng: Random
    ) -> None:
        self._logs = logs
        self._push = push
        self._rng = rng
        self._ended: dict[str, None] = {}
        self._followed: dict[str, None] = {}
        self._offsets: dict[ContainerId, int] = {}
        self._wake = asyncio.Event()
        self._suspects: list[str] = []
        """Attempts of a round that was refused, each pushed alone to find out which of them it was."""

    def deliver(self, attempt_id: str) -> None:
        """It has ended and writes no more: once its logs are delivered, its folder is removed."""
        self._followed.pop(attempt_id, None)
        self._ended[attempt_id] = None
        self._wake.set()

    def follow(self, attempt_ids: Collection[str]) -> None:
        """These and no others are to be pushed while they grow."""
        self._followed = {a: None for a in attempt_ids if a not in self._ended}
        self._wake.set()

    def is_idle(self) -> bool:
        """Everything of ended attempts has been delivered."""
        return not self._ended

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            await self._something_to_do()
            shares = self._next_round()
            attempt_ids = {share.id.attempt_id for share in shares}
            try:
                if shares:
                    await self._push(self._pieces(shares))
            except PushFailed as failure:
                if not failure.refused:
                    failures += 1
                    if failure.gap:
                        self._offsets.clear()
                    _log.warning("logs wait: %s", failure)
                    await asyncio.sleep(backoff(failures, self._rng))
                elif len(attempt_ids) > 1:
                    self._suspects = sorted(attempt_ids, key=lambda a: a not in self._ended)
                else:
                    self._give_up(attempt_ids.pop(), failure)
                self._wake.set()
                continue
            failures = 0
            self._suspects = [a for a in self._suspects if a not in attempt_ids]
            for share in shares:
                self._offsets[share.id] = share.offset + share.length
            await self._let_go(self._finished(shares))

    async def _something_to_do(self) -> None:
        if not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_EVERY_S if self._followed else None):
                    await self._wake.wait()
        self._wake.clear()

    def _next_round(self) -> list[_Share]:
        while self._suspects:
            if alone := list(self._shares(self._suspects[0])):
                return alone
            self._suspects.pop(0)
        shares: list[_Share] = []
        room = ROUND_BYTES
        for attempt_id in [*self._followed, *self._ended]:
            if room <= 0:
                break
            for share in self._shares(attempt_id):
                shares.append(share)
                room -= max(share.length, 1024)
        return shares

    def _shares(self, attempt_id: str) -> Iterator[_Share]:
        """What there is to say of its logs now; of an ended attempt also that this is the end."""
        ended = attempt_id in self._ended
        for id in self._logs.containers(attempt_id):
            offset = self._offsets.get(id, 0)
            left = self._logs.size(id) - offset
            length = min(left, SHARE_BYTES)
            if length > 0 or ended:
                yield _Share(id, offset, length, end=ended and length == left)

    def _pieces(self, shares: list[_Share]) -> Iterator[LogPiece]:
        for share in shares:
            for start in range(0, max(share.length, 1), CHUNK_BYTES):
                length = min(CHUNK_BYTES, share.length - start)
                chunk = self._logs.read(share.id, share.offset + start, length)
                last = start + length == share.length
                yield LogPiece(share.id, share.offset + start, chunk, end=share.end and last)

    def _finished(self, shares: list[_Share]) -> list[str]:
        """Ended attempts of which nothing is left to be pushed: silent ones, and the last of the others."""
        open_ones = {share.id.attempt_id for share in shares if not share.end}
        pushed = {share.id.attempt_id for share in shares}
        silent = {a for a in self._ended if a not in pushed and not self._logs.containers(a)}
        return [a for a in self._ended if a in silent or (a in pushed and a not in open_ones)]

    def _give_up(self, attempt_id: str, failure: PushFailed) -> None:
        """The controller will never take it."""
        _log.error("the log of attempt %s is dropped: %s", attempt_id, failure)
        self._suspects = [a for a in self._suspects if a != attempt_id]
        self._followed.pop(attempt_id, None)
        if attempt_id in self._ended:
            self._drop(attempt_id)
            self._logs.remove(attempt_id)

    async def _let_go(self, attempt_ids: list[str]) -> None:
        for attempt_id in attempt_ids:
            self._drop(attempt_id)
        if attempt_ids:
            await asyncio.to_thread(self._logs.remove, *attempt_ids)

    def _drop(self, attempt_id: str) -> None:
        del self._ended[attempt_id]
        for id in [id for id in self._offsets if id.attempt_id == attempt_id]:
            del self._offsets[id]
