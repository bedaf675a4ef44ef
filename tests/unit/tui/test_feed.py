"""What the feed tells of a window whose query changes faster than it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any, cast

from fakes_service import TOKEN, FakeService
from longshore import UsageError
from longshore.status import JobsView
from longshore_tui.feed import Feed, WindowFollow, connect_to
from longshore_tui.model import JobsRead, QueryRefused, Refused, Update, Wanted


def test_a_query_is_not_blamed_for_the_one_before(service: FakeService, submit: Callable[..., int]) -> None:
    batch_id = submit(n_jobs=30)
    feed = Feed(connect_to(service.endpoint, TOKEN))
    told: Queue[Update] = Queue()
    try:
        follow = feed.follow_jobs(batch_id, Wanted(), told.put)
        for number in range(1, 20):
            follow.show(Wanted("x:1"))
            follow.show(Wanted(f"{number:03}"))
            while True:
                update = told.get(timeout=15)
                if isinstance(update, QueryRefused):
                    assert update.query == "x:1"
                if isinstance(update, JobsRead) and update.view.query == f"{number:03}":
                    break
    finally:
        feed.close()


def test_the_latest_query_is_refused_by_itself(service: FakeService, submit: Callable[..., int]) -> None:
    batch_id = submit(n_jobs=3)
    feed = Feed(connect_to(service.endpoint, TOKEN))
    told: Queue[Update] = Queue()
    try:
        follow = feed.follow_jobs(batch_id, Wanted(), told.put)
        follow.show(Wanted("a:1"))
        follow.show(Wanted("job b:2"))
        while not isinstance(update := told.get(timeout=15), QueryRefused) or update.query != "job b:2":
            pass
        assert (update.position, "'b'" in update.error) == (4, True)
        while not isinstance(update := told.get(timeout=15), JobsRead):
            pass
        assert update.view.query == ""
    finally:
        feed.close()


class Stream:
    """A window of jobs whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: Queue[str] = Queue()
        self.answers: Queue[JobsView | UsageError | None] = Queue()

    def show(self, *, query: str, **rest: Any) -> None:
        self.asked.put(query)

    def __iter__(self) -> Iterator[JobsView]:
        while answer := self.answers.get(timeout=15):
            if isinstance(answer, UsageError):
                raise answer
            yield answer


class Scripted:
    """A client whose streams the test holds."""

    endpoint = "nowhere"

    def __init__(self) -> None:
        self.streams: Queue[Stream] = Queue()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def watch_jobs(self, batch_id: int, query: str, **rest: Any) -> Stream:
        stream = Stream()
        stream.asked.put(query)
        self.streams.put(stream)
        return stream


def test_an_answer_that_is_late_blames_no_query_that_is_good() -> None:
    """The old query is asked again while the refusal of another, and an answer to itself, are under way."""
    client = Scripted()
    told: Queue[Update] = Queue()
    follow = WindowFollow(lambda: cast(Any, client), told.put, 1, Wanted("good"))
    follow.start()
    stream = client.streams.get(timeout=15)
    whole = JobsView(whole=True, rows=(), first=0, n_matching=0, batch=cast(Any, object()), query="good")
    follow.show(Wanted("bad:1"))
    follow.show(Wanted("good"))
    stream.answers.put(whole)
    stream.answers.put(UsageError("query: at 0: no field 'bad'"))
    again = client.streams.get(timeout=15)
    assert again.asked.get(timeout=15) == "good"
    again.answers.put(whole)
    assert isinstance(told.get(timeout=15), JobsRead)
    assert isinstance(told.get(timeout=15), JobsRead)
    follow.close()
    again.answers.put(None)
    follow.join()
    assert not any(isinstance(update, Refused) for update in told.queue)
