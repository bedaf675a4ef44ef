"""Why a batch or a job is where it is: what memory says of it, and beside it what only rows know."""

from __future__ import annotations

from collections.abc import Sequence

from longshore_api.v1 import types_pb2

from longshore_controller.core import why
from longshore_controller.core.model import JobState
from longshore_controller.core.why_texts import Parent, Reason, due
from longshore_controller.engine import Engine
from longshore_controller.store import JobView, Store
from longshore_controller.visible import Visible, read

LOOKS = 3
"""A job that goes on between a look at memory and one at rows is looked at again, so often."""
MOST_PARENTS = 1_000
"""Of a cancelled job that are looked at for one that did not succeed."""


class Explaining:
    """Refuses like `Visible`."""

    def __init__(self, store: Store, engine: Engine, visible: Visible) -> None:
        self._store = store
        self._engine = engine
        self._visible = visible

    async def batch(self, batch_id: int) -> list[Reason]:
        """What matters most first."""
        await self._visible.batch(batch_id)
        found, _ = await self._engine.look(lambda r: why.of_batch(r, batch_id, self._engine.now_ms()))
        if found is None:  # It is complete, and its row says so by now.
            found = why.of_batch_row(await self._visible.batch(batch_id))
        return [reason.about(batch_id) for reason in found]

    async def job(self, batch_id: int, job_id: int) -> Reason:
        """The one reason."""
        for _ in range(LOOKS):
            await self._visible.batch(batch_id)
            found, _ = await self._engine.look(
                lambda r: why.of_job(r, batch_id, job_id, self._engine.now_ms())
            )
            job = await self._visible.job(batch_id, job_id)
            if isinstance(found, why.Waiting):
                found = await self._pending(job, found)
            elif found is None and job.row.state.is_complete:
                found = await self._over(job)
            if found is not None:
                return found.about(batch_id, job_id)
        return due()

    async def _pending(self, job: JobView, waiting: why.Waiting) -> Reason | None:
        batch_id = job.row.batch_id
        parents = await self._parents_of(job)
        states, _ = await self._engine.look(lambda r: why.parents_in_memory(r, batch_id, parents))
        if states is None:
            return None
        named = await self._named(batch_id, why.named_of(parents, states, waiting))
        return why.of_parents(waiting, len(parents), named) if named else None

    async def _over(self, job: JobView) -> Reason:
        row = job.row
        attempts = await read(self._store.attempts, row.batch_id, row.job_id)
        failed: list[Parent] = []
        if row.state is JobState.CANCELLED:
            parents = (await self._parents_of(job))[:MOST_PARENTS]
            known = await self._named(row.batch_id, parents)
            failed = [p for p in known if p.state.is_complete and p.state is not JobState.SUCCESS]
        return why.of_rows(row, attempts, job.mcpu, failed[: why.NAMED])

    async def _parents_of(self, job: JobView) -> Sequence[int]:
        key = job.row.batch_id, job.row.job_id
        specs = await read(self._store.specs, [key])
        return sorted(types_pb2.JobSpec.FromString(specs[key]).parents)

    async def _named(self, batch_id: int, job_ids: Sequence[int]) -> list[Parent]:
        views = await read(self._store.jobs_of, batch_id, job_ids) if job_ids else []
        return [Parent(v.row.job_id, v.name, v.row.state) for v in views]
