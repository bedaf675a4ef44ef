"""The users of the second layer: each sends one batch through the service's own stubs, and insists; and an
admin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import grpc
from grpc import aio
from longshore_api.v1 import admin_service_pb2 as admin
from longshore_api.v1 import admin_service_pb2_grpc as admin_grpc
from longshore_api.v1 import batch_service_pb2 as batches
from longshore_api.v1 import batch_service_pb2_grpc as batches_grpc
from longshore_api.v1 import billing_service_pb2 as billing
from longshore_api.v1 import billing_service_pb2_grpc as billing_grpc
from longshore_api.v1 import types_pb2 as types
from longshore_controller.core.money import DAY_MS
from sim.database import Records
from sim.oracle import CALLBACK, Oracle, require
from sim.weather import Weather
from sim.wire import Channel, Network
from world import Job, more_jobs, random_jobs, with_limits

UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Nobody knows whether it was done, or it cannot be done just now: ask again."""
ANSWER_WITHIN_S = 20.0


class World(Protocol):
    seed: object
    folder: Path
    network: Network
    oracle: Oracle
    records: Records
    weather: Weather

    @property
    def is_healed(self) -> bool:
        """Nothing befalls anybody any more."""

    def happened(self, what: str) -> None: ...

    def now(self) -> int: ...


