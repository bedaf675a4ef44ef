"""What admins ask of a service: freezing it, its workers. `Client.admin` and `AsyncClient.admin`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longshore_api.v1 import admin_service_pb2 as pb

from . import wire
from .checks import check_text
from .status import ServiceStatus, WorkerStatus
from .steps import finish

if TYPE_CHECKING:
    from .calls import Calls


class AdminCalls:
    """The calls themselves, for both kinds of client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def status(self) -> ServiceStatus:
        return wire.service_status(await self._calls._ask("GetServiceStatus", pb.GetServiceStatusRequest()))

    async def freeze(self, reason: str) -> ServiceStatus:
        request = pb.FreezeRequest(reason=check_text("reason", reason))
        return wire.service_status(await self._calls._ask("Freeze", request))

    async def thaw(self) -> ServiceStatus:
        return wire.service_status(await self._calls._ask("Thaw", pb.ThawRequest()))

    async def workers(self) -> list[WorkerStatus]:
        answer = await self._calls._ask("ListWorkers", pb.ListWorkersRequest())
        return [wire.worker_status(worker) for worker in answer.workers]

    async def worker(self, worker_id: str) -> WorkerStatus:
        request = pb.GetWorkerRequest(worker_id=check_text("worker_id", worker_id))
        return wire.worker_status(await self._calls._ask("GetWorker", request))

    async def drain(self, worker_id: str, reason: str) -> WorkerStatus:
        request = pb.DrainWorkerRequest(
            worker_id=check_text("worker_id", worker_id), reason=check_text("reason", reason)
        )
        return wire.worker_status(await self._calls._ask("DrainWorker", request))

    async def undrain(self, worker_id: str) -> WorkerStatus:
        request = pb.UndrainWorkerRequest(worker_id=check_text("worker_id", worker_id))
        return wire.worker_status(await self._calls._ask("UndrainWorker", request))


class Admin:
    """Freezing a service and draining its workers. Every method raises PermissionDenied for others than
    admins; all may be repeated."""

    def __init__(self, calls: Calls) -> None:
        self._asked = AdminCalls(calls)

    def status(self) -> ServiceStatus:
        """Whether the service is frozen, and what still runs.

        >>> client.admin.status().n_workers
        1
        """
        return finish(self._asked.status())

    def freeze(self, reason: str = "") -> ServiceStatus:
        """Start nothing more, in the whole service, until `thaw`. What runs goes on, and so do submissions.

        >>> client.admin.freeze('a new network').frozen.reason
        'a new network'
        >>> client.admin.thaw().frozen is None
        True
        """
        return finish(self._asked.freeze(reason))

    def thaw(self) -> ServiceStatus:
        """Start jobs again.

        >>> client.admin.thaw().frozen is None
        True
        """
        return finish(self._asked.thaw())

    def workers(self) -> Sequence[WorkerStatus]:
        """All workers, by name.

        >>> [worker.n_running for worker in client.admin.workers()]
        [0]
        """
        return finish(self._asked.workers())

    def worker(self, worker_id: str) -> WorkerStatus:
        """One worker, with what runs there. Raises NotFound.

        >>> worker = client.admin.workers()[0]
        >>> client.admin.worker(worker.id).running
        ()
        """
        return finish(self._asked.worker(worker_id))

    def drain(self, worker_id: str, reason: str = "") -> WorkerStatus:
        """Give the worker nothing new, also after restarts; what it runs goes on. Raises NotFound.

        >>> worker = client.admin.workers()[0]
        >>> client.admin.drain(worker.id, 'a new disk').state
        'draining'
        >>> client.admin.undrain(worker.id).state
        'active'
        """
        return finish(self._asked.drain(worker_id, reason))

    def undrain(self, worker_id: str) -> WorkerStatus:
        """Give the worker jobs again. Raises NotFound.

        >>> worker = client.admin.workers()[0]
        >>> client.admin.undrain(worker.id).state
        'active'
        """
        return finish(self._asked.undrain(worker_id))


class AsyncAdmin:
    """`Admin`, awaited."""

    def __init__(self, calls: Calls) -> None:
        self._asked = AdminCalls(calls)

    async def status(self) -> ServiceStatus:
        """Whether the service is frozen, and what still runs."""
        return await self._asked.status()

    async def freeze(self, reason: str = "") -> ServiceStatus:
        """Start nothing more, in the whole service, until `thaw`; see `Admin.freeze`."""
        return await self._asked.freeze(reason)

    async def thaw(self) -> ServiceStatus:
        """Start jobs again."""
        return await self._asked.thaw()

    async def workers(self) -> Sequence[WorkerStatus]:
        """All workers, by name."""
        return await self._asked.workers()

    async def worker(self, worker_id: str) -> WorkerStatus:
        """One worker, with what runs there. Raises NotFound."""
        return await self._asked.worker(worker_id)

    async def drain(self, worker_id: str, reason: str = "") -> WorkerStatus:
        """Give the worker nothing new; see `Admin.drain`. Raises NotFound."""
        return await self._asked.drain(worker_id, reason)

    async def undrain(self, worker_id: str) -> WorkerStatus:
        """Give the worker jobs again. Raises NotFound."""
        return await self._asked.undrain(worker_id)
