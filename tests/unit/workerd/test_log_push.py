"""The order in which logs are pushed, and what a log that is refused costs the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from random import Random

from longshore_workerd.log_push import LogPusher
from longshore_workerd.logs import Logs
from longshore_workerd.runtime import Container, ContainerId
from longshore_workerd.session import LogPiece, PushFailed


class Taker:
    """Takes logs; refuses a call with one of ``refused``, and once any call when ``moody``."""

    def __init__(self, *refused: str, moody: bool = False) -> None:
        self.refused = set(refused)
        self.moody = moody
        self.calls: list[set[str]] = []
        self.ended: set[str] = set()
        self.called = asyncio.Condition()

    async def push(self, pieces: Iterable[LogPiece]) -> None:
        taken = list(pieces)
        names = {piece.id.attempt_id for piece in taken}
        self.calls.append(names)
        moody, self.moody = self.moody, False
        async with self.called:
            if moody or names & self.refused:
                raise PushFailed("no", refused=True)
            self.ended |= {piece.id.attempt_id for piece in taken if piece.end}
            self.called.notify_all()


def say(logs: Logs, attempt_id: str, text: bytes) -> None:
    log = logs.open(ContainerId(attempt_id, Container.MAIN))
    log.write(text)
    log.close()


async def test_a_refusal_that_does_not_come_again_is_forgotten(tmp_path: Path) -> None:
    """Logs that grow without end must not keep the ended ones waiting while it is looked for."""
    logs = Logs(tmp_path)
    taker = Taker(moody=True)
    pusher = LogPusher(logs, taker.push, Random(1))
    for name in ("grows", "a", "b", "c"):
        say(logs, name, b"first")
    pusher.follow(["grows"])
    for name in ("a", "b"):
        pusher.deliver(name)
    running = asyncio.create_task(pusher.run())
    async with asyncio.timeout(10):
        while not {"a", "b"} <= taker.ended:
            say(logs, "grows", b"more")
            await asyncio.sleep(0)
        pusher.deliver("c")
        async with taker.called:
            await taker.called.wait_for(lambda: "c" in taker.ended)
    running.cancel()
    assert taker.calls[0] == {"grows", "a", "b"}
    assert [len(call) for call in taker.calls[1:4]] == [1, 1, 1]
    assert taker.calls[1] | taker.calls[2] == {"a", "b"}, "those that have ended are looked at first"


async def test_of_many_logs_only_the_refused_ones_are_dropped(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    taker = Taker("a3", "a7")
    pusher = LogPusher(logs, taker.push, Random(1))
    names = {f"a{number}" for number in range(10)}
    for name in sorted(names):
        say(logs, name, b"said")
        pusher.deliver(name)
    running = asyncio.create_task(pusher.run())
    async with asyncio.timeout(10):
        while logs.attempts():
            await asyncio.sleep(0.01)
    running.cancel()
    assert taker.ended == names - {"a3", "a7"}
    assert pusher.is_idle()
