"""The palette: type a command, a batch (`8120`) or a job (`8120/4705`), and go there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Provider

from . import themes
from .screens.menu import entries_of

if TYPE_CHECKING:
    from .app import Dashboard

_TARGET = re.compile(r"\s*#?(\d{1,18})(?:/(\d{1,9}))?\s*")


class Commands(Provider):
    """What the screen below can do, and where one can go."""

    async def discover(self) -> AsyncIterator[DiscoveryHit]:
        for does, keys, run in self._commands():
            yield DiscoveryHit(does, run, help=keys)

    async def search(self, query: str) -> AsyncIterator[Hit]:
        app = cast("Dashboard", self.app)
        if (target := _TARGET.fullmatch(query)) and int(target[1]):
            batch_id, job_id = int(target[1]), int(target[2] or 0) or None
            where = f"batch {batch_id}" + (f", job {job_id}" if job_id else "")
            yield Hit(2.0, f"open {where}", partial(app.go_to, batch_id, job_id))
        matcher = self.matcher(query)
        for does, keys, run in self._commands():
            if (score := matcher.match(does)) > 0:
                yield Hit(score, matcher.highlight(does), run, help=keys)

    def _commands(self) -> list[tuple[str, str, partial[None]]]:
        app = cast("Dashboard", self.app)
        commands = [
            (does, keys, partial(app.press, chosen))
            for keys, does, chosen in entries_of(self.screen)
            if chosen and chosen[1] not in ("app.palette", "app.menu")
        ]
        others = [name for name in themes.NAMES if name != app.theme]
        return commands + [
            (f"theme {name}", "until it ends", partial(app.use_theme, name)) for name in others
        ]
