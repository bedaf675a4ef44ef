"""What the end of an attempt means for its job: SPEC 4.1's table, S9."""

from __future__ import annotations

import pytest
from longshore_controller.core.model import (
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobState,
    Retries,
)
from longshore_controller.core.verdict import Tries, Verdict, exit_code, verdict

INPUT, MAIN, OUTPUT = ContainerName.INPUT, ContainerName.MAIN, ContainerName.OUTPUT


def ran(**codes: int) -> tuple[ContainerRecord, ...]:
    return tuple(ContainerRecord(ContainerName[name], exit_code=code) for name, code in codes.items())


def judge(
    reason: EndReason,
    containers: tuple[ContainerRecord, ...] = (),
    *,
    tries: Tries | None = None,
    retries: int = 0,
    limits: tuple[int, int] = (0, 0),
    cancelled: bool = False,
) -> Verdict:
    allowed = Retries.unpack(Retries.pack(retries, *limits))
    return verdict(reason, "said", containers, tries or Tries(1), retries=allowed, cancelled=cancelled)


def test_exit_0_everywhere_is_success() -> None:
    assert judge(EndReason.COMPLETED, ran(INPUT=0, MAIN=0, OUTPUT=0)) == Verdict(JobState.SUCCESS, 0)


def test_a_main_container_that_exits_not_0_is_a_failure_with_its_code() -> None:
    assert judge(EndReason.COMPLETED, ran(MAIN=3, OUTPUT=0)) == Verdict(JobState.FAILURE, 3)


@pytest.mark.parametrize("which", ["INPUT", "OUTPUT"])
def test_files_that_could_not_be_moved_are_an_error(which: str) -> None:
    codes = {"INPUT": 1} if which == "INPUT" else {"MAIN": 0, "OUTPUT": 1}
    got = judge(EndReason.COMPLETED, ran(**codes))
    assert (got.state, got.exit_code) == (JobState.ERROR, 1)
    assert which.lower() in got.reason


def test_out_of_memory_is_an_error_that_keeps_exit_code_137() -> None:
    oom = ContainerRecord(MAIN, exit_code=137, error_kind=ErrorKind.OUT_OF_MEMORY, error="out of memory")
    assert judge(EndReason.ERROR, (oom,)) == Verdict(JobState.ERROR, 137, "out of memory")


def test_a_job_that_never_ran_has_no_exit_code() -> None:
    missing = ContainerRecord(MAIN, error_kind=ErrorKind.IMAGE_NOT_FOUND, error="no such image: x")
    assert judge(EndReason.ERROR, (missing,)) == Verdict(JobState.ERROR, None, "no such image: x")


def test_the_exit_code_is_that_of_the_first_container_that_did_not_exit_0() -> None:
    assert exit_code(ran(OUTPUT=2, MAIN=1, INPUT=0)) == 1
    assert exit_code(ran(MAIN=0, OUTPUT=0)) == 0
    assert exit_code(()) is None


@pytest.mark.parametrize(
    ("reason", "last", "spent"),
    [
        (EndReason.PREEMPTED, Tries(19, n_preempted=18), Tries(20, n_preempted=19)),
        (EndReason.LOST, Tries(4, n_lost=3), Tries(5, n_lost=4)),
        (EndReason.REFUSED, Tries(4, n_lost=3), Tries(5, n_lost=4)),
    ],
)
def test_what_is_not_the_users_fault_is_tried_again_until_the_attempts_are_spent(
    reason: EndReason, last: Tries, spent: Tries
) -> None:
    assert judge(reason, tries=last).state is JobState.READY
    assert judge(reason, tries=spent).state is JobState.ERROR
    assert judge(reason, tries=last, cancelled=True).state is JobState.CANCELLED


@pytest.mark.parametrize("reason", [EndReason.PREEMPTED, EndReason.LOST, EndReason.REFUSED])
@pytest.mark.parametrize("most", [1, 2, 1000])
def test_a_job_may_say_how_often_it_may_be_preempted_or_lost(reason: EndReason, most: int) -> None:
    preempted = reason is EndReason.PREEMPTED
    before = Tries(most, n_preempted=most - 1) if preempted else Tries(most, n_lost=most - 1)
    limits = (most, 0) if preempted else (0, most)
    spent = judge(reason, tries=before, limits=limits)
    assert (spent.state, f"{most} time" in spent.reason) == (JobState.ERROR, True)
    if most > 1:
        earlier = Tries(1, n_preempted=most - 2) if preempted else Tries(1, n_lost=most - 2)
        assert judge(reason, tries=earlier, limits=limits).state is JobState.READY
    other = EndReason.LOST if preempted else EndReason.PREEMPTED
    assert judge(other, tries=before, limits=limits).state is JobState.READY


def test_an_attempt_that_its_owner_ended_spends_nothing() -> None:
    spent = Tries(30, n_preempted=19, n_lost=4)
    assert judge(EndReason.REVOKED, tries=spent).state is JobState.READY
    spent.count(EndReason.REVOKED, JobState.READY)
    assert (spent.n_preempted, spent.n_lost, spent.n_failed) == (19, 4, 0)


def test_preemptions_do_not_spend_the_budget_of_losses() -> None:
    assert judge(EndReason.LOST, tries=Tries(16, n_preempted=15, n_lost=1)).state is JobState.READY


def test_a_users_failure_is_tried_again_only_as_often_as_the_job_asks() -> None:
    failed = ran(MAIN=1)
    assert judge(EndReason.COMPLETED, failed, tries=Tries(1), retries=1).state is JobState.READY
    assert judge(EndReason.COMPLETED, failed, tries=Tries(2, n_failed=1), retries=1).state is JobState.FAILURE
    assert (
        judge(EndReason.COMPLETED, failed, tries=Tries(1), retries=1, cancelled=True).state
        is JobState.FAILURE
    )


def test_a_revoked_attempt_of_a_cancelled_batch_is_cancelled_and_otherwise_tried_again() -> None:
    assert judge(EndReason.REVOKED, cancelled=True).state is JobState.CANCELLED
    assert judge(EndReason.REVOKED).state is JobState.READY


def test_a_success_stands_though_the_batch_was_cancelled_meanwhile() -> None:
    assert judge(EndReason.COMPLETED, ran(MAIN=0), cancelled=True) == Verdict(JobState.SUCCESS, 0)