class Caller:
    """Somebody who asks until there is an answer."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._rng = Random(f"{world.seed}/{name}")

    async def _insist(self, method: Callable[..., Awaitable[Any]], request: Callable[[], Any]) -> Any:
        """Asks until there is an answer, and sometimes once more."""
        rng = self._rng
        while True:
            try:
                answer = await method(request(), timeout=ANSWER_WITHIN_S, metadata=self._metadata())
            except aio.AioRpcError as error:
                not_yet = error.code() is grpc.StatusCode.UNAUTHENTICATED and not self._token()
                if error.code() not in UNKNOWN and not not_yet:
                    raise
                self._world.happened("a user who asks again")
            else:
                if self._world.is_healed or rng.random() < 0.9:
                    return answer
            await asyncio.sleep(rng.choice([0.01, 0.5, 3]))

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token()}"),)

    def _token(self) -> str:
        with suppress(FileNotFoundError):
            return (self._world.folder / "owner").read_text().strip()
        return ""


class User(Caller):
    """One batch, from its creation to whatever its user makes of it."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"user {number}")
        self._number = number
        channel: Any = Channel(world.network)
        self._stub: Any = batches_grpc.BatchServiceStub(channel)

    async def run(self) -> None:
        rng, stub = self._rng, self._stub
        jobs = random_jobs(rng, most=rng.choice([4, 8, 12]))
        more = Random(f"{self._world.seed}/more of user {self._number}")
        jobs = with_limits(more, jobs)
        await asyncio.sleep(rng.randint(0, self._world.weather.lasts_ms // rng.choice([2, 10])) / 1000)
        request_id = f"request {self._number}"
        whole = jobs if rng.random() < 0.4 else []
        request = batches.CreateBatchRequest(
            request_id=request_id,
            billing_project="project",
            n_jobs=len(jobs),
            callback=CALLBACK if Random(f"{self._world.seed}/callback {self._number}").random() < 0.3 else "",
            jobs=[self._spec(i, job) for i, job in enumerate(whole, 1)],
        )
        self._world.records.wanted[request_id] = whole
        asked = [self._insist(stub.CreateBatch, lambda: request) for _ in range(rng.choice([1, 1, 2]))]
        first, *again = await asyncio.gather(*asked)
        assert all(a == first for a in again), f"the same request made batches {first} and {again}"
        batch_id = first.batch_id
        self._world.records.plans[batch_id] = jobs
        wants_cancel, wants_delete = rng.random() < 0.4, rng.random() < 0.15
        cancel = batches.CancelBatchRequest(batch_id=batch_id, reason="no longer wanted")
        if wants_cancel and rng.random() < 0.3:
            await self._insist(stub.CancelBatch, lambda: cancel)
            return
        await asyncio.sleep(rng.choice([0, 0.1, 5]))
        if not whole:
            if jobs:
                await self._insist(stub.SubmitJobs, lambda: self._bunches(batch_id, jobs))
            await self._insist(stub.CloseBatch, lambda: batches.CloseBatchRequest(batch_id=batch_id))
        else:
            self._world.happened("a batch that came with its jobs")
        watching = asyncio.create_task(self._watch(batch_id)) if rng.random() < 0.5 else None
        if more.random() < 0.3:
            await self._end_some(more, batch_id)
        if more.random() < 0.4:
            await self._add_some(more, batch_id)
        if wants_cancel:
            await asyncio.sleep(rng.choice([0, 0.02, 5, 40]))
            await self._insist(stub.CancelBatch, lambda: cancel)
        if wants_delete:
            await asyncio.sleep(rng.choice([0, 1, 60, 300]))
            await self._insist(stub.DeleteBatch, lambda: batches.DeleteBatchRequest(batch_id=batch_id))
            self._world.oracle.hidden[batch_id] = True
            if more.random() < 0.5:
                back = batches.UndeleteBatchRequest(batch_id=batch_id)
                await asyncio.sleep(more.choice([0, 1, 60]))
                await self._insist(stub.UndeleteBatch, lambda: back)
                self._world.oracle.hidden[batch_id] = False
        if watching is not None:
            await watching

    async def _add_some(self, rng: Random, batch_id: int) -> None:
        """More jobs for this batch, which runs or is complete."""
        records = self._world.records
        for i in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice([0, 0.05, 5, 100]))
            before = len(records.plans[batch_id])
            jobs = records.more[batch_id, f"more {i}"] = more_jobs(rng, before)
            request = batches.UpdateBatchRequest(
                batch_id=batch_id,
                request_id=f"more {i}",
                first_job_id=before + 1,
                jobs=[self._spec(job_id, job) for job_id, job in enumerate(jobs, before + 1)],
            )
            times = rng.choice([1, 1, 2])
            asked = [self._insist(self._stub.UpdateBatch, partial(_same, request)) for _ in range(times)]
            try:
                answers = await asyncio.gather(*asked)
            except aio.AioRpcError as refused:
                by_budget = "cancelled by budget" in (refused.details() or "")
                require(by_budget, "only such batches take no more jobs", refused)
                return
            for answer in answers:
                require(answer.n_jobs == before + len(jobs), "an update is answered with its end", answer)

    async def _end_some(self, rng: Random, batch_id: int) -> None:
        """Attempts of this batch that its owner is tired of."""
        oracle = self._world.oracle
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice([0.02, 1, 10]))
            live = [a for a, k in oracle.attempts.items() if k.key[0] == batch_id and not k.ended]
            if live:
                attempt_id = rng.choice(live)
                request = batches.EndAttemptRequest(
                    batch_id=batch_id, job_id=oracle.attempts[attempt_id].key[1], attempt_id=attempt_id
                )
                await self._insist(self._stub.EndAttempt, partial(_same, request))
                oracle.withdrawn(attempt_id)

    async def _bunches(self, batch_id: int, jobs: Sequence[Job]) -> AsyncIterator[Any]:
        """In two bunches, one of them twice."""
        half = len(jobs) // 2
        for first, bunch in ((half, jobs[half:]), (0, jobs[:half]), (half, jobs[half:])):
            if bunch:
                specs = [self._spec(i, job) for i, job in enumerate(bunch, first + 1)]
                yield batches.SubmitJobsRequest(batch_id=batch_id, first_job_id=first + 1, jobs=specs)

    def _spec(self, job_id: int, job: Job) -> types.JobSpec:
        store = f"{self._world.folder}/store"
        copy_in = types.FileCopy(source=f"{store}/a", destination="/io/a")
        copy_out = types.FileCopy(source="/io/b", destination=f"{store}/b")
        return types.JobSpec(
            name=job.name,
            attributes=job.attributes,
            command=["true"],
            resources=types.Resources(cpu_mcpu=job.mcpu),
            parents=job.parents,
            always_run=job.always_run,
            retries=job.retries,
            max_preempted=job.max_preempted or None,
            max_lost=job.max_lost or None,
            timeout_ms=0 if job_id % 4 else 60_000,
            input_files=[copy_in] if job_id % 3 == 0 else [],
            output_files=[copy_out] if job_id % 5 == 0 else [],
        )

    async def _watch(self, batch_id: int) -> None:
        """Until it is complete, or deleted."""
        complete = False
        while not complete:
            try:
                async with asyncio.timeout(120):
                    request = batches.WatchBatchRequest(batch_id=batch_id)
                    async for batch in self._stub.WatchBatch(request, metadata=self._metadata()):
                        complete = batch.complete
                        known = self._world.oracle.batches[batch_id]
                        require(known.complete or not complete, "what is told was committed", batch_id)
            except TimeoutError:
                continue
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                if error.code() not in UNKNOWN:
                    raise
            await asyncio.sleep(self._rng.choice([0.1, 1]))
        self._world.happened("a batch that somebody saw complete")


