"""Shows: what many look at is read and written once, and nobody's slowness costs anybody anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial

import pytest
from longshore_controller.core.events import BatchDeleted
from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.core.rows import Changes
from longshore_controller.feed import Committed, Feed, Following, News
from longshore_controller.shows import Page, Shows

BATCH = 7


def written(whole: bool, rows: list[object], head: object) -> bytes:
    return f"{'whole ' if whole else ''}{rows} {head}".encode()


def test_a_looker_is_told_what_changed_since_it_was_told_last() -> None:
    page: Page[object] = Page(written)
    page.hold("a", {1: "x", 2: "y"})
    assert (page.version, page.since(0)) == (1, b"whole ['x', 'y'] a")
    page.hold("a", {1: "x", 2: "z"})
    page.hold("b", {1: "x", 2: "z"})
    assert page.since(1) == b"['z'] b" and page.since(2) == b"[] b"
    assert page.since(0) == b"whole ['x', 'z'] b"


def test_rows_that_come_or_go_make_it_whole_for_all_who_have_seen_others() -> None:
    page: Page[object] = Page(written)
    page.hold("", {1: "x", 2: "y"})
    page.hold("", {2: "y", 3: "z"})
    page.hold("", {2: "y", 3: "w"})
    assert page.since(1) == b"whole ['y', 'w'] " and page.since(2) == b"['w'] "


def test_what_is_the_same_as_before_is_no_version() -> None:
    page: Page[object] = Page(written)
    page.hold("a", {1: "x"})
    page.hold("a", {1: "x"})
    assert page.version == 1


def test_a_message_is_written_once_for_all_and_none_is_kept_that_nobody_needs() -> None:
    calls = Counter[bool]()

    def write(whole: bool, rows: list[object], head: object) -> bytes:
        calls[whole] += 1
        return b""

    page: Page[object] = Page(write)
    for at in range(1_000):
        page.hold(at, {1: at})
        for _ in range(10):
            page.since(max(0, page.version - 1))
    assert calls == {True: 1, False: 999}
    assert len(page._written) == 1


class Counting:
    """Shows the number of the last commit; counts what it was asked."""

    every_s = 0.01
    is_urgent = False

    def __init__(self, refused: bool = False) -> None:
        self.pages: dict[int, Page[object]] = {}
        self.refused = refused
        self.seq = 0
        self.n_read = 0

    def page(self, position: int) -> Page[object]:
        page = self.pages[position] = Page(written)
        return page

    def drop(self, position: int) -> None:
        del self.pages[position]

    def take_in(self, news: News) -> None:
        if isinstance(news, list):
            self.seq = news[-1].seq

    async def refresh(self, positions: Collection[int]) -> None:
        if self.refused:
            raise Refusal(RefusalKind.NOT_FOUND, "gone")
        self.n_read += len(positions)
        for position in positions:
            self.pages[position].hold(self.seq, {})


class Looker:
    """Looks at one position of a show."""

    def __init__(self, shows: Shows, feed: Feed, made: list[Counting], refused: bool = False) -> None:
        self.woken = asyncio.Event()

        def content(following: Following) -> Counting:
            made.append(Counting(refused))
            return made[-1]

        self._joined = shows.joined("key", partial(feed.follow, batch=BATCH), content)
        self.show = self._joined.__enter__()
        self._looking = self.show.looking(1, self.woken)
        self.page = self._looking.__enter__()

    async def until(self, head: int) -> None:
        async with asyncio.timeout(20):
            while not self.page.version or self.page._head != head:
                await self.woken.wait()
                self.woken.clear()

    def leave(self) -> None:
        self._looking.__exit__(None, None, None)
        self._joined.__exit__(None, None, None)


@pytest.fixture
def feed() -> Iterator[Feed]:
    feed = Feed()
    yield feed
    assert not feed._followers, "somebody still follows"


def publish(feed: Feed, seq: int) -> None:
    feed.publish(
        Committed(seq, 1, [BatchDeleted(BATCH, "ada", "ada", 1)], Changes(owners={BATCH: ("ada", "test")}))
    )


async def test_many_who_look_at_the_same_cost_one_reading_of_each_version(feed: Feed) -> None:
    shows, made = Shows(), list[Counting]()
    lookers = [Looker(shows, feed, made) for _ in range(50)]
    for looker in lookers:
        await looker.until(0)
    for seq in (1, 2, 3):
        publish(feed, seq)
        for looker in lookers:
            await looker.until(seq)
    (content,) = made
    assert content.n_read == 4
    for looker in lookers:
        looker.leave()
    assert not content.pages


async def test_the_last_who_leaves_ends_the_show_and_the_next_makes_another(feed: Feed) -> None:
    shows, made = Shows(), list[Counting]()
    Looker(shows, feed, made).leave()  # Before its task has begun.
    second = Looker(shows, feed, made)
    await second.until(0)
    second.leave()
    assert len(made) == 2 and not shows._shows


async def test_who_looks_is_told_why_a_show_has_ended_and_who_comes_later_gets_a_new_one(feed: Feed) -> None:
    shows, made = Shows(), list[Counting]()
    first = Looker(shows, feed, made, refused=True)
    async with asyncio.timeout(20):
        await first.woken.wait()
    assert isinstance(first.show.failure, Refusal)
    second = Looker(shows, feed, made)
    await second.until(0)
    first.leave()
    publish(feed, 1)
    await second.until(1)
    second.leave()
