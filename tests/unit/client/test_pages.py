"""Pages of lists, and the events that keep them true."""

from __future__ import annotations

import pytest
from fakes_service import FakeService
from longshore import Client, UsageError


def a_batch(client: Client, n_jobs: int) -> int:
    builder = client.create_batch()
    for _ in range(n_jobs):
        builder.create_job(None, ["true"])
    return builder.submit().id


def test_pages_of_batches_follow_each_other_without_overlap(idle_client: Client) -> None:
    ids = [a_batch(idle_client, 1) for _ in range(5)]
    first = idle_client.page_of_batches()
    second = idle_client.page_of_batches(before=first.rows[-1].id)
    assert [status.id for status in (*first.rows, *second.rows)] == ids[::-1]
    assert (first.more, second.more) == (True, False)


def test_a_page_of_jobs_holds_only_the_states_that_were_asked_for(
    idle_client: Client, idle_service: FakeService
) -> None:
    batch_id = a_batch(idle_client, 9)
    for job_id in (2, 5, 8, 9):
        idle_service.finish(batch_id, job_id, exit_code=job_id % 2)
    page = idle_client.page_of_jobs(batch_id, after=2, size=2, states=["Failure"])
    assert [job.job_id for job in page.rows] == [5, 9]
    with pytest.raises(UsageError, match="'failed' is not one of"):
        idle_client.page_of_jobs(batch_id, states=["failed"])


def test_no_event_after_a_page_is_missed_though_the_stream_breaks(
    idle_client: Client, idle_service: FakeService
) -> None:
    batch_id = a_batch(idle_client, 7)
    seq = idle_client.page_of_jobs(batch_id).seq
    idle_service.faults.cut_every = 2
    seen = []
    for number, events in enumerate(idle_client.watch_events(seq, batch_id), start=1):
        seen += [(event.kind, event.jobs) for event in events.events]
        if len(seen) >= 6:
            break
        idle_service.finish(batch_id, min(number, 6))
    assert seen == [("attempt ended", ((job_id, job_id),)) for job_id in range(1, 7)]
