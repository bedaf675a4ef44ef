"""There is no room: for what jobs write, and for their logs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from faults.cluster import Cluster, running, until
from faults.history import History
from longshore import Log

MIB = 1 << 20


def writing(mib: int, name: str) -> list[str]:
    return ["bash", "-c", f"head -c {mib * MIB} /dev/zero >/io/{name}"]


@pytest.mark.parametrize("runtime", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_in_a_full_store_there_is_nothing_half_written_and_the_job_says_why(
    tmp_path: Path, small_disk: Callable[[str, str], Path], runtime: str
) -> None:
    store = small_disk("store", "8m")
    with running(Cluster(tmp_path, store=store)) as cluster, cluster.client() as client:
        cluster.worker("w1", runtime=runtime).start()
        builder = client.create_batch()
        large = builder.create_job(None, writing(20, "large"), output_files=[("/io/large", f"{store}/large")])
        three = "cd /io; mkdir d; for i in 1 2 3; do head -c 3145728 /dev/zero >d/$i; done"
        many = builder.create_job(
            None,
            ["bash", "-c", three],
            output_files=[("/io/d", f"{store}/d")],
            parents=[large],
            always_run=True,
        )
        silent = builder.create_job(None, ["true"], parents=[many], always_run=True)
        batch = builder.submit()
        assert batch.wait(timeout=120).complete
        for job in (large, many):
            status = job.status()
            assert (status.state, status.exit_code) == ("Error", 1)
            assert f"no space left in the store folder {store}" in status.reason
        assert silent.status().state == "Success"
        written = [path for path in store.rglob("*") if path.is_file()]
        assert not (store / "large").exists()
        assert written and all(path.parent == store / "d" for path in written), written
        assert {path.stat().st_size for path in written} == {3 * MIB}, "what has its name is whole"
        for path in written:
            path.unlink()
        again = client.create_batch()
        small = again.create_job(None, writing(4, "small"), output_files=[("/io/small", f"{store}/small")])
        again.submit()
        assert small.wait(timeout=60).state == "Success", "with room again it goes on"
        assert (store / "small").stat().st_size == 4 * MIB
        cluster.controller.end()
        History(cluster).check()


def test_without_room_for_logs_jobs_succeed_and_logs_say_what_is_missing(
    tmp_path: Path, small_disk: Callable[[str, str], Path]
) -> None:
    logs = small_disk("logs", "64k")
    text = "".join(f"line {i}\n" for i in range(10_000))
    with running(Cluster(tmp_path, logs=logs)) as cluster, cluster.client() as client:
        cluster.worker("w1").start()
        builder = client.create_batch()
        for _ in range(2):
            builder.create_job(None, ["x"], env={"FAKE_STDOUT": text})
        batch = builder.submit()
        assert batch.wait(timeout=60).state == "success"
        log = batch.job(2).log()
        *chunks, last = log.chunks()
        assert last.end and last.incomplete
        assert text.encode().startswith(b"".join(chunk.data for chunk in chunks))
        assert batch.job(2).status().containers["main"].log_bytes == len(text)
        subprocess.run(["mount", "-o", "remount,size=8m", logs], check=True)
        for job in batch.jobs():
            until(partial(is_whole, job.log(), text), or_else=cluster.said)


def is_whole(log: Log, text: str) -> bool:
    """The worker has kept it, and has pushed it again."""
    *chunks, last = log.chunks()
    return not last.incomplete and b"".join(chunk.data for chunk in chunks) == text.encode()
