"""The bare pieces of a batch service, as a base: what gRPC, Postgres and asyncio cost by themselves.

Submit stream → COPY → queue in memory → durable assignment → worker's stream → durable completion → one
subscriber. No events, ledger, leases, attempts, retries, users: what is left is what nobody can leave out.
`python -m bench.bare serve URL ADDRESS` and `python -m bench.bare work ADDRESS` are its two programs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
from bench.measure import cpu_seconds
from longshore_api.v1 import batch_service_pb2 as batch
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as worker

_IN_A_COMMIT = 2000
_IN_A_MESSAGE = 64
_SERVICE = "bare.Bare"


class _Server:
    def __init__(self, url: str) -> None:
        self._url = url
        self._ready: deque[tuple[int, bytes]] = deque()
        self._ended: list[int] = []
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        """Connections for submissions."""
        self._due = asyncio.Event()
        self._to_worker: asyncio.Queue[worker.Assignments] = asyncio.Queue()
        self._to_subscriber: asyncio.Queue[worker.Acks] = asyncio.Queue()

    async def submit(self, requests: Any, context: Any) -> Any:
        """Rows first; they may run when all of the stream are stored."""
        stored: list[tuple[int, bytes]] = []
        if not self._idle:
            self._idle.append(await psycopg.AsyncConnection.connect(self._url, autocommit=True))
        connection = self._idle.pop()
        async for request in requests:
            rows = [(request.first_job_id + i, job.SerializeToString()) for i, job in enumerate(request.jobs)]
            async with connection.cursor().copy("COPY job (id, state, spec) FROM STDIN") as copy:
                await copy.write("".join(f"{id}\t1\t\\\\x{spec.hex()}\n" for id, spec in rows))
            stored += rows
        self._idle.append(connection)
        self._ready.extend(stored)
        self._due.set()
        return batch.SubmitJobsResponse(n_jobs=len(stored))

    async def connect(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async def listen() -> None:
            async for message in requests:
                self._ended += [int(report.attempt_id) for report in message.reports]
                self._due.set()

        listening = asyncio.create_task(listen())
        try:
            while True:
                yield await self._to_worker.get()
        finally:
            listening.cancel()

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            yield await self._to_subscriber.get()

    async def commit(self) -> None:
        """Whatever came together is written together; at once when idle."""
        update = "UPDATE job SET state = %s FROM unnest(%s::int[]) AS x (id) WHERE job.id = x.id"
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            await connection.execute("SET enable_seqscan = off")
            while True:
                await self._due.wait()
                self._due.clear()
                ended, self._ended = self._ended, []
                run = [self._ready.popleft() for _ in range(min(len(self._ready), _IN_A_COMMIT))]
                if run:
                    await connection.execute(update, (3, [id for id, _ in run]))
                if ended:
                    await connection.execute(update, (4, ended))
                await connection.commit()
                for at in range(0, len(run), _IN_A_MESSAGE):
                    some = run[at : at + _IN_A_MESSAGE]
                    orders = [
                        worker.Assignment(attempt_id=str(id), job_id=id, spec=spec) for id, spec in some
                    ]
                    self._to_worker.put_nowait(worker.Assignments(run=orders))
                if ended:
                    acks = [worker.Ack(attempt_id=str(id)) for id in ended]
                    self._to_subscriber.put_nowait(worker.Acks(acks=acks))
                if self._ready:
                    self._due.set()


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


async def _serve(url: str, address: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE job (id INTEGER PRIMARY KEY, state SMALLINT NOT NULL, spec BYTEA NOT NULL)"
        )
    mine = _Server(url)
    rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Submit": grpc.stream_unary_rpc_method_handler(
            mine.submit, batch.SubmitJobsRequest.FromString, _bytes
        ),
        "Connect": grpc.stream_stream_rpc_method_handler(mine.connect, worker.Reports.FromString, _bytes),
        "Watch": grpc.unary_stream_rpc_method_handler(
            mine.watch, batch.WatchEventsRequest.FromString, _bytes
        ),
    }
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 16 << 20)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, rpcs),))
    server.add_insecure_port(address)
    await server.start()
    await mine.commit()


async def _work(address: str) -> None:
    """A worker whose jobs are over at once."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/{_SERVICE}/Connect",
            request_serializer=_bytes,
            response_deserializer=worker.Assignments.FromString,
        )(wait_for_ready=True)
        async for orders in call:
            ends = [
                worker.Report(attempt_id=each.attempt_id, state=types.ATTEMPT_STATE_ENDED)
                for each in orders.run
            ]
            await call.write(worker.Reports(reports=ends))


class Bare:
    """The bare service as two processes, and its client in this one."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._address = f"unix:{folder / 'bare'}"
        here = [sys.executable, "-m", "bench.bare"]
        self._programs = [
            subprocess.Popen([*here, "serve", url, self._address], stdin=subprocess.DEVNULL),
            subprocess.Popen([*here, "work", self._address], stdin=subprocess.DEVNULL),
        ]
        options = [("grpc.max_receive_message_length", 16 << 20)]
        self._channel = grpc.insecure_channel(self._address, options=options)
        self._submit = self._channel.stream_unary(
            f"/{_SERVICE}/Submit",
            request_serializer=_bytes,
            response_deserializer=batch.SubmitJobsResponse.FromString,
        )
        watch = self._channel.unary_stream(
            f"/{_SERVICE}/Watch", request_serializer=_bytes, response_deserializer=worker.Acks.FromString
        )
        self._acks = watch(batch.WatchEventsRequest(), wait_for_ready=True)
        self._first = 1
        self.run(1)  # Both programs are there, and warm.

    def run(self, n: int) -> float:
        """Seconds from the submission of ``n`` jobs to the last end seen."""
        began = time.perf_counter()
        first, self._first = self._first, self._first + n
        self._submit(iter(_bunches(first, n)), wait_for_ready=True)
        left = n
        for acks in self._acks:
            left -= len(acks.acks)
            if not left:
                break
        return time.perf_counter() - began

    def cpu(self) -> dict[str, float]:
        served, worked = (cpu_seconds(program.pid) for program in self._programs)
        return {"controller": served, "workerd": worked}

    def close(self) -> None:
        self._acks.cancel()
        self._channel.close()
        for program in reversed(self._programs):  # The worker would miss its service.
            program.kill()
            program.wait()


def _bunches(first: int, n: int) -> Iterator[Any]:
    for at in range(first, first + n, 1000):
        jobs = [types.JobSpec(name="job", command=["true"]) for _ in range(min(1000, first + n - at))]
        yield batch.SubmitJobsRequest(batch_id=1, first_job_id=at, jobs=jobs)


@contextmanager
def bare(url: str, folder: Path) -> Iterator[Bare]:
    """It runs meanwhile."""
    made = Bare(url, folder)
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[2:]) if sys.argv[1] == "serve" else _work(*sys.argv[2:]))
