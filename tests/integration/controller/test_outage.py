"""A Postgres that is stopped at once and comes back: nothing acknowledged is lost, all goes on by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import postgres
from integration.controller.service import (
    ENDED,
    PATIENCE_S,
    Running,
    Workerd,
    config_of,
    ended,
    job,
    running,
)
from longshore_api.v1 import types_pb2 as types


class Diligent:
    """A worker that ends every attempt at once, and reports ends until they are acknowledged."""

    def __init__(self, service: Running, identity: tuple[str, str]) -> None:
        self._service = service
        self._identity = identity
        self.spool: set[str] = set()
        self.acked: set[str] = set()
        self.connections = 0
        self.workerd: Workerd | None = None

    async def work(self) -> None:
        while True:
            async with Workerd(self._service.channel, self._identity) as workerd:
                await workerd.say_hello(cores=8, spooled=self.spool)
                await workerd.until(lambda: workerd.told or workerd.ended)
                if workerd.ended is None:
                    self.connections += 1
                    self.workerd = workerd
                    await self._serve(workerd)
            await asyncio.sleep(0.05)

    async def _serve(self, workerd: Workerd) -> None:
        told = set(self.spool)
        await workerd.report(*map(ended, sorted(self.spool)))
        while workerd.ended is None:
            acked = {attempt_id for attempt_id, state in workerd.acks if state == ENDED}
            self.acked |= acked
            self.spool -= acked
            fresh = workerd.runs.keys() - told - self.acked
            if fresh:
                self.spool |= fresh
                told |= fresh
                try:
                    await workerd.report(*map(ended, sorted(fresh)))
                except (grpc.RpcError, asyncio.InvalidStateError):
                    return
            n_runs, n_acks = len(workerd.runs), len(workerd.acks)
            await workerd.until(
                lambda: workerd.ended or len(workerd.runs) > n_runs or len(workerd.acks) > n_acks  # noqa: B023
            )


async def test_nothing_acknowledged_is_lost_when_postgres_stops_at_once(
    tmp_path: Path, postgres_of_its_own: postgres.Cluster
) -> None:
    cluster = postgres_of_its_own
    async with running(config_of(tmp_path, cluster.new_database())) as service:
        diligent = Diligent(service, await service.activate())
        working = asyncio.create_task(diligent.work())
        batch_id = await service.ada.submit(*[job(parents=[i] if i else []) for i in range(400)])
        try:
            async with asyncio.timeout(3 * PATIENCE_S):
                while len(diligent.acked) < 20:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(cluster.stop_at_once)
                acked = set(diligent.acked)
                workerd = diligent.workerd
                assert workerd is not None
                assert len(acked) < 400
                beat = await workerd.beat()
                await workerd.until(lambda: beat in workerd.leases)
                await asyncio.to_thread(cluster.start)
                while len(diligent.acked) < 400:
                    assert not working.done()
                    await asyncio.sleep(0.01)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        last = (await service.ada.complete(batch_id))[-1]
        assert (last.state, last.n_succeeded) == (types.BATCH_STATE_SUCCESS, 400)
        assert diligent.connections >= 2
        for attempt_id in acked:
            row = service.store.attempt(attempt_id)
            assert row is not None
            assert row.ended_at_ms is not None
        attempts = [len(service.store.attempts(batch_id, job_id)) for job_id in range(1, 401)]
        assert attempts == [1] * 400
