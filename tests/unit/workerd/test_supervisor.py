"""The life of an attempt, in stories."""

from __future__ import annotations

import pytest
from longshore_workerd.actions import (
    Accept,
    Action,
    Adopt,
    Forget,
    Note,
    Prepare,
    Remove,
    Start,
    Stop,
    Survivor,
    Tell,
)
from longshore_workerd.model import (
    Assignment,
    AttemptState,
    ContainerRecord,
    EndReason,
    FileCopy,
    Orders,
    Report,
)
from longshore_workerd.runtime import Container, ContainerId, ErrorKind, Exit, Found
from longshore_workerd.supervisor import FENCE_GRACE_S, NOTE_EVERY_MS, STOP_GRACE_S, Supervisor

INPUT, MAIN, OUTPUT = Container
IN = (FileCopy("/data/x", "/io/x"),)
OUT = (FileCopy("/io/y", "/data/y"),)


class Story:
    """A supervisor, a clock in ms, and the sentences that stories are made of; the attempt is "a"."""

    def __init__(self) -> None:
        self.now = 1_000
        self.supervisor = Supervisor(default_image="task", localizer_image="localizer")
        self.told: list[Report] = []

    def take(self) -> list[Action]:
        actions = self.supervisor.take(self.now)
        self.told += [a.report for a in actions if isinstance(a, Tell)]
        return actions

    def ordered(self, **job: object) -> list[Action]:
        self.job = Assignment("a", **job)  # type: ignore[arg-type]
        self.supervisor.on_orders(self.now, Orders(run=(self.job,)))
        return self.take()

    def prepared(self, *images: str, after: int = 10) -> list[Action]:
        self.now += after
        for image in images:
            self.supervisor.on_prepared(self.now, "a", image)
        return self.take()

    def started(self, container: Container, after: int = 5) -> list[Action]:
        self.now += after
        self.supervisor.on_started(self.now, ContainerId("a", container))
        return self.take()

    def ended(self, container: Container, exit: Exit | int = 0, after: int = 100) -> list[Action]:
        self.now += after
        exit = Exit(exit) if isinstance(exit, int) else exit
        self.supervisor.on_ended(self.now, ContainerId("a", container), exit, 7)
        return self.take()

    def tick(self, after: int) -> list[Action]:
        self.now += after
        self.supervisor.on_tick(self.now)
        return self.take()

    @property
    def end(self) -> Report:
        ends = [r for r in self.told if r.state is AttemptState.ENDED]
        assert len(ends) == 1
        return ends[0]

    def record(self, container: Container) -> ContainerRecord:
        return next(r for r in self.end.containers if r.container is container)


def main_runs(**job: object) -> Story:
    story = Story()
    story.ordered(**job)
    story.prepared("task", "localizer")
    if story.job.input_files:
        story.started(INPUT)
        story.ended(INPUT)
    story.started(MAIN)
    return story


def test_an_attempt_is_accepted_then_its_image_prepared() -> None:
    story = Story()
    assert story.ordered() == [Accept(story.job, 1_000), Prepare("a", "task")]


def test_an_attempt_without_files_is_one_container() -> None:
    story = Story()
    story.ordered()
    assert story.prepared("task") == [Start(story.job, MAIN)]
    story.started(MAIN)
    assert story.ended(MAIN)[-1] == Remove("a", (MAIN,))
    assert story.end.reason is EndReason.COMPLETED
    assert story.end.main_ms == 100


def test_files_make_three_containers_in_order_and_only_main_is_billed() -> None:
    story = Story()
    story.ordered(input_files=IN, output_files=OUT)
    assert story.prepared("task") == []
    assert story.prepared("localizer") == [Start(story.job, INPUT)]
    story.started(INPUT)
    assert Start(story.job, MAIN) in story.ended(INPUT, after=1_000)
    story.started(MAIN)
    assert Start(story.job, OUTPUT) in story.ended(MAIN, after=50)
    story.started(OUTPUT)
    story.ended(OUTPUT, after=1_000)
    assert story.end.main_ms == 50
    assert [r.exit_code for r in story.end.containers] == [0, 0, 0]


def test_the_report_says_when_each_container_did_what() -> None:
    story = Story()
    story.ordered()
    story.prepared("task", after=10)
    story.started(MAIN, after=5)
    story.ended(MAIN, after=100)
    expected = ContainerRecord(
        MAIN, "task", 0, pull_ended_ms=10, started_ms=15, ended_ms=115, exit_code=0, log_bytes=7
    )
    assert story.record(MAIN) == expected


def test_a_failed_input_keeps_main_from_starting() -> None:
    story = Story()
    story.ordered(input_files=IN)
    story.prepared("task", "localizer")
    story.started(INPUT)
    story.ended(INPUT, 1)
    assert story.end.reason is EndReason.ERROR
    assert story.record(INPUT).error_kind is ErrorKind.FILES
    assert story.record(MAIN).started_ms is None
    assert story.end.main_ms == 0


