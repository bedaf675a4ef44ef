"""Goal 7: what a placement, a page, a count cost with very many jobs waiting, beside few."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Callable
from functools import partial

import postgres
from bench.measure import Goal, Result, Size, in_turns, quantile
from bench.million import waiting_for_a_job
from bench.service import service
from longshore import Batch, Client
from longshore_controller.core.model import Hello, JobColumns, JobState
from longshore_controller.core.reactor import CreateBatch, Limits, Reactor
from longshore_controller.core.state import State

FAILING = 500
"""Jobs of each batch, in five ways."""


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    many = size.of(1_000_000, 100_000, 2_000)
    few = size.of(10_000, 10_000, 1_000)
    placed = few // 2
    ours, base = in_turns(size.runs, lambda: _placements(many, placed), lambda: _placements(few, placed))
    results = [
        Result(
            "7",
            f"placement with {many:,} jobs waiting",
            "µs",
            ours,
            base,
            f"µs with {few:,} waiting",
            ratio_goal=Goal(1.5, at_most=True),
            note="CPU of the core alone: decided, applied to memory, changes taken",
        )
    ]
    with service(server) as made, made.client as client:
        worker = made.worker()
        small, large = (waiting_for_a_job(made, client, n, worker, FAILING) for n in (few, many))
        for name, ask in _READS.items():
            found, bases = in_turns(
                size.runs, partial(_ms, ask, client, large), partial(_ms, ask, client, small)
            )
            results.append(
                Result(
                    "7",
                    f"{name}, of {many:,} jobs",
                    "ms",
                    found,
                    bases,
                    f"ms of {few:,}",
                    ratio_goal=Goal(2, at_most=True),
                )
            )
    return results


def _placements(waiting: int, placed: int) -> float:
    """µs of CPU for each of so many placements on a worker with room for all."""
    reactor = Reactor(State(), lambda: secrets.token_hex(16), Limits(), now=0)
    reactor.on_hello(Hello("w", "w", "boot", "1", placed * 1000, "fake"), 1)
    batch_id = reactor.on_create(CreateBatch("ann", "p", "r", b"", waiting), 1)
    columns = JobColumns.build(bytearray([JobState.READY]) * waiting, array("I", [1000]) * waiting)
    reactor.on_close(batch_id, columns, 1)
    began = time.process_time()
    done = 0
    while done < placed:
        reactor.advance(2)
        events, _ = reactor.take()
        done += sum(type(event).__name__ == "AttemptAssigned" for event in events)
    return (time.process_time() - began) * 1e6 / placed


def _page(client: Client, batch: Batch) -> None:
    assert client.page_of_jobs(batch.id, size=50).rows


def _last_page(client: Client, batch: Batch) -> None:
    n_jobs = batch.status().n_jobs
    assert len(client.page_of_jobs(batch.id, after=n_jobs - 50, size=50).rows) == 50


def _by_state(client: Client, batch: Batch) -> None:
    assert client.page_of_jobs(batch.id, size=50, states=["Running"]).rows


def _none_by_state(client: Client, batch: Batch) -> None:
    assert not client.page_of_jobs(batch.id, size=50, states=["Success"]).rows


def _query(client: Client, batch: Batch) -> None:
    assert len(client.page_of_jobs(batch.id, size=50, query="state:failure").rows) == 50


def _exit_code(client: Client, batch: Batch) -> None:
    assert len(client.page_of_jobs(batch.id, size=50, query="exit:3").rows) == 50


def _no_exit_code(client: Client, batch: Batch) -> None:
    assert not client.page_of_jobs(batch.id, size=50, query="exit:137 OR (state:error name:x)").rows


def _exit_code_window(client: Client, batch: Batch) -> None:
    with client.watch_jobs(batch.id, "exit>3 attempts:1", first=FAILING // 5, n=50) as window:
        view = next(iter(window))
        assert view.n_matching == 2 * FAILING // 5 and view.rows


def _failures(client: Client, batch: Batch) -> None:
    assert [count.n for count in client.failure_counts(batch.id).counts] == [FAILING // 5] * 5


def _completion(client: Client, batch: Batch) -> None:
    assert client.complete_query("state:", batch_id=batch.id).found


def _count(client: Client, batch: Batch) -> None:
    assert batch.status().n_running == 1


def _window(client: Client, batch: Batch) -> None:
    with client.watch_jobs(batch.id, "state:pending", first=batch.status().n_jobs // 2, n=50) as window:
        assert next(iter(window)).rows


_READS: dict[str, Callable[[Client, Batch], None]] = {
    "first page of the list": _page,
    "last page": _last_page,
    "first page of a state": _by_state,
    "page of a state that no job has": _none_by_state,
    "page of the query state:failure": _query,
    "page of the query exit:3": _exit_code,
    "page of exit:137, which no job has": _no_exit_code,
    "window in the middle of exit>3, with its count": _exit_code_window,
    "failure groups": _failures,
    "completion of state:, with counts": _completion,
    "counts of all states": _count,
    "window in the middle of state:pending, with its count": _window,
}


def _ms(ask: Callable[[Client, Batch], None], client: Client, batch: Batch) -> float:
    """The median of ten."""
    took = []
    for _ in range(10):
        began = time.perf_counter()
        ask(client, batch)
        took.append((time.perf_counter() - began) * 1000)
    return quantile(took, 0.5)
