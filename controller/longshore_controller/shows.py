"""What many look at, read and written once: pages of rows, kept up to date for as long as anybody looks.

A looker holds nothing but the number of the version that it told last. So one that is slow is told less
often what more has changed, costs no memory and makes nobody wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Hashable
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from longshore_controller.feed import Following, News

P = TypeVar("P", bound=Hashable)
P_contra = TypeVar("P_contra", contravariant=True, bound=Hashable)
R = TypeVar("R")


class Page(Generic[R]):
    """Some rows by id, and something about all of them: the head."""

    def __init__(self, write: Callable[[bool, list[R], object], bytes]) -> None:
        """``write``: a message of these rows and the head; True: they are all."""
        self._write = write
        self.version = 0
        """0: nothing is known yet."""
        self.made_at = 0.0
        """When the version was; `time.monotonic`."""
        self.over = False
        """There will be no other version."""
        self.lookers: list[asyncio.Event] = []
        """One of them twice while it moves from here to here."""
        self._rows: dict[int, R] = {}
        self._head: object = None
        self._since: dict[int, int] = {}
        """id -> the version in which the row became what it is."""
        self._whole_since = 0
        """Since then it is the same rows."""
        self._written: dict[int, bytes] = {}

    def hold(self, head: object, rows: dict[int, R], *, over: bool = False) -> None:
        """That is true now: another version, unless nothing is different."""
        whole = not self.version or rows.keys() != self._rows.keys()
        before = {} if whole else self._rows
        changed = [i for i, row in rows.items() if whole or row != before[i]]
        if not (whole or changed) and head == self._head and over == self.over:
            return
        self.version += 1
        if whole:
            self._whole_since, self._since = self.version, {}
        self._since.update(dict.fromkeys(changed, self.version))
        self._rows, self._head, self.over = rows, head, over
        self._written = {}
        self.made_at = time.monotonic()
        self.wake()

    def since(self, told: int) -> bytes:
        """What to tell whoever was told that version last; written once for all of them."""
        if (message := self._written.get(told)) is None:
            whole = told < self._whole_since
            rows = [row for i, row in self._rows.items() if whole or self._since[i] > told]
            message = self._written[told] = self._write(whole, rows, self._head)
        return message

    def wake(self) -> None:
        for looker in self.lookers:
            looker.set()


class Content(Protocol[P_contra]):
    """What a show shows. It waits for the database where it is asynchronous, and only there."""

    every_s: float
    """Between two versions of a page."""

    @property
    def is_urgent(self) -> bool:
        """What was taken in cannot wait so long."""

    def page(self, position: P_contra) -> Page[object]:
        """A new one, which is held up to date until it is dropped."""

    def drop(self, position: P_contra) -> None:
        """Nobody looks there any more."""

    def take_in(self, news: News) -> None:
        """Hold what became true. Refusal NOT_FOUND when there is nothing to be seen any more."""

    async def refresh(self, positions: Collection[P_contra]) -> None:
        """Let these pages hold what is true."""


class Show(Generic[P]):
    """A task that keeps a content's pages up to date."""

    def __init__(
        self, following: Callable[[], Following], content: Callable[[Following], Content[P]]
    ) -> None:
        """``following``: what concerns the content. Both are called at once."""
        self._following = following()  # Left in `end`: the task may end before it began.
        self._content = content(self._following)
        self._pages: dict[P, Page[object]] = {}
        self.n_lookers = 0
        self.failure: Exception | None = None
        """Why it has ended by itself."""
        # In the context of who looks first: all who look at one show may see the same.
        self._task = asyncio.create_task(self._run())

    def end(self) -> None:
        self._task.cancel()
        self._following.leave()

    @contextmanager
    def looking(self, position: P, looker: asyncio.Event) -> Generator[Page[object], None, None]:
        """The page there; the event is set with each of its versions, and at a failure."""
        if (page := self._pages.get(position)) is None:
            page = self._pages[position] = self._content.page(position)
            self._following.wake()
        page.lookers.append(looker)
        try:
            yield page
        finally:
            page.lookers.remove(looker)
            if not page.lookers:
                del self._pages[position]
                self._content.drop(position)

    async def _run(self) -> None:
        try:
            await self._show()
        except Exception as failure:
            self.failure = failure
            for page in self._pages.values():
                page.wake()

    async def _show(self) -> None:
        shown_at = 0.0
        changed = False
        while True:
            pause = shown_at + self._content.every_s - time.monotonic()
            if changed and (pause <= 0 or self._content.is_urgent):
                changed = False
                await self._content.refresh(list(self._pages))
                shown_at = time.monotonic()
            elif new := [at for at, page in self._pages.items() if not page.version]:
                await self._content.refresh(new)
            elif news := await self._following.next(max(0.0, pause) if changed else None):
                self._content.take_in(news)
                changed = True


class Shows:
    """Those that somebody looks at."""

    def __init__(self) -> None:
        self._shows: dict[Hashable, Show[object]] = {}

    @contextmanager
    def joined(
        self,
        key: Hashable,
        following: Callable[[], Following],
        content: Callable[[Following], Content[P]],
    ) -> Generator[Show[P], None, None]:
        """The show with this key, which says everything that its answers depend on."""
        show = self._shows.get(key)
        if show is None or show.failure is not None:
            show = self._shows[key] = Show(following, content)  # type: ignore[arg-type]
        show.n_lookers += 1
        try:
            yield show  # type: ignore[misc]
        finally:
            show.n_lookers -= 1
            if not show.n_lookers:
                show.end()
                if self._shows.get(key) is show:
                    del self._shows[key]
