"""Goal 1: from a Pipeline to committed rows, beside the COPY of the same rows."""

from __future__ import annotations

import time
from contextlib import redirect_stderr
from io import StringIO

import longshore as hp
import postgres
import psycopg
from bench.measure import Goal, Result, Size, in_turns, medians
from bench.service import Service, per_job, service

_TABLES = ("job_spec", "job")


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    small = size.of(100_000, 4_000, 200)
    with service(server) as made:
        found = [_submit(made, small, size.runs), _submit(made, 10 * small, size.runs)]
    results = []
    for n, (ours, base, cpu) in zip((small, 10 * small), found, strict=True):
        results.append(
            Result(
                "1",
                f"submission of {n:,} jobs from Pipeline.run to committed",
                "jobs/s",
                ours,
                base,
                "jobs/s by COPY of the same rows, with their keys, one COPY for each table",
                ratio_goal=Goal(0.35),
                cpu=medians(cpu),
            )
        )
    seconds = [
        [n / rate for rate in ours] for n, (ours, _, _) in zip((small, 10 * small), found, strict=True)
    ]
    tenfold = [10 * each for each in seconds[0]]
    results.append(
        Result(
            "1",
            f"{10 * small:,} jobs, against ten times {small:,}",
            "s",
            seconds[1],
            tenfold,
            "s, ten times the smaller",
            ratio_goal=Goal(1.1, at_most=True),
        )
    )
    return results


def _submit(made: Service, n: int, runs: int) -> tuple[list[float], list[float], list[dict[str, float]]]:
    token = (made.folder / "owner.token").read_text().strip()
    endpoint = made.cluster.client().endpoint
    cpu: list[dict[str, float]] = []
    rows: dict[str, bytes] = {}
    with hp.BatchBackend("bench", endpoint=endpoint, token=token) as backend:
        pipeline = hp.Pipeline(name="bench", backend=backend)
        for i in range(n):
            pipeline.new_task(name=f"task-{i}").command(f"echo {i} of a pipeline that is measured")

        def ours() -> float:
            before, began = made.cpu(), time.perf_counter()
            with redirect_stderr(StringIO()):  # It tells the user what to look at.
                batch = pipeline.run(wait=False, disable_progress_bar=True)
            took = time.perf_counter() - began
            cpu.append(per_job(before, made.cpu(), n))
            assert batch is not None and batch.status().n_jobs == n
            batch.cancel()
            batch.wait(check=False)  # Lest the next one runs while a database is busy with this.
            return n / took

        ours()  # Its rows are what is copied.
        cpu.clear()
        with psycopg.connect(made.url, autocommit=True) as connection:
            for table in _TABLES:
                newest = f"SELECT * FROM {table} WHERE batch_id = (SELECT max(batch_id) FROM {table})"
                with connection.cursor().copy(f"COPY ({newest}) TO STDOUT") as copy:
                    rows[table] = b"".join(bytes(piece) for piece in copy)

            def base() -> float:
                for table in _TABLES:
                    connection.execute(f"CREATE TABLE raw_{table} (LIKE {table} INCLUDING ALL)")
                began = time.perf_counter()
                for table, data in rows.items():
                    with connection.cursor().copy(f"COPY raw_{table} FROM STDIN") as copy:
                        for at in range(0, len(data), 1 << 18):
                            copy.write(data[at : at + (1 << 18)])
                took = time.perf_counter() - began
                for table in _TABLES:
                    connection.execute(f"DROP TABLE raw_{table}")
                return n / took

            found, bases = in_turns(runs, ours, base)
    return found, bases, cpu