def test_an_exit_code_of_the_user_is_a_completion() -> None:
    story = main_runs()
    story.ended(MAIN, 3)
    assert (story.end.reason, story.record(MAIN).exit_code) == (EndReason.COMPLETED, 3)


def test_a_main_that_failed_leaves_its_output_where_it_is() -> None:
    story = main_runs(output_files=OUT)
    story.ended(MAIN, 1)
    assert story.record(OUTPUT).started_ms is None


def test_always_copy_output_copies_also_after_a_failure_and_the_failure_counts() -> None:
    story = main_runs(output_files=OUT, always_copy_output=True)
    assert Start(story.job, OUTPUT) in story.ended(MAIN, 1)
    story.started(OUTPUT)
    story.ended(OUTPUT, 1)
    assert story.end.reason is EndReason.COMPLETED
    assert story.record(MAIN).exit_code == 1
    assert story.record(OUTPUT).error_kind is ErrorKind.FILES


def test_output_that_cannot_be_copied_is_an_error() -> None:
    story = main_runs(output_files=OUT)
    story.ended(MAIN)
    story.started(OUTPUT)
    story.ended(OUTPUT, 1)
    assert story.end.reason is EndReason.ERROR


def test_out_of_memory_is_an_error_that_keeps_its_exit_code() -> None:
    story = main_runs()
    story.ended(MAIN, Exit(137, ErrorKind.OUT_OF_MEMORY, "out of memory"))
    assert story.end.reason is EndReason.ERROR
    assert story.record(MAIN).exit_code == 137
    assert story.record(MAIN).error_kind is ErrorKind.OUT_OF_MEMORY


def test_out_of_memory_with_exit_code_0_is_a_success() -> None:
    story = main_runs()
    story.ended(MAIN, Exit(0, ErrorKind.OUT_OF_MEMORY, "a child was killed"))
    assert story.end.reason is EndReason.COMPLETED
    assert story.record(MAIN).error_kind is ErrorKind.NONE


@pytest.mark.parametrize("kind", [ErrorKind.IMAGE_NOT_FOUND, ErrorKind.IMAGE_UNREACHABLE])
def test_an_image_that_cannot_be_had_is_the_users_error(kind: ErrorKind) -> None:
    story = Story()
    story.ordered(image="nowhere")
    story.supervisor.on_image_refused(1_010, "a", "nowhere", kind, "no such image: nowhere")
    story.take()
    assert (story.end.reason, story.end.message) == (EndReason.ERROR, "no such image: nowhere")
    assert story.record(MAIN).error_kind is kind


def test_a_missing_localizer_is_the_workers_fault() -> None:
    story = Story()
    story.ordered(input_files=IN)
    story.supervisor.on_image_refused(1_010, "a", "localizer", ErrorKind.IMAGE_NOT_FOUND, "gone")
    story.take()
    assert story.end.reason is EndReason.REFUSED


@pytest.mark.parametrize(
    ("kind", "reason"), [(ErrorKind.CANNOT_START, EndReason.ERROR), (ErrorKind.NONE, EndReason.REFUSED)]
)
def test_who_is_to_blame_for_a_start_decides(kind: ErrorKind, reason: EndReason) -> None:
    story = Story()
    story.ordered()
    story.prepared("task")
    story.supervisor.on_refused(story.now, ContainerId("a", MAIN), kind, "no")
    assert Remove("a", (MAIN,)) in story.take()
    assert story.end.reason is reason


def test_an_unknown_end_is_lost() -> None:
    story = main_runs()
    story.ended(MAIN, Exit(None, known=False))
    assert story.end.reason is EndReason.LOST


def test_a_timeout_counts_only_the_main_container() -> None:
    story = Story()
    story.ordered(input_files=IN, timeout_ms=500)
    story.prepared("task", "localizer", after=10_000)
    story.started(INPUT)
    story.ended(INPUT, after=10_000)
    story.started(MAIN)
    assert story.tick(499) == []
    assert story.tick(1) == [Stop(ContainerId("a", MAIN), STOP_GRACE_S)]
    story.ended(MAIN, 143, after=20)
    assert (story.end.reason, story.end.main_ms) == (EndReason.ERROR, 520)
    assert story.record(MAIN).error_kind is ErrorKind.TIMED_OUT
    assert story.record(MAIN).exit_code == 143


def test_the_next_deadline_is_the_timeout() -> None:
    story = main_runs(timeout_ms=500)
    assert story.supervisor.next_deadline() == story.now + 500


