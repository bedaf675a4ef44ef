"""A user's program as mypy sees it: `make check` holds it to the types that are asserted here.

Where a comment says `type: ignore`, mypy must have found the mistake: one without need is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import assert_type

import longshore as hp
import pytest
from fakes_service import TOKEN, FakeService


def test_a_program_that_is_typed_does_what_its_types_say(backend: hp.BatchBackend) -> None:
    p = hp.Pipeline(name="typed", backend=backend, default_cpu=1)
    task = p.new_task(name="say")
    assert_type(task.command("echo hello").cpu("500m").memory(1).env("A", "b"), hp.Task)
    batch = p.run(wait=False, disable_progress_bar=True)
    assert_type(batch, hp.Batch)
    assert_type(p.run(dry_run=True), "hp.Batch | None")
    status = batch.wait(timeout=30)
    assert_type(status, hp.BatchStatus)
    assert_type(status.cost, Decimal)
    assert status.state == "success"
    for job in batch.jobs("say", states=["Success"]):
        assert_type(job, hp.Job)
        assert_type(job.status().exit_code, "int | None")
        assert_type(job.attributes(), Mapping[str, str])
        assert_type(job.log().read(), bytes)
        for line in job.log():
            assert_type(line, str)
    with pytest.raises(hp.WrongType):
        p.run(wiat=False)  # type: ignore[call-overload]
    assert status.state != "sucess"  # type: ignore[comparison-overlap]
    with pytest.raises(hp.UsageError):
        task.timeout("an hour")  # type: ignore[arg-type]


async def test_one_with_an_event_loop_does_too(service: FakeService) -> None:
    async with hp.AsyncClient("test", endpoint=service.endpoint, token=TOKEN) as client:
        assert_type(client, hp.AsyncClient)
        builder = client.create_batch(name="typed")
        job = builder.create_job(None, ["echo", "hello"])
        assert_type(job, hp.AsyncJob)
        builder.create_job(None, ["true"], parents=[job])
        batch = await builder.submit()
        assert_type(batch, hp.AsyncBatch)
        assert_type(await batch.wait(timeout=30), hp.BatchStatus)
        async for line in job.log("main", follow=True):
            assert_type(line, str)
        async for each in batch.jobs():
            assert_type(each, hp.AsyncJob)
