"""The client against a service that behaves, on a network that does not."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import longshore as hp
import longshore.calls
import pytest
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore.calls import backoff
from longshore.discovery import ServiceAddress, write_service_file


def echo(client: Client, *words: str) -> hp.Batch:
    """A batch with a job for each word."""
    builder = client.create_batch(name="echo")
    for word in words:
        builder.create_job(None, ["echo", word], name=word)
    return builder.submit()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as a client does, a hundred times faster."""
    slow = longshore.calls.backoff
    monkeypatch.setattr(longshore.calls, "backoff", lambda attempt, rng: slow(attempt, rng) / 100)


# The ordinary way.


def test_a_batch_runs_and_its_handles_tell_everything(client: Client) -> None:
    builder = client.create_batch({"who": "me"}, name="first")
    hello = builder.create_job(
        "an-image", ["echo", "hello"], name="say", env={"A": "b"}, attributes={"x": "y"}
    )
    builder.create_job(None, ["sh", "-c", "exit 3"], parents=[hello], resources={"cpu": "500m", "memory": 1})
    batch = builder.submit()
    status = batch.wait(timeout=30)
    assert (status.state, status.complete, status.n_succeeded, status.n_failed) == ("failure", True, 1, 1)
    assert (status.name, status.attributes, status.billing_project) == (
        "first",
        {"who": "me", "name": "first"},
        "test",
    )
    job = batch.job(1).status()
    assert (job.state, job.exit_code, job.name, job["spec"]["image"]) == ("Success", 0, "say", "an-image")
    assert job.spec is not None and job.spec.command == ("echo", "hello") and job.spec.env == {"A": "b"}
    assert job.containers["main"].state == "Success"
    assert str(batch.job(1).why()) == "there is no worker\nstart one"
    assert [reason.jobs for reason in batch.why()] == [(3,)]
    assert batch.job(1).attributes() == {"x": "y"}
    failed = batch.job(2).wait()
    assert (failed.state, failed.exit_code) == ("Failure", 3)
    assert failed.spec is not None
    assert (failed.spec.parents, failed.spec.cpu_mcpu, failed.spec.memory_bytes) == ((1,), 500, 10**9)
    assert batch.job(1).log().text() == "hello\n"
    assert len(batch.job(1).attempts()) == 1


def test_a_status_is_a_read_only_mapping_that_json_can_take(client: Client) -> None:
    batch = echo(client, "a")
    status = batch.wait(timeout=30)
    assert status["n_jobs"] == status.n_jobs == dict(status)["n_jobs"] == 1
    assert {"cost", "name", "id", "msec_mcpu", "created_at"} <= status.keys()
    with pytest.raises(AttributeError):
        status.n_jobs = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        status.attributes["a"] = "b"  # type: ignore[index]
    with pytest.raises(KeyError):
        _ = status["as_dict"]
    assert json.loads(json.dumps(status.as_dict()))["created_at"] == "2023-11-14T22:13:20Z"
    assert json.loads(json.dumps(batch.job(1).status().as_dict()))["spec"]["command"] == ["echo", "a"]


def test_an_empty_batch_is_a_success(client: Client) -> None:
    assert echo(client).wait(timeout=30).state == "success"


def test_lists_are_read_page_by_page(idle_client: Client) -> None:
    """The service gives three at a time."""
    batches = [echo(idle_client, *"abcdefgh") for _ in range(7)]
    assert [batch.id for batch in idle_client.list_batches()] == [batch.id for batch in reversed(batches)]
    assert [batch.id for batch in idle_client.list_batches(limit=5)] == [7, 6, 5, 4, 3]
    jobs = list(batches[0].jobs())
    assert [job.id for job in jobs] == list(range(1, 9))
    assert [job.last_status.name for job in jobs if job.last_status] == list("abcdefgh")


