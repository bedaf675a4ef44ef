"""The dashboard as an application: the feed, the clock, the stack of screens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import Theme

from .feed import Feed
from .screens.batch import BatchScreen
from .screens.batches import BatchesScreen
from .screens.help import HelpScreen
from .screens.job import JobScreen

_THEME = Theme(
    name="longshore-dark",
    primary="#56b4e9",
    secondary="#2fbf9b",
    warning="#e6c229",
    error="#ff7f50",
    success="#2fbf9b",
    accent="#56b4e9",
    foreground="#dfe3e8",
    background="#14181c",
    surface="#14181c",
    panel="#1f262d",
    dark=True,
)


class Dashboard(App[None]):
    """Begins with the batches, or above them with one batch, or one job of it.

    `clock` tells the seconds since 1970.
    """

    CSS_PATH = "app.tcss"
    TITLE = "longshore"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "help", "help"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self,
        feed: Feed,
        batch_id: int | None = None,
        job_id: int | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.feed = feed
        self.clock = clock
        self._begin_with = batch_id, job_id
        self.animation_level = "none"

    def on_mount(self) -> None:
        self.register_theme(_THEME)
        self.theme = _THEME.name
        batch_id, job_id = self._begin_with
        self.push_screen(BatchesScreen())
        if batch_id is not None:
            self.push_screen(BatchScreen(batch_id))
            if job_id is not None:
                self.push_screen(JobScreen(batch_id, job_id))

    def on_unmount(self) -> None:
        self.feed.close()

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(cast("Screen[None]", cast(Any, self.screen))))
