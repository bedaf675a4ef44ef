"""Windows of lists: whole at first, then what changed, wherever they are moved."""

from __future__ import annotations

import threading

import pytest
from fakes_service import FakeService
from longshore import Client, UsageError


def a_batch(client: Client, *names: str) -> int:
    builder = client.create_batch(name=names[0])
    for name in names:
        builder.create_job(None, ["true"], name=name)
    return builder.submit().id


def test_a_window_of_jobs_is_whole_and_then_tells_what_changed(
    idle_client: Client, idle_service: FakeService
) -> None:
    batch_id = a_batch(idle_client, *"abcdef")
    with idle_client.watch_jobs(batch_id, first=1, n=3) as window:
        views = iter(window)
        view = next(views)
        assert (view.whole, [job.name for job in view.rows], view.n_matching) == (True, list("bcd"), 6)
        assert view.batch is not None and view.batch.n_completed == 0
        idle_service.finish(batch_id, 3)
        view = next(view for view in views if view.rows)
        assert (view.whole, [(job.name, job.state) for job in view.rows]) == (False, [("c", "Success")])


def test_a_window_can_be_moved_and_filtered_while_another_thread_reads_it(idle_client: Client) -> None:
    batch_id = a_batch(idle_client, "align-1", "align-2", "qc-1")
    window = idle_client.watch_jobs(batch_id, "align")
    seen: list[tuple[str, list[str]]] = []
    changed = threading.Condition()

    def read() -> None:
        for view in window:
            with changed:
                seen.append((view.query, [job.name for job in view.rows]))
                changed.notify_all()

    reader = threading.Thread(target=read)
    reader.start()
    with changed:
        assert changed.wait_for(lambda: seen[-1:] == [("align", ["align-1", "align-2"])], 30)
        window.show(query="-align")
        assert changed.wait_for(lambda: seen[-1] == ("-align", ["qc-1"]), 30)
        window.show(query="", first=1, n=1)
        assert changed.wait_for(lambda: seen[-1] == ("", ["align-2"]), 30)
    window.close()
    window.close()
    reader.join(30)
    assert not reader.is_alive()


def test_a_window_is_whole_again_where_it_was_after_the_service_was_away(
    idle_client: Client, idle_service: FakeService
) -> None:
    for name in ("one", "two", "three"):
        a_batch(idle_client, name)
    with idle_client.watch_batches(first=1, n=1) as window:
        views = iter(window)
        assert [batch.name for batch in next(views).rows] == ["two"]
        window.show(first=2)
        assert [batch.name for batch in next(view for view in views if view.whole).rows] == ["one"]
        idle_service.stop()
        idle_service.start()
        again = next(views)
        assert (again.whole, [batch.name for batch in again.rows], again.n_total) == (True, ["one"], 3)


def test_newer_batches_are_counted_and_shown_on_request(idle_client: Client) -> None:
    first = a_batch(idle_client, "old")
    with idle_client.watch_batches() as window:
        views = iter(window)
        assert next(views).anchor == first
        newer = a_batch(idle_client, "new")
        view = next(view for view in views if view.n_newer)
        assert (view.n_newer, [batch.id for batch in view.rows]) == (1, [])
        window.show(anchor=0)
        view = next(view for view in views if view.anchor == newer)
        assert [batch.name for batch in view.rows] == ["new", "old"]


def test_a_query_that_cannot_be_read_is_an_error_with_its_position(idle_client: Client) -> None:
    batch_id = a_batch(idle_client, "a")
    with pytest.raises(UsageError, match="at 1: no field 'stat'"):
        next(iter(idle_client.watch_jobs(batch_id, "stat:failure")))
    with pytest.raises(UsageError, match="no anchor"):
        idle_client.watch_jobs(batch_id).show(anchor=1)


def test_the_session_is_told_again_and_again(idle_client: Client) -> None:
    sessions = idle_client.watch_session()
    assert [next(sessions).user, next(sessions).user] == ["ada", "ada"]


def test_a_job_is_watched_until_it_is_complete(idle_client: Client, idle_service: FakeService) -> None:
    batch_id = a_batch(idle_client, "a", "b")
    job = idle_client.get_batch(batch_id).job(2)
    seen = []
    for status in job.watch(timeout=30):
        seen.append(status.state)
        idle_service.finish(batch_id, 2)
    assert (seen[0], seen[-1]) == ("Pending", "Success")
    assert job.last_status is not None and job.last_status.complete


def test_closing_the_client_ends_a_window_in_another_thread(idle_client: Client) -> None:
    batch_id = a_batch(idle_client, "a")
    window = idle_client.watch_jobs(batch_id)
    first = threading.Event()
    failed: list[Exception] = []

    def read() -> None:
        try:
            for _ in window:
                first.set()
        except UsageError as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(30)
    idle_client.close()
    reader.join(30)
    assert "is closed" in str(failed)