def test_no_more_batches_are_read_than_are_wanted(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = client._calls.page_of_batches

    async def page(before: int | None, size: int, query: str | None) -> Any:
        sizes.append(size)
        return await real(before, size, query)

    monkeypatch.setattr(client._calls, "page_of_batches", page)
    echo(client, "a")
    assert len(list(client.list_batches(limit=5))) == 1
    assert list(client.list_batches(limit=0)) == []
    assert sizes == [5]


def test_jobs_can_be_listed_by_state(idle_service: FakeService, idle_client: Client) -> None:
    batch = echo(idle_client, *"abcd")
    idle_service.finish(batch.id, 2, exit_code=1)
    idle_service.finish(batch.id, 3)
    assert [job.id for job in batch.jobs(states="Failure")] == [2]
    assert [job.id for job in batch.jobs(states=["Failure", "Success"])] == [2, 3]
    with pytest.raises(hp.UsageError, match="'Sucess' is not one of Pending, Ready"):
        list(batch.jobs(states=["Sucess"]))


def test_lists_can_be_searched_by_the_services_own_query(
    idle_service: FakeService, idle_client: Client
) -> None:
    for name in ("joint calling", "align", "align again"):
        builder = idle_client.create_batch(name=name)
        for i in range(8):
            builder.create_job(None, ["true"], name=f"{name}-{i}")
        builder.submit()
    idle_service.finish(2, 3, exit_code=1)
    assert [batch.id for batch in idle_client.list_batches(query="align")] == [3, 2]
    assert [batch.id for batch in idle_client.list_batches(1, "align")] == [3]
    assert [status.id for status in idle_client.page_of_batches(query="-align").rows] == [1]
    batch = idle_client.get_batch(2)
    assert [job.id for job in batch.jobs("-state:failure")] == [1, 2, 4, 5, 6, 7, 8]
    assert [job.id for job in batch.jobs("align-2")] == [3]
    assert [job.id for job in batch.jobs("align", states=["Failure"])] == [3]
    assert [job.job_id for job in idle_client.page_of_jobs(2, after=5, size=2, query="align").rows] == [6, 7]
    with pytest.raises(hp.UsageError, match="query: at 7: no field 'stat'"):
        list(batch.jobs("align stat:failure"))
    with pytest.raises(hp.WrongType, match="query must be a str"):
        list(batch.jobs(["Failure"]))  # type: ignore[arg-type]


def test_waiting_for_one_job_does_not_wait_for_the_others(
    idle_service: FakeService, idle_client: Client
) -> None:
    batch = echo(idle_client, "a", "b")
    for status in batch.watch(timeout=30):
        if status.n_completed == 0:
            idle_service.finish(batch.id, 2)
        else:
            break
    assert batch.job(2).wait(timeout=30).state == "Success"
    assert not batch.status().complete


def test_the_time_given_to_a_wait_ends_it(idle_client: Client) -> None:
    batch = echo(idle_client, "a")
    with pytest.raises(hp.WaitTimeout) as error:
        batch.wait(timeout=0.05)
    assert isinstance(error.value, TimeoutError)
    with pytest.raises(hp.WaitTimeout):
        batch.job(1).wait(timeout=0.05)


def test_cancel_and_delete_may_be_repeated(idle_client: Client) -> None:
    batch = echo(idle_client, "a")
    batch.cancel("changed my mind")
    batch.cancel("again")
    status = batch.wait(timeout=30)
    assert (status.state, status.cancel_reason, status.n_cancelled) == ("cancelled", "changed my mind", 1)
    batch.delete()
    batch.delete()
    with pytest.raises(hp.NotFound):
        batch.status()
    assert list(idle_client.list_batches()) == []


# Logs.


def test_a_log_is_read_by_range_tail_and_lines(idle_service: FakeService, idle_client: Client) -> None:
    batch = echo(idle_client, "a")
    whole = b"\xff" + b"".join(b"line %d\n" % n for n in range(100))
    idle_service.finish(batch.id, 1, log=whole)
    log = batch.job(1).log("main", attempt=1)
    assert log.read() == whole
    assert log.read(5, 20) == whole[5:25]
    assert log.read(5, 0) == b""
    assert b"".join(chunk.data for chunk in log.chunks(tail_bytes=30)) == whole[-30:]
    assert log.tail(2) == "line 98\nline 99"
    assert str(log).startswith("\ufffdline 0\n")
    assert batch.job(1).log("output").read() == b""


def test_a_followed_log_comes_when_it_is_written(idle_service: FakeService, idle_client: Client) -> None:
    batch = echo(idle_client, "a")
    read: list[bytes] = []
    reader = threading.Thread(
        target=lambda: read.extend(c.data for c in batch.job(1).log().chunks(follow=True))
    )
    reader.start()
    idle_service.finish(batch.id, 1, log=b"at last, after a while")
    reader.join(30)
    assert b"".join(read) == b"at last, after a while"


def test_a_log_that_breaks_off_goes_on_where_it_was(idle_service: FakeService, idle_client: Client) -> None:
    batch = echo(idle_client, "a")
    whole = bytes(range(256)) * 4
    idle_service.finish(batch.id, 1, log=whole)
    idle_service.faults.cut_every = 4
    log = batch.job(1).log()
    assert log.read() == whole
    assert log.read(100, 500) == whole[100:600]
    assert b"".join(chunk.data for chunk in log.chunks(tail_bytes=200)) == whole[-200:]


def test_containers_and_attempts_that_are_none_are_refused(client: Client) -> None:
    batch = echo(client, "a")
    batch.wait(timeout=30)
    with pytest.raises(hp.UsageError, match="'stdout' is not one of input, main, output"):
        batch.job(1).log("stdout").read()
    with pytest.raises(hp.NotFound, match="no attempt 7"):
        batch.job(1).log(attempt=7).read()


# A bad network.


@pytest.mark.parametrize(
    "faults", [{"refuse_every": 3}, {"lose_every": 3}, {"refuse_every": 2, "lose_every": 3}]
)
def test_on_a_bad_network_everything_happens_once(
    service: FakeService, client: Client, faults: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longshore.calls, "_BUNCH_JOBS", 2)
    monkeypatch.setattr(longshore.calls, "_STREAM_BUNCHES", 2)
    vars(service.faults).update(faults, cut_every=3)
    batches = [echo(client, *"abcdefghijk") for _ in range(4)]
    assert [batch.wait(timeout=60).n_succeeded for batch in batches] == [11] * 4
    assert len(service.batches) == 4
    assert all(job.runs == 1 for batch in service.batches.values() for job in batch.jobs.values())
    assert [job.last_status.name for job in batches[0].jobs() if job.last_status] == list("abcdefghijk")
    batches[0].cancel()
    batches[1].delete()
    assert [batch.id for batch in client.list_batches()] == [4, 3, 1]


def test_a_watch_survives_a_service_that_is_started_again(
    idle_service: FakeService, idle_client: Client
) -> None:
    batch = echo(idle_client, "a")
    watch = batch.watch(timeout=60)
    assert next(watch).n_completed == 0
    idle_service.stop()
    idle_service.start()
    idle_service.finish(batch.id, 1)
    assert [status.state for status in watch][-1] == "success"


def test_a_watch_finds_the_service_of_this_machine_where_it_came_back(
    idle_service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_HOME", str(tmp_path))
    for name in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = write_service_file(tmp_path, ServiceAddress(idle_service.endpoint, TOKEN), os.getpid())
    with Client("test") as client:
        batch = echo(client, "a")
        watch = batch.watch(timeout=60)
        assert next(watch).n_completed == 0
        file.unlink()
        idle_service.stop()
        idle_service.port = 0  # Any.
        idle_service.start()
        write_service_file(tmp_path, ServiceAddress(idle_service.endpoint, TOKEN), os.getpid())
        idle_service.finish(batch.id, 1)
        assert [status.state for status in watch][-1] == "success"
        assert batch.status().complete and client.endpoint == idle_service.endpoint


def test_a_service_that_stays_away_is_an_error_that_says_so(
    idle_service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(endpoint=idle_service.endpoint, token=TOKEN, retry_s=0.2)
    idle_service.stop()
    with caplog.at_level(logging.WARNING), pytest.raises(hp.Unavailable, match="does not answer") as error:
        list(client.list_batches())
    assert isinstance(error.value, ConnectionError) and error.value.code == "unavailable"
    assert error.value.__cause__ is not None
    assert "trying again for up to 0.2 s" in caplog.text
    idle_service.start()


def test_only_what_is_unsure_is_sent_again(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longshore.calls, "_BUNCH_JOBS", 1)
    monkeypatch.setattr(longshore.calls, "_STREAM_BUNCHES", 1)
    service.faults.lose_every = 3  # CreateBatch, then the second of four streams.
    echo(client, *"abcd").wait(timeout=30)
    assert service.faults.calls.count("SubmitJobs") == 6
    assert service.faults.calls.count("CreateBatch") == 1


def test_a_submission_that_failed_can_be_taken_up_again(service: FakeService) -> None:
    with Client("test", endpoint=service.endpoint, token=TOKEN, retry_s=0) as client:
        builder = client.create_batch(name="x")
        builder.create_job(None, ["true"])
        service.faults.lose_every = 1
        with pytest.raises(hp.Unavailable):
            builder.submit()
        service.faults.lose_every = 0
        batch = builder.submit()
        assert builder.submit() is batch
    assert list(service.batches) == [batch.id]


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_a_submission_that_was_refused_or_interrupted_leaves_no_batch(
    service: FakeService, client: Client
) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["true"])
    with pytest.raises(KeyboardInterrupt):
        builder.submit(interrupt)
    assert [batch.deleted for batch in service.batches.values()] == [True]
    batch = builder.submit()
    assert [each.id for each in client.list_batches()] == [batch.id]


@pytest.mark.parametrize("wrong", [0, -1, True, "2", 10_000_001])
def test_a_batch_is_cancelled_after_some_failures_or_never(client: Client, wrong: Any) -> None:
    with pytest.raises(hp.UsageError, match="cancel_after_n_failures"):
        client.create_batch(cancel_after_n_failures=wrong)
    for asked, said in ((3, 3), (None, 0)):
        builder = client.create_batch(cancel_after_n_failures=asked)
        builder.create_job(None, ["true"])
        assert builder.submit().status().cancel_after_n_failures == said


def test_a_few_jobs_are_one_call_and_many_are_several(service: FakeService, client: Client) -> None:
    for n, calls in ((1, ["CreateBatch"]), (1001, ["CreateBatch", "SubmitJobs", "CloseBatch"])):
        service.faults.calls.clear()
        builder = client.create_batch()
        builder.add_jobs([hp.JobSpec(("true",))] * n)
        batch = builder.submit()
        assert service.faults.calls == calls
        assert batch.status().n_jobs == n


def test_a_few_jobs_whose_submission_is_interrupted_do_not_run(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = client._calls.transport.call

    async def interrupted(rpc: str, request: Any, timeout: float) -> Any:
        monkeypatch.undo()
        await call(rpc, request, timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(client._calls.transport, "call", interrupted)
    builder = client.create_batch()
    builder.create_job(None, ["true"])
    with pytest.raises(KeyboardInterrupt):
        builder.submit()
    assert [batch.deleted for batch in service.batches.values()] == [True]
    assert builder.submit().wait().state == "success"


@pytest.mark.parametrize("n", [1, 1500])
def test_what_no_message_can_say_is_told_as_it_is(client: Client, n: int) -> None:
    builder = client.create_batch()
    builder.add_jobs([hp.JobSpec(("true",))] * (n - 1))
    builder.add_job(hp.JobSpec(("true",), cpu_mcpu=-1))
    with pytest.raises(ValueError, match="-1"):
        builder.submit()


def test_a_stream_that_is_made_twice_at_once_counts_each_job_once() -> None:
    jobs = [hp.JobSpec(("true",))] * 40_000
    stream = longshore.calls._Bunches(1, jobs, 0)
    broken, again = iter(stream), iter(stream)
    next(broken)
    sent = 0
    for bunch in again:
        sent += len(bunch.jobs)
        next(broken, None)
    assert stream.end == sent == 32_000


def test_jobs_are_added_all_or_none(client: Client) -> None:
    def some() -> Iterator[hp.JobSpec]:
        yield hp.JobSpec(("true",))
        raise RuntimeError("the rest is missing")

    builder = client.create_batch()
    with pytest.raises(RuntimeError):
        builder.add_jobs(some())
    assert len(builder) == 0


def test_a_submission_with_a_token_waits_for_its_repetition(service: FakeService, client: Client) -> None:
    builder = client.create_batch(token="monday")
    builder.create_job(None, ["true"])
    with pytest.raises(KeyboardInterrupt):
        builder.submit(interrupt)
    builder.submit()
    assert [batch.deleted for batch in service.batches.values()] == [False]


def test_the_same_token_is_the_same_batch(client: Client) -> None:
    first = client.create_batch(token="monday")
    second = client.create_batch(token="monday")
    assert first.submit().id == second.submit().id
    with pytest.raises(hp.Conflict, match="another batch has this request_id") as error:
        client.create_batch(name="other", token="monday").submit()
    assert error.value.code == "already_exists"


def test_bunches_are_bounded_by_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longshore.calls, "_BUNCH_JOBS", 10)
    monkeypatch.setattr(longshore.calls, "_BUNCH_BYTES", 1000)
    small, large, huge = (hp.JobSpec(command=("x" * n,)) for n in (1, 300, 5000))
    jobs = [small] * 25 + [large] * 5 + [huge, small]
    bunches = list(longshore.calls._bunches(7, jobs, 0))
    assert [spec.command[0] for bunch in bunches for spec in bunch.jobs] == [job.command[0] for job in jobs]
    assert all(len(bunch.jobs) <= 10 for bunch in bunches)
    assert all(bunch.ByteSize() < 1100 or len(bunch.jobs) == 1 for bunch in bunches)
    ids = [bunch.first_job_id + i for bunch in bunches for i in range(len(bunch.jobs))]
    assert ids == list(range(1, len(jobs) + 1))


def test_a_job_that_no_message_can_hold_is_refused(client: Client) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["x" * 16_000_000], name="huge")
    with pytest.raises(hp.UsageError, match="job 1 'huge'"):
        builder.submit()


def test_backoff_grows_to_five_seconds_and_is_never_the_same_for_all() -> None:
    rng = random.Random(0)
    waits = [backoff(attempt, rng) for attempt in range(1000)]
    assert waits[0] <= 0.1 and 4 < max(waits) <= 5 and len(set(waits)) == 1000


# Errors.


def test_errors_of_the_service_are_typed_and_in_its_words(service: FakeService, client: Client) -> None:
    with pytest.raises(hp.NotFound, match="batch 99 does not exist") as not_found:
        client.get_batch(99)
    assert isinstance(not_found.value, LookupError)
    with pytest.raises(hp.NotFound, match="batch 1 has no job 5"):
        echo(client, "a").job(5).status()
    with pytest.raises(hp.PermissionDenied, match="'secret'"):
        client.create_batch(billing_project="secret").submit()
    with Client(endpoint=service.endpoint, token="wrong") as stranger, pytest.raises(hp.AuthError) as auth:
        stranger.session()
    assert "LONGSHORE_TOKEN" in auth.value.hint
    bad = client.create_batch()
    bad.add_job(hp.JobSpec(command=()))
    with pytest.raises(hp.UsageError, match=r"jobs\[1\]\.command") as invalid:
        bad.submit()
    assert invalid.value.code == "invalid_argument"


def test_an_error_of_the_service_says_what_the_service_calls_the_request(
    service: FakeService, client: Client
) -> None:
    with pytest.raises(hp.NotFound) as unary:
        client.get_batch(99)
    assert unary.value.request_id == f"request-{len(service.faults.calls)}"
    with pytest.raises(hp.NotFound) as stream:
        next(hp.Batch(client, 99).watch())
    assert stream.value.request_id == f"request-{len(service.faults.calls)}"
    with pytest.raises(hp.UsageError) as ours:
        client.get_batch(0)
    assert ours.value.request_id == ""


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "echo hello"},
        {"command": [1]},
        {"command": ["a\0b"]},
        {"resources": {"gpu": 1}},
        {"resources": {"cpu": 0}},
        {"parents": [1]},
        {"parents": ["a"]},
        {"parents": [True]},
        {"timeout": 0},
        {"retries": -1},
        {"env": {"a": 1}},
        {"attributes": {"name": "x"}},
        {"input_files": ["ab"]},
        {"output_files": [("a", "b", "c")]},
        {"always_run": 1},
    ],
)
def test_a_bad_job_is_refused_at_the_call(idle_client: Client, arguments: dict[str, Any]) -> None:
    builder = idle_client.create_batch()
    with pytest.raises(hp.UsageError):
        builder.create_job(None, **{"command": ["true"], **arguments})
    assert len(builder) == 0


