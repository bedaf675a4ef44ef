"""A whole controller in this process, users of it, and a workerd that is only its conversation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest
from grpc import aio
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import batch_service_pb2_grpc as batch_grpc
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as worker_pb
from longshore_api.v1 import worker_service_pb2_grpc as worker_grpc
from longshore_controller.__main__ import Controller
from longshore_controller.config import Config, Database, Server, Service, StoreFolder, Workers
from longshore_controller.core.model import Refusal
from longshore_controller.interceptors import hash_of
from longshore_controller.store import StoreUnavailable

STARTED, ENDED = types.ATTEMPT_STATE_STARTED, types.ATTEMPT_STATE_ENDED
PATIENCE_S = 20.0


def config_of(folder: Path, database: str | None = None, **workers: int) -> Config:
    return Config(
        server=Server(grace_ms=100),
        database=Database(url=database or f"sqlite://{folder / 'longshore.db'}"),
        store=StoreFolder(folder="/", remote_tmpdir=str(folder / "tmp"), logs=str(folder / "logs")),
        service=Service(
            embedded=True,
            owner="ada",
            owner_token_file=str(folder / "owner.token"),
            activation_token_file=str(folder / "activation.token"),
            notices=["made for a test"],
        ),
        workers=replace(Workers(), **workers),
    )


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """A controller that has loaded, in this event loop."""
    controller = Controller(config)
    async with controller.serving() as (endpoint, loop), aio.insecure_channel(endpoint) as channel:
        while True:
            with suppress(Refusal):
                await controller.engine.submit(lambda r, now: None)
                break
            await asyncio.sleep(0)
        yield Running(config, controller, endpoint, channel, loop)


class Running:
    def __init__(
        self,
        config: Config,
        controller: Controller,
        endpoint: str,
        channel: aio.Channel,
        loop: asyncio.Task[None],
    ) -> None:
        self.config = config
        self.controller = controller
        self.store = controller.store
        self.endpoint = endpoint
        self.channel = channel
        self.loop = loop
        self.ada = User(channel, Path(config.service.owner_token_file).read_text().strip())

    def user(self, name: str) -> User:
        """Another user, who is there from now on."""
        self.store.ensure_user(name)
        self.store.add_token(name, hash_of(f"token of {name}"))
        return User(self.channel, f"token of {name}", f"of-{name}")

    @property
    def activation_token(self) -> str:
        return Path(self.config.service.activation_token_file).read_text().strip()

    async def activate(self) -> tuple[str, str]:
        """A new worker's id and token."""
        stub: Any = worker_grpc.WorkerServiceStub(self.channel)
        request = worker_pb.ActivateRequest(activation_token=self.activation_token)
        answer = await stub.Activate(request)
        return answer.worker_id, answer.worker_token

    @asynccontextmanager
    async def worker(
        self,
        identity: tuple[str, str] | None = None,
        *,
        cores: int = 4,
        held: Iterable[str] = (),
        spooled: Iterable[str] = (),
    ) -> AsyncIterator[Workerd]:
        """A worker that has said Hello."""
        async with Workerd(self.channel, identity or await self.activate()) as workerd:
            await workerd.hello(cores, held, spooled)
            yield workerd

    @contextmanager
    def commits_held(self) -> Iterator[threading.Event]:
        """Meanwhile no commit gets further than its begin; the event is set when one is there."""
        reached, go = threading.Event(), threading.Event()
        real = self.store.commit

        def commit(*args: Any) -> int:
            reached.set()
            go.wait()
            return real(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, "commit", commit)
            try:
                yield reached
            finally:
                go.set()

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Meanwhile the writer's database does not answer."""

        def away(*_: Any) -> Any:
            raise StoreUnavailable("away on purpose")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, "commit", away)
            patch.setattr(self.store, "load", away)
            yield