def test_a_revoked_attempt_is_stopped_and_then_ends() -> None:
    story = main_runs(output_files=OUT)
    story.supervisor.on_orders(story.now, Orders(revoke=("a",)))
    assert story.take() == [Stop(ContainerId("a", MAIN), STOP_GRACE_S)]
    story.ended(MAIN, 143)
    assert (story.end.reason, story.end.main_ms) == (EndReason.REVOKED, 100)


def test_a_revocation_while_it_starts_stops_it_also_once_it_runs() -> None:
    story = Story()
    story.ordered()
    story.prepared("task")
    story.supervisor.on_orders(story.now, Orders(revoke=("a",)))
    assert story.supervisor.is_halted(ContainerId("a", MAIN))
    stop = Stop(ContainerId("a", MAIN), STOP_GRACE_S)
    assert story.take() == [stop]
    assert stop in story.started(MAIN)


def test_a_revocation_before_anything_started_ends_it_at_once() -> None:
    story = Story()
    story.ordered()
    story.supervisor.on_orders(story.now, Orders(revoke=("a",)))
    story.take()
    assert story.end.reason is EndReason.REVOKED
    assert story.prepared("task") == []


def test_what_complete_orders_leave_out_is_revoked() -> None:
    story = main_runs()
    story.supervisor.on_orders(story.now, Orders(complete=True))
    assert story.take() == [Stop(ContainerId("a", MAIN), STOP_GRACE_S)]


def test_what_complete_orders_keep_goes_on() -> None:
    story = main_runs()
    story.supervisor.on_orders(story.now, Orders(complete=True, keep=("a",)))
    assert story.take() == []


def test_an_unknown_attempt_that_is_revoked_has_ended() -> None:
    story = Story()
    story.supervisor.on_orders(story.now, Orders(revoke=("a",)))
    story.take()
    assert (story.end.reason, story.end.main_ms) == (EndReason.REVOKED, 0)


def test_an_unreadable_assignment_is_refused_with_the_reason() -> None:
    story = Story()
    story.supervisor.on_orders(story.now, Orders(unreadable={"a": "garbage"}))
    story.take()
    assert (story.end.reason, story.end.message) == (EndReason.REFUSED, "garbage")


def test_the_same_order_again_changes_nothing() -> None:
    story = Story()
    story.ordered()
    assert story.ordered() == []


def test_an_ended_attempt_is_not_started_again_not_even_after_its_ack() -> None:
    story = main_runs()
    story.ended(MAIN)
    assert story.ordered() == []
    story.supervisor.on_acked(["a"])
    assert story.take() == [Forget("a")]
    assert story.ordered() == []
    assert story.supervisor.spooled() == []


def test_a_lost_lease_stops_everything() -> None:
    story = main_runs()
    story.supervisor.on_lease_lost(story.now)
    assert story.take() == [Stop(ContainerId("a", MAIN), FENCE_GRACE_S)]
    story.ended(MAIN, 143)
    assert (story.end.reason, story.end.message) == (EndReason.LOST, "the worker's lease ran out")


def test_a_lost_lease_hurries_a_stop_that_is_under_way() -> None:
    story = main_runs()
    story.supervisor.on_orders(story.now, Orders(revoke=("a",)))
    story.take()
    story.supervisor.on_lease_lost(story.now)
    assert story.take() == [Stop(ContainerId("a", MAIN), FENCE_GRACE_S)]
    story.ended(MAIN, 143)
    assert story.end.reason is EndReason.REVOKED


def test_a_shutdown_preempts_and_accepts_nothing_more() -> None:
    story = main_runs()
    story.supervisor.on_shutdown(story.now)
    story.ended(MAIN, 143)
    assert story.end.reason is EndReason.PREEMPTED
    story.supervisor.on_orders(story.now, Orders(run=(Assignment("b"),)))
    [tell] = story.take()
    assert isinstance(tell, Tell) and tell.report.reason is EndReason.PREEMPTED
    assert story.supervisor.held(story.now) == []


def test_running_time_is_noted_now_and_then() -> None:
    story = main_runs()
    [note] = story.tick(NOTE_EVERY_MS)
    assert isinstance(note, Note) and note.report.main_ms == NOTE_EVERY_MS


def test_a_heartbeat_says_how_long_main_has_run() -> None:
    story = main_runs()
    [held] = story.supervisor.held(story.now + 40)
    assert (held.state, held.main_ms) == (AttemptState.STARTED, 40)


def test_what_started_and_ended_within_a_turn_is_one_report() -> None:
    story = Story()
    story.ordered()
    story.prepared("task")
    id = ContainerId("a", MAIN)
    story.supervisor.on_started(story.now, id)
    story.supervisor.on_ended(story.now, id, Exit(0), 0)
    assert [type(a) for a in story.take()] == [Tell, Remove]


# --- after a restart