def test_what_is_not_submitted_cannot_be_asked(idle_client: Client) -> None:
    builder, other = idle_client.create_batch(), idle_client.create_batch()
    job = builder.create_job(None, ["true"])
    assert job.id == 1
    asked: list[Callable[[], object]] = [
        job.status, job.wait, job.attempts, job.log().read, job.batch.wait, job.batch.cancel,
        lambda: job.batch.id,
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(hp.NotSubmitted, match="submit"):
            ask()
    with pytest.raises(hp.UsageError, match="not of this batch"):
        other.create_job(None, ["true"], parents=[job])
    builder.submit()
    with pytest.raises(hp.UsageError, match="submitted: no job can be added"):
        builder.create_job(None, ["true"])


def test_ids_are_whole_numbers(idle_client: Client) -> None:
    for bad in (0, -1, "7", True, 1.5, 2**70):
        with pytest.raises(hp.UsageError):
            idle_client.get_batch(bad)  # type: ignore[arg-type]
        with pytest.raises(hp.UsageError):
            hp.Batch(idle_client, 1).job(bad)  # type: ignore[arg-type]


def test_a_batch_needs_a_billing_project(idle_service: FakeService) -> None:
    nobody = Client(endpoint=idle_service.endpoint, token=TOKEN)
    with nobody, pytest.raises(hp.UsageError, match="billing project"):
        nobody.create_batch()
    with pytest.raises(hp.UsageError, match="empty"):
        Client("", endpoint=idle_service.endpoint, token=TOKEN)


def test_closing_may_be_repeated_and_ends_all_asking(client: Client) -> None:
    batch = echo(client, "a")
    client.close()
    client.close()
    for ask in (client.session, batch.status, batch.wait, batch.job(1).log().read, lambda: echo(client, "b")):
        with pytest.raises(hp.UsageError, match="is closed"):
            ask()


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Client(endpoint=service.endpoint, token=TOKEN, retry_s=1) as client:
        assert client.session().user == "ada"


def test_more_jobs_go_on_after_those_that_are_there(client: Client, service: FakeService) -> None:
    batch = echo(client, "a", "b")
    batch.wait(timeout=30)
    update = batch.update()
    more = update.create_job(None, ["echo", "c"], parents=[batch.job(1), 2], name="c")
    last = update.create_job(None, ["echo", "d"], parents=[more])
    assert (more.id, last.id, repr(update)) == (3, 4, "<Update of 2 more jobs for batch 1>")
    with pytest.raises(hp.UsageError, match="there is no job 5 to be a parent of job 5"):
        update.create_job(None, ["true"], parents=[5])
    with pytest.raises(hp.UsageError, match="not of this batch"):
        update.create_job(None, ["true"], parents=[echo(client, "x").job(1)])
    told: list[int] = []
    assert update.submit(told.append) is batch
    assert update.submit() is batch
    status = batch.wait(timeout=30)
    assert (status.n_jobs, status.state, told) == (4, "success", [2])
    assert last.log().text() == "d\n"
    with pytest.raises(hp.UsageError, match="is submitted"):
        update.create_job(None, ["true"])


def test_an_update_is_sent_in_messages_of_bounded_size_and_each_counts_once(
    client: Client, service: FakeService
) -> None:
    batch = echo(client, "a")
    service.faults.lose_every = 2
    update = batch.update(token="more")
    update.add_jobs(hp.JobSpec(("true",), name=str(i)) for i in range(2500))
    update.submit()
    jobs = service.batches[batch.id].jobs
    assert [jobs[i + 2].spec.name for i in range(2500)] == [str(i) for i in range(2500)]
    assert sorted(service.batches[batch.id].updates) == ["more/0", "more/1", "more/2"]


def test_who_adds_jobs_to_what_was_added_to_meanwhile_is_told(client: Client) -> None:
    batch = echo(client, "a")
    first, second = batch.update(), batch.update()
    for update in (first, second):
        update.create_job(None, ["true"])
    first.submit()
    with pytest.raises(hp.Conflict):
        second.submit()
