"""Failed jobs run again as a new batch: which, after what, and how."""

from __future__ import annotations

import asyncio

import longshore as hp
import pytest
from fakes_service import TOKEN, FakeService
from longshore.rerun import changes_of, plan
from longshore.status import JobSpec, JobState, JobStatus


def job(job_id: int, state: JobState, parents: tuple[int, ...] = (), source: str = "") -> JobStatus:
    inputs = ((source, "/io/a"),) if source else ()
    spec = JobSpec(("true",), name=f"job {job_id}", parents=parents, input_files=inputs)
    return JobStatus(
        1, job_id, spec.name, state, "", None, 0, 0, 0, 0, 1000, 0, {}, False, None, None, spec
    )  # fmt: skip


def test_what_failed_and_what_was_cancelled_because_of_it_keep_their_order_among_themselves() -> None:
    made = plan(
        [
            job(2, "Failure", (1,), "/tmp/scratch/run/1/a"),
            job(3, "Cancelled", (2,)),
            job(5, "Error", (4,), "/data/a"),
            job(6, "Cancelled", (1, 3, 5)),
            job(7, "Cancelled", (4,)),
            job(8, "Cancelled", (7,)),
        ],
        {},
        "/tmp/scratch",
    )
    assert made.before == (2, 3, 5, 6)
    assert [spec.parents for spec in made.jobs] == [(), (1,), (), (2, 3)]
    assert (made.n_orphans, made.n_reading_scratch) == (3, 1)


def test_changes_are_in_the_units_of_jobs_and_only_those_that_can_be() -> None:
    assert changes_of({"memory": "8Gi", "cpu": 2, "timeout": 60}) == {
        "memory_bytes": 8 << 30,
        "cpu_mcpu": 2000,
        "timeout_ms": 60_000,
    }
    with pytest.raises(hp.UsageError, match="a rerun can change cpu, memory"):
        changes_of({"command": "true"})
    with pytest.raises(hp.UsageError, match="memory"):
        changes_of({"memory": "much"})


def failed(client: hp.Client) -> hp.Batch:
    builder = client.create_batch({"stage": "align"}, name="first")
    good = builder.create_job(None, ["true"])
    bad = builder.create_job(None, ["sh", "-c", "exit ${CODE:-3}"], parents=[good], name="bad")
    builder.create_job(None, ["true"], parents=[bad], name="after")
    batch = builder.submit()
    batch.wait(timeout=30)
    return batch


def test_a_rerun_is_a_new_batch_linked_to_the_old_one(client: hp.Client, service: FakeService) -> None:
    batch = failed(client)
    again = batch.rerun({"memory": "2Gi"})
    status = again.wait(timeout=30)
    assert (status.n_jobs, status.rerun_of, status.name, status.attributes["stage"]) == (
        2, batch.id, "first", "align",
    )  # fmt: skip
    assert batch.status().reruns == (again.id,)
    specs = [service.batches[again.id].jobs[i].spec for i in (1, 2)]
    assert [(s.name, s.resources.memory_bytes, list(s.parents)) for s in specs] == [
        ("bad", 2 << 30, []),
        ("after", 2 << 30, [1]),
    ]
    assert batch.rerun(name="other", token="t").id == batch.rerun(name="other", token="t").id


def test_nothing_is_run_again_of_what_has_not_failed_or_is_not_over(client: hp.Client) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["true"])
    batch = builder.submit()
    batch.wait(timeout=30)
    with pytest.raises(hp.UsageError, match="nothing to run again"):
        batch.rerun()
    builder = client.create_batch()
    builder.create_job(None, ["sleep", "20"])
    runs = builder.submit()
    with pytest.raises(hp.Conflict, match="is still running"):
        runs.rerun()
    runs.cancel()


def test_a_program_with_an_event_loop_reruns_and_updates_too(client: hp.Client, service: FakeService) -> None:
    batch_id = failed(client).id

    async def main() -> None:
        async with hp.AsyncClient("test", endpoint=service.endpoint, token=TOKEN) as asking:
            batch = await asking.get_batch(batch_id)
            again = await batch.rerun({"retries": 1})
            assert (await again.wait(timeout=30)).rerun_of == batch_id
            update = await again.update()
            more = update.create_job(None, ["true"], parents=[1], always_run=True)
            assert await update.submit() is again
            assert (more.id, (await again.wait(timeout=30)).n_jobs) == (3, 3)
            assert (await more.status()).state == "Success"

    asyncio.run(main())
