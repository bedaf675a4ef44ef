"""Goal 5: from a commit to a subscriber, at 1,000 changes a second, alone and with 199 other subscribers.

Postgres notes when each commit was; the event log says which events it held.
`python -m bench.goal5 base SOCKET` is the bare stream beside it, `… follow ENDPOINT TOKEN N` the others.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import postgres
import psycopg
from bench.measure import Goal, Result, Size, medians, quantile
from bench.service import Service, per_job, service
from longshore import Client
from longshore_api.v1 import batch_service_pb2 as batch

_CHANGES = 1000
"""A second. A job without a run time makes three: assigned, started, ended."""
_EVERY_S = 0.02


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    seconds = size.of(5, 2, 1)
    others = size.of(199, 199, 3)
    bases: list[list[float]] = []
    alone: list[list[float]] = []
    crowded: list[list[float]] = []
    cpu: list[dict[str, float]] = []
    n = round(_CHANGES / 3 * seconds)
    with service(server) as made, made.client as client:
        made.worker()
        made.submit(client, 10).wait()
        for _ in range(size.runs):
            bases.append(_bare(seconds))
            before = made.cpu()
            alone.append(_delays(made, client, n, seconds))
            cpu.append(per_job(before, made.cpu(), n))
            with _followers(made, others):
                crowded.append(_delays(made, client, n, seconds))

    def result(
        what: str, found: list[list[float]], base: list[list[float]], q: float, **goals: Any
    ) -> Result:
        """Quantiles of a run, beside those of the same run of the base."""
        return Result(
            "5",
            f"commit → subscriber, {what}",
            "ms",
            [quantile(run, q) for run in found],
            [quantile(run, q) for run in base],
            goals.pop("base_is", "ms, a bare grpc.aio stream"),
            cpu=medians(cpu),
            **goals,
        )

    return [
        result("p50", alone, bases, 0.5, value_goal=Goal(3, at_most=True)),
        result("p99", alone, bases, 0.99, value_goal=Goal(12, at_most=True)),
        result(
            f"p99 with {others} others",
            crowded,
            alone,
            0.99,
            ratio_goal=Goal(3, at_most=True),
            base_is="ms, alone",
        ),
    ]


def _delays(made: Service, client: Client, n: int, seconds: float) -> list[float]:
    """ms from the commit of each change of ``n`` jobs to its arrival here."""
    seq = client.page_of_batches(size=1).seq
    arrived: list[tuple[int, float]] = []
    ended = threading.Semaphore(0)

    def listen(follower: Client) -> None:
        left = n
        for events in follower.watch_events(seq):
            arrived.append((events.seq, time.time()))
            left -= sum(event.kind == "attempt ended" for event in events.events)
            if left <= 0:
                break
        ended.release()

    with made.client as follower:
        thread = threading.Thread(target=listen, args=(follower,), daemon=True)
        thread.start()
        bunch = max(1, round(n * _EVERY_S / seconds))
        began, sent = time.monotonic(), 0
        while sent < n:  # On time, whatever the previous ones took.
            time.sleep(max(0.0, began + sent / n * seconds - time.monotonic()))
            made.submit(client, min(bunch, n - sent))
            sent += bunch
        assert ended.acquire(timeout=120), "not every change arrived"
        thread.join()
    with psycopg.connect(made.url) as connection:
        commits = connection.execute(
            "SELECT last_seq, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM event_log "
            "WHERE last_seq > %s",
            (seq,),
        ).fetchall()
    at: dict[int, float] = dict(commits)
    delays = []
    told = seq
    for last, when in arrived:  # What was committed while a message was under way may come as one.
        delays += [(when - at[each]) * 1000 for each in at if told < each <= last]
        told = last
    assert delays, "no message ended where a commit does"
    return delays


@contextmanager
def _followers(made: Service, n: int) -> Iterator[None]:
    """So many more subscribers of all events, in a process of their own, all connected."""
    token = (made.folder / "owner.token").read_text().strip()
    command = [sys.executable, "-m", "bench.goal5", "follow", made.cluster.client().endpoint, token, str(n)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"connected\n"
            yield
        finally:
            process.kill()


def _bare(seconds: float) -> list[float]:
    """The delays in ms of a stream that says 1,000 times a second what time it is."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{Path(folder) / 'socket'}"
        with subprocess.Popen([sys.executable, "-m", "bench.goal5", "base", address]) as process:
            try:
                with grpc.insecure_channel(address) as channel:
                    tell: Any = channel.unary_stream("/bare.Clock/Tell")
                    call = tell(b"", wait_for_ready=True)
                    delays = []
                    for _ in range(round(seconds * _CHANGES)):
                        sent = float(next(call))
                        delays.append((time.time() - sent) * 1000)
                    call.cancel()
                    return delays
            finally:
                process.kill()


async def _serve_base(address: str) -> None:
    async def tell(request: bytes, context: Any) -> AsyncIterator[bytes]:
        due = time.monotonic()
        while True:
            due += 1 / _CHANGES
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield repr(time.time()).encode()

    server = grpc.aio.server()
    rpcs: dict[str, Any] = {"Tell": grpc.unary_stream_rpc_method_handler(tell)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Clock", rpcs),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


async def _follow(endpoint: str, token: str, n: int) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        metadata = (("authorization", f"Bearer {token}"),)
        watch: Any = channel.unary_stream("/longshore_api.v1.BatchService/WatchEvents")
        request = batch.WatchEventsRequest().SerializeToString()
        calls = [watch(request, metadata=metadata) for _ in range(n)]

        async def follow(call: Any) -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        await asyncio.gather(*(call.read() for call in calls))
        print("connected", flush=True)
        await asyncio.gather(*map(follow, calls))


if __name__ == "__main__":
    if sys.argv[1] == "base":
        asyncio.run(_serve_base(sys.argv[2]))
    else:
        asyncio.run(_follow(sys.argv[2], sys.argv[3], int(sys.argv[4])))
