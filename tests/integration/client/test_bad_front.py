"""Whatever is lost on the way to a real controller and back, each thing happens once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import longshore.calls
import pytest
from front import BadFront
from integration.controller.service import Running, config_of, running
from longshore import AsyncClient, Client, NotFound

N_BUNCHES, BUNCH = 9, 7
NAMES = [f"job {i}" for i in range(N_BUNCHES * BUNCH)]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(config_of(tmp_path)) as service:
        yield service


@pytest.fixture(autouse=True)
def _small_bunches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bunch in each call, and a client that waits a hundredth of what it does otherwise."""
    monkeypatch.setattr(longshore.calls, "_BUNCH_JOBS", BUNCH)
    monkeypatch.setattr(longshore.calls, "_STREAM_BUNCHES", 1)
    slow = longshore.calls.backoff
    monkeypatch.setattr(longshore.calls, "backoff", lambda attempt, rng: slow(attempt, rng) / 100)


def submit(endpoint: str, token: str) -> tuple[int, int]:
    """Two batches of nine bunches, one of them cancelled and one deleted; their ids."""
    with Client("test", endpoint=endpoint, token=token) as client:
        cancelled, deleted = (client.create_batch(name=name) for name in ("cancelled", "deleted"))
        for name in NAMES:
            cancelled.create_job(None, ["true"], name=name)
            deleted.create_job(None, ["true"], name=name)
        batch, other = cancelled.submit(), deleted.submit()
        status = next(batch.watch(timeout=60))
        assert (status.closed, status.n_jobs, status.n_ready) == (True, len(NAMES), len(NAMES))
        batch.cancel("enough")
        other.delete()
        assert batch.wait(timeout=60).n_cancelled == len(NAMES)
        assert [job.last_status.name for job in batch.jobs() if job.last_status] == NAMES
        assert [each.id for each in client.list_batches()] == [batch.id]
        return batch.id, other.id


async def submit_async(endpoint: str, token: str) -> tuple[int, int]:
    """The same."""
    async with AsyncClient("test", endpoint=endpoint, token=token) as client:
        cancelled, deleted = (client.create_batch(name=name) for name in ("cancelled", "deleted"))
        for name in NAMES:
            cancelled.create_job(None, ["true"], name=name)
            deleted.create_job(None, ["true"], name=name)
        batch, other = await asyncio.gather(cancelled.submit(), deleted.submit())
        async for status in batch.watch(timeout=60):
            assert (status.closed, status.n_jobs, status.n_ready) == (True, len(NAMES), len(NAMES))
            break
        await batch.cancel("enough")
        await other.delete()
        assert (await batch.wait(timeout=60)).n_cancelled == len(NAMES)
        assert [job.last_status.name async for job in batch.jobs() if job.last_status] == NAMES
        assert [each.id async for each in client.list_batches()] == [batch.id]
        return batch.id, other.id


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
async def test_nine_bunches_are_nine_bunches_though_requests_fail_and_answers_are_lost(
    service: Running, kind: str
) -> None:
    token = Path(service.config.service.owner_token_file).read_text().strip()
    with BadFront(service.endpoint) as front:
        if kind == "Client":
            cancelled, deleted = await asyncio.to_thread(submit, front.endpoint, token)
        else:
            cancelled, deleted = await submit_async(front.endpoint, token)
    assert "SubmitJobs" in front.refused and "SubmitJobs" in front.lost
    jobs = service.store.jobs(cancelled, limit=1000)
    assert [job.row.job_id for job in jobs] == list(range(1, len(NAMES) + 1))
    hidden = service.store.batch(deleted, with_deleted=True)
    assert hidden is not None and (hidden.n_jobs, hidden.n_cancelled) == (len(NAMES), len(NAMES))
    assert {cancelled, deleted} == {1, 2} and service.store.batch(3, with_deleted=True) is None


async def test_an_error_says_what_the_controller_calls_the_request(service: Running) -> None:
    token = Path(service.config.service.owner_token_file).read_text().strip()
    async with AsyncClient(endpoint=service.endpoint, token=token) as client:
        with pytest.raises(NotFound) as first:
            await client.get_batch(99)
        with pytest.raises(NotFound) as second:
            await client.get_batch(99)
    assert first.value.request_id and second.value.request_id not in ("", first.value.request_id)