class Accountant(Caller):
    """Limits what may be spent, now and then, and takes it back."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "accountant")
        channel: Any = Channel(world.network)
        self._stub: Any = billing_grpc.BillingServiceStub(channel)

    async def run(self) -> None:
        rng, stub, oracle = self._rng, self._stub, self._world.oracle
        comes = rng.random() < 0.3
        if comes:
            await self._insist(stub.CreateProject, lambda: billing.CreateProjectRequest(name="project"))
        if comes and rng.random() < 0.5:
            await self._insist(stub.SetRates, self._rates)
        while comes and not self._world.is_healed:
            await asyncio.sleep(rng.choice([1, 10, 40]))
            limit, hard = oracle.spent + rng.choice([1, 10_000, 200_000]), rng.random() < 0.3
            limited = billing.SetProjectRequest(name="project", limit_nanousd=limit, hard=hard)
            project = await self._insist(stub.SetProject, lambda: limited)  # noqa: B023
            require(project.limit_nanousd == limit, "what is answered is so", project)
            await asyncio.sleep(rng.choice([0.01, 1, 10, 50]))
            free = billing.SetProjectRequest(name="project", no_limit=True, hard=False)
            await self._insist(stub.SetProject, lambda: free)  # noqa: B023

    def _rates(self) -> billing.SetRatesRequest:
        """From the day after tomorrow on, whatever the service's clock says."""
        day = self._world.now() // DAY_MS + 2
        return billing.SetRatesRequest(from_day=day, prices={"compute": "0.02"})


class Admin(Caller):
    """Freezes the service and drains workers, now and then, and takes it back."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "admin")
        channel: Any = Channel(world.network)
        self._stub: Any = admin_grpc.AdminServiceStub(channel)

    async def run(self) -> None:
        rng, stub = self._rng, self._stub
        comes = rng.random() < 0.3
        while comes and not self._world.is_healed:
            await asyncio.sleep(rng.choice([1, 10, 40]))
            workers = sorted(self._world.oracle.workers)
            lasts_s = rng.choice([0.01, 1, 10, 50])
            if rng.random() < 0.5 or not workers:
                frozen = await self._insist(stub.Freeze, lambda: admin.FreezeRequest(reason="a network"))
                require(frozen.HasField("frozen"), "what is answered is so", frozen)
                await asyncio.sleep(lasts_s)
                await self._insist(stub.Thaw, admin.ThawRequest)
            else:
                await self._drain(rng.choice(workers), lasts_s)

    async def _drain(self, worker_id: str, lasts_s: float) -> None:
        stub = self._stub
        try:
            await self._insist(stub.DrainWorker, lambda: admin.DrainWorkerRequest(worker_id=worker_id))
            await asyncio.sleep(lasts_s)
            await self._insist(stub.UndrainWorker, lambda: admin.UndrainWorkerRequest(worker_id=worker_id))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # It was lost before, or has been undrained.
                raise


def _same(request: Any) -> Any:
    return request
