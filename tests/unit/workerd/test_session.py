"""The daemon in this process, with the fake runtime, against a controller over real gRPC."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from fake_controller import FakeController, assignment
from longshore_api.v1 import types_pb2 as types
from longshore_workerd.containers import Surroundings
from longshore_workerd.daemon import Daemon
from longshore_workerd.fake_runtime import FakeRuntime
from longshore_workerd.identity import Identity, Memory
from longshore_workerd.logs import Logs
from longshore_workerd.machine import boot_id, clock_ms
from longshore_workerd.runtime import ContainerId
from longshore_workerd.session import ActivationRefused, Introduction, Session, activate, is_local
from longshore_workerd.spool import Spool

ME = Introduction("host", boot_id(), "incarnation", "1", 16_000, "fake")


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    controller = FakeController()
    await controller.start()
    yield controller
    await controller.stop()


@asynccontextmanager
async def worker(
    controller: FakeController, folder: Path, *, stop_jobs: bool = False
) -> AsyncIterator[Daemon]:
    """A whole workerd but for its process."""
    folder.mkdir(exist_ok=True)
    memory = Memory(folder)
    spool = Spool(folder)
    rng = Random(1)
    daemon = Daemon(
        runtime=FakeRuntime(folder),
        spool=spool,
        logs=Logs(folder / "attempts"),
        memory=memory,
        surroundings=Surroundings(Path("/"), "0:0", isolated=False),
        boot_id=ME.boot_id,
        clock_ms=clock_ms,
        rng=rng,
    )
    identity = await activate(controller.address, ME, memory, lambda: "once", rng)
    session = Session(controller.address, identity, ME, memory, daemon, clock_ms, rng)
    stopping = asyncio.Event()
    running = asyncio.create_task(daemon.run(session, stopping, stop_jobs=stop_jobs))
    try:
        connections = len(controller.hellos)
        await controller.until(lambda: len(controller.hellos) > connections)
        yield daemon
    finally:
        stopping.set()
        await running
        spool.close()


async def eventually(fact: Callable[[], object]) -> None:
    """For what the controller is not told."""
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.01)


async def test_a_job_runs_and_its_end_is_reported_and_forgotten(
    controller: FakeController, tmp_path: Path
) -> None:
    async with worker(controller, tmp_path) as daemon:
        await controller.assign(assignment("a", FAKE_EXIT_CODE=3, FAKE_RUN_MS=100))
        await controller.until(lambda: controller.ends)
        assert "a" in controller.started
        end = controller.ends["a"]
        assert end.reason == types.END_REASON_COMPLETED
        assert end.containers[0].exit_code == 3
        assert 80 <= end.main_ms < 2_000
        await controller.until(lambda: controller.heartbeats and not daemon.spooled())
        assert not daemon.held()


async def test_hello_says_who_it_is_and_what_it_holds(controller: FakeController, tmp_path: Path) -> None:
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
    async with worker(controller, tmp_path):
        first, second = controller.hellos
        assert (first.boot_id, first.capacity_mcpu, first.runtime, first.name) == (
            ME.boot_id,
            16_000,
            "fake",
            "host",
        )
        assert (first.seen_epoch, second.seen_epoch) == (0, 1)
        assert [h.attempt_id for h in second.held] == ["a"]
        assert second.held[0].state == types.ATTEMPT_STATE_STARTED


async def test_an_unacknowledged_end_is_told_again_after_a_restart(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.acks = False
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a"))
        await controller.until(lambda: controller.ends)
    controller.ends.clear()
    controller.acks = True
    async with worker(controller, tmp_path) as daemon:
        assert list(controller.hellos[-1].spooled) == ["a"]
        await controller.until(lambda: "a" in controller.ends and not daemon.spooled())


async def test_an_end_is_repeated_until_it_is_acknowledged(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.acks = False
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a"))
        await controller.until(lambda: len(controller.reports_in_a_message) >= 3)
    assert controller.end_count["a"] == 1


async def test_a_broken_connection_is_made_again_and_nothing_is_lost(
    controller: FakeController, tmp_path: Path
) -> None:
    async with worker(controller, tmp_path) as daemon:
        await controller.assign(assignment("a", FAKE_RUN_MS=300), assignment("b", FAKE_RUN_MS=60_000))
        await controller.until(lambda: len(controller.started) == 2)
        await controller.stop()
        await eventually(daemon.spooled)
        await controller.start()
        await controller.until(lambda: "a" in controller.ends)
        assert controller.ends["a"].reason == types.END_REASON_COMPLETED
        assert "b" not in controller.ends


async def test_a_revoked_job_is_stopped(controller: FakeController, tmp_path: Path) -> None:
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
        await controller.revoke("a")
        await controller.until(lambda: controller.ends)
        assert controller.ends["a"].reason == types.END_REASON_REVOKED


async def test_a_lost_order_heals_with_the_next_heartbeat(controller: FakeController, tmp_path: Path) -> None:
    async with worker(controller, tmp_path):
        controller.wanted["a"] = assignment("a")  # and nobody is told
        await controller.until(lambda: "a" in controller.ends)


async def test_a_lease_that_runs_out_stops_the_jobs(controller: FakeController, tmp_path: Path) -> None:
    controller.lease_ms = 1_000
    controller.heartbeat_ms = 300
    async with worker(controller, tmp_path) as daemon:
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
        await controller.stop()
        await eventually(lambda: not daemon.held())
        await controller.start()
        await controller.until(lambda: controller.ends)
    end = controller.ends["a"]
    assert (end.reason, end.message) == (types.END_REASON_LOST, "the worker's lease ran out")
    assert end.main_ms <= 2_000


async def test_a_controller_that_answers_nothing_does_not_keep_the_lease(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.lease_ms, controller.heartbeat_ms = 1_000, 400
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
        controller.answers_heartbeats = False
        await controller.until(lambda: controller.ends)
    assert controller.ends["a"].reason == types.END_REASON_LOST


async def test_the_lease_goes_on_over_a_restart(controller: FakeController, tmp_path: Path) -> None:
    controller.lease_ms, controller.heartbeat_ms = 600, 200
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
    until = Memory(tmp_path).lease_until_ms(ME.boot_id)
    await eventually(lambda: clock_ms() >= until)
    controller.lease_ms = 30_000
    async with worker(controller, tmp_path):
        await controller.until(lambda: controller.ends)
    assert controller.ends["a"].message == "the worker's lease ran out"


async def test_a_controller_of_a_past_epoch_is_not_obeyed(controller: FakeController, tmp_path: Path) -> None:
    controller.epoch = 7
    async with worker(controller, tmp_path):
        await controller.until(lambda: controller.heartbeats)
    assert Memory(tmp_path).epoch() == 7
    heard = len(controller.heartbeats)
    controller.epoch = 6
    async with worker(controller, tmp_path) as daemon:
        controller.wanted["a"] = assignment("a")
        await controller.until(lambda: len(controller.hellos) >= 4)
        assert not daemon.held() and len(controller.heartbeats) == heard
        controller.epoch = 8
        await controller.until(lambda: "a" in controller.ends)
    assert Memory(tmp_path).epoch() == 8


async def test_a_full_disk_delays_the_conversation_and_ends_nothing(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(controller, tmp_path) as daemon:
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
        remember = Memory.remember_epoch
        refused: list[int] = []

        def full(self: Memory, epoch: int) -> None:
            refused.append(epoch)
            if len(refused) < 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            remember(self, epoch)

        monkeypatch.setattr(Memory, "remember_epoch", full)
        await controller.stop()
        controller.epoch = 2
        heard = len(controller.heartbeats)
        await controller.start()
        await controller.until(lambda: len(controller.heartbeats) > heard)
        assert refused == [2, 2, 2]
        assert [held.attempt_id for held in daemon.held()] == ["a"]
        assert not controller.ends


@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy", "https_proxy"])
async def test_a_local_controller_is_reached_past_any_proxy(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with asyncio.timeout(20), worker(controller, tmp_path):
        assert controller.hellos


async def test_many_reports_travel_in_few_messages(controller: FakeController, tmp_path: Path) -> None:
    async with worker(controller, tmp_path) as daemon:
        await controller.assign(*(assignment(f"a{i}") for i in range(1_000)))
        await controller.until(lambda: len(controller.ends) == 1_000 and not daemon.spooled())
    assert max(controller.reports_in_a_message) <= 256
    assert len(controller.reports_in_a_message) < 50
    assert set(controller.end_count.values()) == {1}


async def test_a_spec_that_makes_no_sense_is_refused(controller: FakeController, tmp_path: Path) -> None:
    broken = assignment("a")
    broken.spec = b"\xff\xff\xff"
    async with worker(controller, tmp_path):
        await controller.assign(broken)
        await controller.until(lambda: controller.ends)
    assert controller.ends["a"].reason == types.END_REASON_REFUSED
    assert "cannot be read" in controller.ends["a"].message


async def test_input_that_fails_says_which_file_it_was(controller: FakeController, tmp_path: Path) -> None:
    copy = types.FileCopy(source="/data/missing.txt", destination="/io/x")
    job = assignment("a")
    job.spec = types.JobSpec(command=["true"], input_files=[copy]).SerializeToString()
    async with worker(controller, tmp_path):
        await controller.assign(job)
        await controller.until(lambda: controller.ends)
    end = controller.ends["a"]
    assert (end.reason, end.message) == (types.END_REASON_ERROR, "there is no /data/missing.txt")
    assert end.containers[0].error_kind == types.ERROR_KIND_FILES


async def test_an_id_that_leads_out_of_the_folder_is_ignored(
    controller: FakeController, tmp_path: Path
) -> None:
    async with worker(controller, tmp_path / "state"):
        await controller.assign(assignment("../../evil", FAKE_STDOUT="x"), assignment("a"))
        await controller.until(lambda: "a" in controller.ends)
    assert list(controller.ends) == ["a"]


async def test_a_log_arrives_whole_in_pieces_and_its_folder_goes(
    controller: FakeController, tmp_path: Path
) -> None:
    text = "".join(f"{number:07}\n" for number in range(200_000))  # 1.6 MB
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_STDOUT=text))
        await controller.until(lambda: controller.log_ends)
        assert controller.logs["a", types.CONTAINER_MAIN] == text.encode()
        assert controller.ends["a"].containers[0].log_bytes == len(text)
        await controller.until(lambda: not list((tmp_path / "attempts").iterdir()))


async def test_a_log_that_cannot_be_pushed_does_not_delay_the_report(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.takes_logs = False
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_STDOUT="patience"))
        await controller.until(lambda: "a" in controller.ends)
        assert not controller.logs
        controller.takes_logs = True
        await controller.until(lambda: controller.log_ends)
    assert controller.logs["a", types.CONTAINER_MAIN] == b"patience"


async def test_a_log_that_was_not_delivered_is_delivered_after_a_restart(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.takes_logs = False
    async with worker(controller, tmp_path):
        await controller.assign(assignment("a", FAKE_STDOUT="late"))
        await controller.until(lambda: "a" in controller.ends)
    controller.takes_logs = True
    async with worker(controller, tmp_path):
        await controller.until(lambda: controller.log_ends)
    assert controller.logs["a", types.CONTAINER_MAIN] == b"late"


async def test_a_log_that_is_refused_does_not_hold_up_the_others(
    controller: FakeController, tmp_path: Path
) -> None:
    controller.refused_logs = {"a1"}
    async with worker(controller, tmp_path):
        await controller.assign(*(assignment(f"a{i}", FAKE_STDOUT="said") for i in range(4)))
        await controller.until(lambda: len(controller.log_ends) == 3)
    assert {attempt for attempt, _ in controller.log_ends} == {"a0", "a2", "a3"}


async def test_a_followed_log_is_pushed_while_its_container_runs(
    controller: FakeController, tmp_path: Path
) -> None:
    async with worker(controller, tmp_path):
        await controller.assign(
            assignment("a", FAKE_STDOUT="alive", FAKE_RUN_MS=60_000),
            assignment("b", FAKE_STDOUT="unwatched", FAKE_RUN_MS=60_000),
        )
        await controller.until(lambda: len(controller.started) == 2)
        await controller.follow_logs("a")
        await controller.until(lambda: controller.logs)
        assert controller.logs == {("a", types.CONTAINER_MAIN): b"alive"}
        assert not controller.log_ends


async def test_a_shutdown_that_stops_jobs_tells_the_controller(
    controller: FakeController, tmp_path: Path
) -> None:
    async with worker(controller, tmp_path, stop_jobs=True):
        await controller.assign(assignment("a", FAKE_RUN_MS=60_000))
        await controller.until(lambda: "a" in controller.started)
    assert controller.ends["a"].reason == types.END_REASON_PREEMPTED


async def test_a_shutdown_that_stops_jobs_leaves_none_of_their_containers(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, removed, remove = asyncio.Event(), asyncio.Event(), FakeRuntime.remove

    async def slowly(runtime: FakeRuntime, id: ContainerId) -> None:
        removing.set()
        await asyncio.sleep(0.3)  # As an engine does.
        await remove(runtime, id)
        removed.set()

    monkeypatch.setattr(FakeRuntime, "remove", slowly)
    async with worker(controller, tmp_path, stop_jobs=True):
        await controller.assign(assignment("a"))
        await removing.wait()
    assert removed.is_set()
    assert not Logs(tmp_path / "attempts").io_folder("a").exists()


async def test_an_activation_token_that_was_used_is_refused_for_good(
    controller: FakeController, tmp_path: Path
) -> None:
    memory = Memory(tmp_path)
    with pytest.raises(ActivationRefused, match="used before"):
        await activate(controller.address, ME, memory, lambda: "stale", Random(1))
    assert memory.identity() is None


async def test_an_activated_worker_needs_no_token_and_no_controller(tmp_path: Path) -> None:
    Memory(tmp_path).remember_identity(Identity("w1", "secret"))
    identity = await activate("127.0.0.1:1", ME, Memory(tmp_path), lambda: "", Random(1))
    assert identity == Identity("w1", "secret")
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("controller", "local"),
    [
        ("127.0.0.1:7070", True),
        ("localhost:1", True),
        ("[::1]:7070", True),
        ("unix:/run/longshore", True),
        ("10.0.0.1:7070", False),
        ("127.example.org:7070", False),
        ("localhost.example.org:7070", False),
    ],
)
def test_only_this_machine_is_spoken_to_in_the_clear(controller: str, local: bool) -> None:
    assert is_local(controller) is local
