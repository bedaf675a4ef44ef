"""What the feed tells of a window whose query changes faster than it is answered."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue

from fakes_service import TOKEN, FakeService
from longshore_tui.feed import Feed, connect_to
from longshore_tui.model import JobsRead, QueryRefused, Update, Wanted


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
