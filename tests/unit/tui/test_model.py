"""What follows from what the feed tells."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from longshore.status import (
    AttemptStatus,
    BatchStatus,
    ContainerStatus,
    JobSpec,
    JobState,
    JobStatus,
    Session,
)
from longshore_tui.model import (
    Heard,
    Link,
    Lost,
    Refused,
    attempt_of,
    confirmed_by,
    consequences,
    foremost,
    steps,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = Session("ada", "0", True, "/", "/tmp", (), 16_000, "longshore/task")
SPEC = JobSpec(command=("true",), input_files=(("/a", "/io/a"),), output_files=(("/io/b", "/b"),))


def a_container(name: str, state: str, exit_code: int | None = 0) -> ContainerStatus:
    return ContainerStatus(name, state, "image", exit_code, "", "", None, None, 100, 350, 0)


def a_job(
    state: JobState, attempt_state: str = "", *containers: ContainerStatus, spec: JobSpec = SPEC
) -> JobStatus:
    records = {each.name: each for each in containers}
    attempt = AttemptStatus("a", 1, "w", attempt_state, "", "", AT, AT, None, 0, 1000, 0, records)
    attempts = (attempt,) if attempt_state else ()
    return JobStatus(
        1, 1, "", state, "", None, 0, 0, 0, len(attempts), 1000, 0, {}, False, None, None, spec, attempts
    )


def states(job: JobStatus) -> list[str]:
    return [step.state for step in steps(job)]


# The connection.


def test_a_connection_goes_from_connecting_to_live_to_stale() -> None:
    link = Link()
    assert link.state(0.0)[0] == "connecting"
    link = link.after(Heard(SESSION), 0.0)
    assert link.state(9.0) == ("live", "● live")
    assert link.state(12.0) == ("stale", "◐ stale 12s")
    assert link.after(Heard(SESSION), 12.0).state(12.0)[0] == "live"


def test_a_lost_connection_counts_down_to_the_next_try() -> None:
    link = Link().after(Heard(SESSION), 0.0).after(Lost("gone", 1, 4.0), 10.0)
    assert link.state(11.0) == ("offline", "○ offline · retry 1 in 3s")
    assert link.session is SESSION
    assert link.after(Heard(SESSION), 12.0).state(12.0)[0] == "live"


def test_a_refusal_stays() -> None:
    assert Link().after(Refused("no", ""), 0.0).state(100.0)[0] == "refused"


# Containers.


def test_the_containers_follow_from_the_attempt_while_it_runs() -> None:
    assert states(a_job("Ready")) == ["pending", "pending", "pending"]
    assert states(a_job("Running", "assigned")) == ["running", "pending", "pending"]
    assert states(a_job("Running", "started")) == ["success", "running", "pending"]


def test_the_containers_are_what_their_records_say_when_it_has_ended() -> None:
    ended = a_job("Failure", "ended", a_container("input", "Success"), a_container("main", "Failure", 3))
    assert states(ended) == ["success", "failure", "cancelled"]
    assert steps(ended)[1].exit_code == 3
    assert steps(ended)[0].ran_ms == 250


def test_a_job_without_files_has_one_container() -> None:
    assert states(a_job("Ready", spec=JobSpec(command=("true",)))) == ["", "pending", ""]


def test_the_log_to_look_at_first_is_that_of_what_failed() -> None:
    assert foremost(steps(a_job("Error", "ended", a_container("input", "Error", 1)))) == "input"
    assert foremost(steps(a_job("Running", "assigned"))) == "input"
    assert foremost(steps(a_job("Success", "ended", a_container("main", "Success")))) == "main"
    assert foremost(steps(replace(a_job("Pending"), attempts=()))) == "main"


def test_the_containers_of_an_earlier_attempt_are_its_own() -> None:
    first = a_job("Running", "ended", a_container("main", "Failure", 3)).attempts[0]
    second = replace(first, number=2, state="started", containers={})
    job = replace(a_job("Running"), attempts=(first, second))
    assert [step.state for step in steps(job, 1)] == ["pending", "failure", "pending"]
    assert states(job) == ["success", "running", "pending"]
    assert attempt_of(job, None) is second
    assert attempt_of(job, 1) is first


# Cancelling.


def a_batch(**changes: int) -> BatchStatus:
    counts: dict[str, Any] = dict.fromkeys(
        ("n_pending", "n_ready", "n_running", "n_completed", "n_succeeded", "n_failed", "n_cancelled"), 0
    )
    counts.update(changes)
    return BatchStatus(
        8, "p", "ada", "running", False, True, sum(counts.values()), **counts, attributes={}, msec_mcpu=0,
        cost_nanousd=0, created_at=AT, closed_at=AT, completed_at=None, cancelled_at=None, cancelled_by="",
        cancel_reason="",
    )  # fmt: skip


def test_what_becomes_of_jobs_is_said_before_they_are_cancelled() -> None:
    said = consequences(
        [a_batch(n_running=3129, n_pending=2, n_ready=1, n_completed=1), a_batch(n_running=1)]
    )
    assert said == [
        ("running", "3,130 running jobs will be stopped"),
        ("pending", "3 waiting jobs will not run, unless always_run"),
        ("success", "1 finished job will be kept, with what was written"),
    ]


def test_much_is_not_cancelled_by_a_key_pressed_by_mistake() -> None:
    assert confirmed_by([a_batch(n_running=100)]) == ""
    assert confirmed_by([a_batch(n_running=101)]) == "8"
    assert confirmed_by([a_batch(), a_batch()]) == "2"
