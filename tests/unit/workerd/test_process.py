"""The real program, killed at random moments: no attempt is lost, none ends twice, none is overpaid."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from fake_controller import FakeController, assignment
from longshore_api.v1 import types_pb2 as types
from longshore_workerd.machine import clock_ms

BUSY_MS = 1_000
"""How late an end may be noticed on a machine that is busy with other tests."""


class Worker:
    """A workerd process and its state folder."""

    def __init__(self, controller: FakeController, folder: Path) -> None:
        self.controller = controller
        self.folder = folder
        self.process: Process | None = None

    async def start(
        self, *flags: str, connect: bool = True, stderr: int = asyncio.subprocess.DEVNULL
    ) -> None:
        connections = len(self.controller.hellos)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "longshore_workerd", "--controller", self.controller.address),
            *("--state-dir", str(self.folder), "--activation-token", "once", "--runtime", "fake"),
            *("--cores", "16", *flags),
            stderr=stderr,
        )
        if connect:
            await self.controller.until(lambda: len(self.controller.hellos) > connections)

    async def refused(self, *flags: str) -> tuple[int, str]:
        """Starts it and sees it end: its exit code and what it said."""
        await self.start(*flags, connect=False, stderr=asyncio.subprocess.PIPE)
        assert self.process is not None
        _, words = await asyncio.wait_for(self.process.communicate(), 20)
        return self.process.returncode or 0, words.decode()

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return await self.process.wait()


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    controller = FakeController()
    await controller.start()
    worker = Worker(controller, tmp_path / "state")
    yield worker
    if worker.process is not None and worker.process.returncode is None:
        await worker.kill()
    await controller.stop()


async def test_killed_at_ten_random_moments_it_finishes_every_job_once(worker: Worker) -> None:
    rng = Random(4)
    controller = worker.controller
    jobs = [f"j{number}" for number in range(60)]
    await worker.start()
    began_at = clock_ms()
    run_ms = {job: rng.choice([0, 50, 300, 1_500]) for job in jobs}
    fatal = set(rng.sample(jobs, 10))
    for job in jobs:
        await controller.assign(
            assignment(job, FAKE_RUN_MS=run_ms[job], FAKE_EXIT_CODE=rng.choice([0, 3]), FAKE_STDOUT=job)
        )
        if job in fatal:
            await asyncio.sleep(rng.uniform(0, 0.3))  # the moment
            await worker.kill()
            await worker.start(connect=False)
    await controller.until(lambda: len(controller.ends) == len(jobs))
    passed_ms = clock_ms() - began_at
    assert set(controller.end_count.values()) == {1}
    for job, end in controller.ends.items():
        if end.reason == types.END_REASON_LOST:  # killed between the order to start it and the start
            assert end.message == "its main container has vanished" and end.main_ms == 0
            continue
        assert end.reason == types.END_REASON_COMPLETED
        assert end.main_ms <= run_ms[job] + BUSY_MS, f"{job} ran {run_ms[job]} ms of {passed_ms} ms"
    reasons = [end.reason for end in controller.ends.values()]
    assert reasons.count(types.END_REASON_LOST) <= len(jobs) // 4
    await controller.until(
        lambda: (
            {a for a, _ in controller.log_ends}
            >= {job for job, end in controller.ends.items() if end.containers[-1].log_bytes}
        )
    )
    assert all(log == attempt.encode() for (attempt, _), log in controller.logs.items())


async def test_what_ended_while_it_was_dead_is_billed_for_what_it_ran(worker: Worker) -> None:
    controller = worker.controller
    await worker.start()
    began_at = clock_ms()
    await controller.assign(assignment("short", FAKE_RUN_MS=400), assignment("long", FAKE_RUN_MS=60_000))
    await controller.until(lambda: len(controller.started) == 2)
    await worker.kill()
    await asyncio.sleep(1.0)  # "short" ends meanwhile
    await worker.start()
    await controller.until(lambda: "short" in controller.ends)
    end = controller.ends["short"]
    assert end.reason == types.END_REASON_COMPLETED
    assert end.main_ms == 400
    [long] = [held for held in controller.hellos[-1].held if held.attempt_id == "long"]
    assert 1_000 <= long.main_ms <= clock_ms() - began_at


async def test_sigterm_leaves_the_jobs_running_and_the_next_start_adopts_them(worker: Worker) -> None:
    controller = worker.controller
    await worker.start()
    await controller.assign(assignment("a", FAKE_RUN_MS=1_500))
    await controller.until(lambda: controller.started)
    assert await worker.terminate() == 0
    assert not controller.ends
    await worker.start()
    assert [held.attempt_id for held in controller.hellos[-1].held] == ["a"]
    await controller.until(lambda: controller.ends)
    assert controller.ends["a"].reason == types.END_REASON_COMPLETED
    assert 1_400 <= controller.ends["a"].main_ms < 1_500 + BUSY_MS


async def test_sigterm_with_stop_jobs_on_exit_hands_the_jobs_back(worker: Worker) -> None:
    controller = worker.controller
    await worker.start("--stop-jobs-on-exit")
    await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
    await controller.until(lambda: controller.started)
    assert await worker.terminate() == 0
    assert controller.ends["a"].reason == types.END_REASON_PREEMPTED


async def test_a_second_workerd_cannot_have_the_same_state_folder(worker: Worker) -> None:
    await worker.start()
    second = Worker(worker.controller, worker.folder)
    await second.start(connect=False)
    assert second.process is not None
    assert await second.process.wait() == 2


async def test_a_refused_activation_token_ends_it(worker: Worker) -> None:
    worker.controller.tokens.clear()
    await worker.start(connect=False)
    assert worker.process is not None
    assert await worker.process.wait() == 1


async def test_a_folder_with_attempts_of_another_runtime_is_refused(worker: Worker) -> None:
    controller = worker.controller
    await worker.start()
    await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
    await controller.until(lambda: controller.started)
    await worker.terminate()
    code, words = await worker.refused("--runtime", "process")
    assert code == 2
    assert "--runtime fake" in words and str(worker.folder) in words
    await worker.start()
    await controller.revoke("a")
    await controller.until(lambda: "a" in controller.ends)
    await controller.until(lambda: controller.heartbeats and not controller.heartbeats[-1].spooled)
    await worker.terminate()
    await worker.start("--runtime", "process")
    assert controller.hellos[-1].runtime == "process"


async def test_an_idle_worker_of_another_service_is_activated_anew(worker: Worker) -> None:
    controller = worker.controller
    controller.epoch = 9
    await worker.start()
    await worker.terminate()
    controller.become_another_service()
    controller.epoch = 1
    await worker.start()
    await controller.assign(assignment("a"))
    await controller.until(lambda: "a" in controller.ends)


async def test_a_worker_of_another_service_without_a_token_says_whose_folder_it_is(worker: Worker) -> None:
    await worker.start()
    await worker.terminate()
    worker.controller.become_another_service()
    worker.controller.tokens = set()
    code, words = await worker.refused()
    assert code == 1
    assert f"{worker.folder} belongs to another service" in words and "activation token" in words


async def test_a_worker_that_holds_attempts_of_another_service_ends(worker: Worker) -> None:
    controller = worker.controller
    await worker.start()
    await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
    await controller.until(lambda: controller.started)
    await worker.terminate()
    controller.become_another_service()
    code, words = await worker.refused()
    assert code == 1
    assert "belongs to another service, and holds 1 attempts" in words and str(worker.folder) in words
    assert controller.tokens == {"once"}