def survivor(
    *,
    same_boot: bool = True,
    ordered: bool = True,
    main_ms: int = 0,
    started_ms: int | None = 20,
    **job: object,
) -> Survivor:
    """Accepted at 1,000; by default its main container was ordered, and noted to have started at 1,020."""
    record = ContainerRecord(MAIN, "task", 0, 10, started_ms)
    last = Report("a", AttemptState.STARTED, main_ms, containers=(record,))
    assignment = Assignment("a", **job)  # type: ignore[arg-type]
    return Survivor(assignment, 1_000, same_boot, ordered, last if started_ms is not None else None)


def restarted(survivor: Survivor, *found: Found, now: int = 5_000) -> tuple[Story, list[Action]]:
    story = Story()
    story.now, story.job = now, survivor.job
    story.supervisor.recover(now, survivors=[survivor], ended=[], found=found)
    return story, story.take()


def test_a_running_container_is_adopted_and_billed_from_its_start() -> None:
    id = ContainerId("a", MAIN)
    story, actions = restarted(survivor(), Found(id, running=True))
    assert Adopt(id) in actions
    story.ended(MAIN, after=500)
    assert (story.end.reason, story.end.main_ms) == (EndReason.COMPLETED, 5_500 - 1_020)


def test_a_running_container_whose_start_nobody_saw_is_billed_by_the_runtimes_word() -> None:
    noted = ContainerRecord(MAIN, "task", 0, 10, None)
    last = Report("a", AttemptState.STARTED, 300, containers=(noted,))
    unseen = Survivor(Assignment("a"), 1_000, True, True, last)
    story, _ = restarted(unseen, Found(ContainerId("a", MAIN), running=True))
    (held,) = story.supervisor.held(5_400)
    assert held.main_ms == 300 + 400, "what was noted before is not forgotten meanwhile"
    story.ended(MAIN, Exit(0, ran_ms=3_000), after=500)
    assert story.end.main_ms == 3_000


def test_a_container_that_ended_meanwhile_is_billed_for_what_it_ran() -> None:
    story, _ = restarted(survivor(), Found(ContainerId("a", MAIN), running=False))
    story.ended(MAIN, Exit(0, ran_ms=700))
    assert (story.end.reason, story.end.main_ms) == (EndReason.COMPLETED, 700)


def test_without_knowing_how_long_it_ran_it_is_billed_for_what_was_noted() -> None:
    story, _ = restarted(survivor(main_ms=300), Found(ContainerId("a", MAIN), running=False))
    story.ended(MAIN)
    assert story.end.main_ms == 300


def test_a_container_that_overran_its_timeout_unseen_has_timed_out() -> None:
    story, _ = restarted(survivor(timeout_ms=600), Found(ContainerId("a", MAIN), running=False))
    story.ended(MAIN, Exit(0, ran_ms=700))
    assert story.record(MAIN).error_kind is ErrorKind.TIMED_OUT


def test_a_timeout_goes_on_over_a_restart() -> None:
    id = ContainerId("a", MAIN)
    story, _ = restarted(survivor(timeout_ms=5_000), Found(id, running=True))
    assert story.tick(1_019) == []
    assert story.tick(1) == [Stop(id, STOP_GRACE_S)]


def test_a_main_container_that_may_have_run_and_is_gone_is_lost() -> None:
    story, _ = restarted(survivor(started_ms=None))
    assert story.end.reason is EndReason.LOST


def test_an_attempt_of_which_nothing_was_made_begins() -> None:
    _, actions = restarted(survivor(ordered=False, started_ms=None))
    assert actions == [Prepare("a", "task")]


def test_another_boot_ends_what_was_held_with_the_time_that_was_noted() -> None:
    story, _ = restarted(survivor(same_boot=False, main_ms=300), now=50)
    assert (story.end.reason, story.end.main_ms) == (EndReason.LOST, 300)
    assert story.end.message == "the machine was restarted"


def test_containers_of_no_attempt_are_removed() -> None:
    story = Story()
    stranger = Found(ContainerId("x", MAIN), running=True)
    story.supervisor.recover(story.now, survivors=[], ended=[], found=[stranger])
    assert story.take() == [Remove("x", (MAIN,))]


def test_after_a_restart_output_is_copied_when_main_was_done() -> None:
    done = ContainerRecord(MAIN, "task", 0, 10, 20, 120, exit_code=0)
    last = Report("a", AttemptState.STARTED, 100, containers=(done,))
    known = Survivor(Assignment("a", output_files=OUT), 1_000, True, True, last)
    story, actions = restarted(known, Found(ContainerId("a", MAIN), running=False))
    assert actions == [Prepare("a", "localizer")]
    assert story.prepared("localizer") == [Start(known.job, OUTPUT)]
    story.started(OUTPUT)
    story.ended(OUTPUT)
    assert (story.end.reason, story.end.main_ms) == (EndReason.COMPLETED, 100)