class User:
    """Calls as one user. Each method answers the message or raises grpc's error."""

    def __init__(self, channel: aio.Channel, token: str, project: str = "test") -> None:
        """``project``: the billing project of batches that do not say another one."""
        self._stub: Any = batch_grpc.BatchServiceStub(channel)
        self.project = project
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._requests = 0

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, metadata=self.metadata, timeout=PATIENCE_S)

    def stream(self, method: str, request: Any) -> Any:
        return getattr(self._stub, method)(request, metadata=self.metadata)

    async def create(self, n_jobs: int, request_id: str = "", **fields: Any) -> int:
        self._requests += 1
        request = pb.CreateBatchRequest(
            **{"request_id": request_id or f"r{self._requests}", "billing_project": self.project, **fields},
            n_jobs=n_jobs,
        )
        batch_id: int = (await self.call("CreateBatch", request)).batch_id
        return batch_id

    async def add(self, batch_id: int, *jobs: types.JobSpec, first: int = 1) -> None:
        bunch = pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=first, jobs=jobs)
        await self._stub.SubmitJobs(iter([bunch]), metadata=self.metadata, timeout=PATIENCE_S)

    async def close(self, batch_id: int) -> None:
        await self.call("CloseBatch", pb.CloseBatchRequest(batch_id=batch_id))

    async def submit(self, *jobs: types.JobSpec) -> int:
        """A closed batch of these jobs."""
        batch_id = await self.create(len(jobs))
        await self.add(batch_id, *jobs)
        await self.close(batch_id)
        return batch_id

    async def cancel(self, batch_id: int, reason: str = "") -> None:
        await self.call("CancelBatch", pb.CancelBatchRequest(batch_id=batch_id, reason=reason))

    async def delete(self, batch_id: int) -> None:
        await self.call("DeleteBatch", pb.DeleteBatchRequest(batch_id=batch_id))

    async def batch(self, batch_id: int) -> Any:
        return await self.call("GetBatch", pb.GetBatchRequest(batch_id=batch_id))

    async def job(self, batch_id: int, job_id: int) -> Any:
        return await self.call("GetJob", pb.GetJobRequest(batch_id=batch_id, job_id=job_id))

    async def complete(self, batch_id: int) -> list[Any]:
        """All that a watcher saw up to the batch's completion."""
        async with asyncio.timeout(PATIENCE_S):
            return [seen async for seen in self.stream("WatchBatch", pb.WatchBatchRequest(batch_id=batch_id))]

    def log(self, batch_id: int, job_id: int, **how: Any) -> Any:
        request = pb.ReadLogRequest(
            **{"batch_id": batch_id, "job_id": job_id, "container": types.CONTAINER_MAIN, **how}
        )
        return self.stream("ReadLog", request)

    async def whole_log(self, batch_id: int, job_id: int, **how: Any) -> tuple[bytes, Any]:
        """The bytes, which must stand at their offsets, and the last piece."""
        pieces = [piece async for piece in self.log(batch_id, job_id, **how)]
        at = pieces[0].offset
        for piece in pieces:
            assert piece.offset == at
            assert len(piece.chunk) <= 64 * 1024
            at += len(piece.chunk)
        assert [piece.end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        return b"".join(piece.chunk for piece in pieces), pieces[-1]


def job(*command: str, **fields: Any) -> types.JobSpec:
    return types.JobSpec(**{"command": command or ["true"], **fields})


class Workerd:
    """One connection of a worker. It does what the test says and remembers all that it was told."""

    def __init__(self, channel: aio.Channel, identity: tuple[str, str]) -> None:
        self.identity = identity
        self._metadata = (("authorization", f"Bearer {identity[1]}"),)
        self._stub: Any = worker_grpc.WorkerServiceStub(channel)
        self._call: Any = None
        self._beats = 0
        self.welcome = worker_pb.Welcome()
        self.told: list[worker_pb.Assignments] = []
        self.runs: dict[str, worker_pb.Assignment] = {}
        self.revoked: set[str] = set()
        self.acks: set[tuple[str, int]] = set()
        self.leases: set[int] = set()
        self.logs_wanted: list[str] | None = None
        self.ended: grpc.StatusCode | None = None
        """Set when the controller has hung up."""
        self.why = ""
        self._changed = asyncio.Condition()
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._call = self._stub.Connect(metadata=self._metadata)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        if self._listening:
            await self._listening

    async def send(self, **kind: Any) -> None:
        await self._call.write(worker_pb.WorkerMessage(**kind))

    async def hello(self, cores: int = 4, held: Iterable[str] = (), spooled: Iterable[str] = ()) -> None:
        """Said, and answered with Welcome and complete orders."""
        await self.say_hello(cores, held, spooled)
        await self.until(lambda: self.told or self.ended)

    async def say_hello(
        self, cores: int = 4, held: Iterable[str] = (), spooled: Iterable[str] = (), seen_epoch: int = 0
    ) -> None:
        said = worker_pb.Hello(
            capacity_mcpu=cores * 1000,
            runtime="fake",
            held=_held(held),
            spooled=spooled,
            seen_epoch=seen_epoch,
        )
        await self.send(hello=said)
        self._listening = asyncio.create_task(self._listen())

    async def beat(self, held: Iterable[str] = (), spooled: Iterable[str] = ()) -> int:
        self._beats += 1
        await self.send(heartbeat=worker_pb.Heartbeat(number=self._beats, held=_held(held), spooled=spooled))
        return self._beats

    async def report(self, *reports: worker_pb.Report) -> None:
        await self.send(reports=worker_pb.Reports(reports=reports))

    async def run_to_end(self, attempt_id: str, exit_code: int = 0, log_bytes: int = 0) -> None:
        """Report its end, and wait for the ack."""
        await self.report(ended(attempt_id, exit_code, log_bytes))
        await self.until(lambda: (attempt_id, ENDED) in self.acks)

    async def push(self, *pieces: tuple[str, int, bytes], container: Any = types.CONTAINER_MAIN) -> None:
        requests = [
            worker_pb.PushLogsRequest(attempt_id=a, container=container, offset=offset, chunk=chunk)
            for a, offset, chunk in pieces
        ]
        await self._stub.PushLogs(iter(requests), metadata=self._metadata, timeout=PATIENCE_S)

    async def assigned(self, n: int = 1) -> list[worker_pb.Assignment]:
        """All attempts that it was told to run, once there are as many."""
        await self.until(lambda: len(self.runs) >= n)
        return list(self.runs.values())

    async def until(self, fact: Callable[[], object]) -> None:
        """Returns once it is true."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(fact)

    async def _listen(self) -> None:
        try:
            async for message in self._call:
                self._hear(message)
                await self._notify()
            self.ended = await self._call.code()
        except grpc.RpcError as error:
            assert isinstance(error, aio.AioRpcError)
            self.ended, self.why = error.code(), error.details() or ""
        except asyncio.CancelledError:
            self.ended = grpc.StatusCode.CANCELLED
        await self._notify()

    def _hear(self, message: worker_pb.ControllerMessage) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self.welcome = message.welcome
            case "assignments":
                self.told.append(message.assignments)
                self.runs |= {a.attempt_id: a for a in message.assignments.run}
                self.revoked |= set(message.assignments.revoke)
            case "acks":
                self.acks |= {(ack.attempt_id, ack.state) for ack in message.acks.acks}
            case "lease_extended":
                self.leases.add(message.lease_extended.number)
            case "logs_wanted":
                self.logs_wanted = list(message.logs_wanted.attempt_ids)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def started(attempt_id: str) -> worker_pb.Report:
    return worker_pb.Report(attempt_id=attempt_id, state=STARTED)


def ended(attempt_id: str, exit_code: int = 0, log_bytes: int = 0, main_ms: int = 0) -> worker_pb.Report:
    record = types.ContainerRecord(
        container=types.CONTAINER_MAIN, exit_code=exit_code, log_bytes=log_bytes, started_ms=1, ended_ms=2
    )
    return worker_pb.Report(
        attempt_id=attempt_id,
        state=ENDED,
        main_ms=main_ms,
        reason=types.END_REASON_COMPLETED,
        containers=[record],
    )


def _held(attempt_ids: Iterable[str]) -> list[worker_pb.HeldAttempt]:
    return [worker_pb.HeldAttempt(attempt_id=a, state=STARTED) for a in attempt_ids]
