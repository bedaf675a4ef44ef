"""`longshore admin`, `longshore workers` and `longshore why`: what they print, say and return."""

from __future__ import annotations

from command_line import Run
from fakes_service import FakeService
from longshore import Client
from longshore_api.v1 import batch_service_pb2 as batch_pb


def test_freezing_and_thawing_say_so_and_show_what_runs(run: Run, service: FakeService) -> None:
    service.fleet.leaves_in = 1
    ran = run("admin", "freeze", "--reason", "a new network")
    assert ran.code == 0 and "the service is frozen; thaw it: longshore admin thaw" in ran.err
    assert any(line.split() == ["reason", "a", "new", "network"] for line in ran.lines)
    shown = run("admin", "status", "-o", "json").document["service"]
    assert (shown["frozen"]["reason"], shown["n_workers"]) == ("a new network", 2)
    ran = run("admin", "thaw")
    assert ran.code == 0 and ran.lines[0].split() == ["frozen", "no"]
    assert service.fleet.frozen is None


def test_workers_are_listed_with_what_keeps_them(run: Run, service: FakeService) -> None:
    assert run("workers", "drain", "bee", "--reason", "a new disk").code == 0
    title, ant, bee = run("workers", "ls").lines
    assert title.split()[:4] == ["ID", "NAME", "STATE", "USED"]
    assert ant.split()[:4] == ["w-1", "ant", "active", "0/4"]
    assert bee.split()[:3] == ["w-2", "bee", "draining"] and bee.endswith("a new disk")
    assert run("workers", "ls", "-o", "id").lines == ["w-1", "w-2"]
    worker = run("workers", "undrain", "w-2", "-o", "json").document["worker"]
    assert (worker["state"], worker["draining"]) == ("active", None)


def test_waiting_for_a_drained_worker_tells_what_is_left(run: Run, service: FakeService) -> None:
    service.fleet.leaves_in = 2
    ran = run("workers", "drain", "ant", "--wait")
    assert ran.code == 0
    assert "1 still running" in ran.err and "nothing runs there any more" in ran.err
    assert any(line.split() == ["running", "0"] for line in ran.lines)


def test_a_worker_shows_what_runs_there(run: Run, service: FakeService) -> None:
    service.fleet.leaves_in = 1
    assert "7/3 of lin on w-1, 1 core, assigned" in run("workers", "show", "ant").out.decode()


def test_a_worker_that_is_none_or_several(run: Run, service: FakeService) -> None:
    ran = run("workers", "show", "cat")
    assert (ran.code, ran.out) == (3, b"") and "there is no worker 'cat'" in ran.err
    service.fleet.workers["w-2"].name = "ant"
    ran = run("workers", "drain", "ant")
    assert ran.code == 2 and "2 workers are called 'ant'" in ran.err


def test_why_says_what_keeps_a_batch_and_what_to_do(run: Run, service: FakeService, client: Client) -> None:
    builder = client.create_batch(name="align")
    builder.create_job(None, ["true"])
    builder.submit()
    service.reasons.append(batch_pb.Reason(code="RUNNING", text="3 jobs are running", since_ms=0))
    assert run("why", "last").lines == [
        "there is no worker",
        "  → start one",
        "3 jobs are running, since 1970-01-01T00:00:00.000Z",
    ]
    (first, _) = run("why", "1", "-o", "json").document["reasons"]
    assert first == {
        "code": "NO_WORKER",
        "text": "there is no worker",
        "fix": "start one",
        "since": None,
        "jobs": [3],
    }
    assert run("why", "1/1").lines[0] == "there is no worker"
    assert run("why", "1/9").code == 3
