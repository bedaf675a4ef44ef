"""Who gets cores (W1) and where (W2), on the state alone."""

from __future__ import annotations

from array import array
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_controller.core import events as ev
from longshore_controller.core.model import ALWAYS_RUN, EndReason, JobColumns, JobState
from longshore_controller.core.scheduler import Placement, placements
from longshore_controller.core.state import State


class Cluster:
    """A state with workers and batches, and the placing done on it."""

    def __init__(self, *capacities_mcpu: int) -> None:
        self.state = State()
        self.ended = 0
        for i, capacity in enumerate(capacities_mcpu):
            self.state.apply(ev.WorkerJoined(f"w{i}", f"w{i}", capacity, "fake", 0))

    def batch(self, user: str, *mcpu: int, always_run: bool = False) -> int:
        batch_id = self.state.next_batch_id
        self.state.apply(ev.BatchCreated(batch_id, user, "p", f"r{batch_id}", b"", len(mcpu), {}, 0))
        byte = JobState.READY | (ALWAYS_RUN if always_run else 0)
        columns = JobColumns.build(bytearray([byte] * len(mcpu)), array("I", mcpu))
        self.state.apply(ev.BatchClosed(batch_id, 0, columns))
        return batch_id

    def place(self) -> list[Placement]:
        done = []
        for p in placements(self.state, set(self.state.workers)):
            done.append(p)
            attempt = f"a{len(self.state.attempts) + self.ended}"
            self.state.apply(ev.AttemptAssigned(attempt, p.batch_id, p.job_id, 1, p.worker_id, p.mcpu, 0))
            self.state.check()
        return done

    def end(self, attempt_id: str) -> None:
        a = self.state.attempts[attempt_id]
        self.ended += 1
        self.state.apply(
            ev.AttemptEnded(
                attempt_id, a.batch_id, a.job_id, EndReason.ERROR, "", 0, 0, JobState.ERROR, None, "", 1
            )
        )


def by_user(cluster: Cluster, placed: list[Placement]) -> Counter[str]:
    return Counter(
        {u: sum(p.mcpu for p in placed if cluster.state.batches[p.batch_id].user == u) for u in "ab"}
    )


def test_the_specs_example_gives_b_25_cores_and_a_5() -> None:
    cluster = Cluster(20_000)
    cluster.batch("a", *[1000] * 120)
    assert len(cluster.place()) == 20
    cluster.state.apply(ev.WorkerJoined("more", "more", 30_000, "fake", 0))
    cluster.batch("b", *[1000] * 100)
    assert by_user(cluster, cluster.place()) == {"a": 5000, "b": 25_000}


def test_within_a_user_older_batches_then_always_run_then_job_ids() -> None:
    cluster = Cluster(6000)
    first, second = cluster.batch("a", 1000, 1000), cluster.batch("a", 1000, 1000, always_run=True)
    third = cluster.batch("a", 1000, 1000)
    assert [(p.batch_id, p.job_id) for p in cluster.place()] == [
        (first, 1), (first, 2), (second, 1), (second, 2), (third, 1), (third, 2)
    ]  # fmt: skip


def test_a_job_goes_where_it_leaves_the_least_room() -> None:
    cluster = Cluster(16_000, 2000, 4000)
    cluster.batch("a", 2000, 3000)
    assert [p.worker_id for p in cluster.place()] == ["w1", "w2"]


def test_a_big_job_reserves_a_worker_and_does_not_starve_behind_small_ones() -> None:
    cluster = Cluster(4000, 4000)
    cluster.batch("a", *[1000] * 7)
    cluster.place()
    big = cluster.batch("a", 4000)
    cluster.batch("a", *[1000] * 100)
    for _ in range(8):
        placed = cluster.place()
        if big in {p.batch_id for p in placed}:
            return
        assert all(p.batch_id != big for p in placed)
        cluster.end(next(iter(cluster.state.workers["w1"].attempts or cluster.state.workers["w0"].attempts)))
    raise AssertionError("eight ends later the big job still waits")


def test_a_cancelled_batch_places_only_what_always_runs() -> None:
    cluster = Cluster(8000)
    plain, always = cluster.batch("a", 1000), cluster.batch("a", 1000, always_run=True)
    for batch in (plain, always):
        cluster.state.apply(ev.BatchCancelled(batch, "a", "", 0))
    assert [p.batch_id for p in cluster.place()] == [always]


def test_nobody_gets_a_job_that_is_not_connected() -> None:
    cluster = Cluster(8000)
    cluster.batch("a", 1000)
    assert list(placements(cluster.state, set())) == []


def test_jobs_too_big_for_every_worker_block_nothing_behind_them() -> None:
    cluster = Cluster(4000)
    cluster.batch("a", *[16_000] * 300, 1000)
    after = cluster.batch("a", 4000, *[1000] * 50)
    assert [p.job_id for p in cluster.place()] == [301]
    cluster.end(next(iter(cluster.state.attempts)))
    assert [(p.batch_id, p.job_id) for p in cluster.place()] == [(after, 1)]


def test_more_sizes_than_classes_are_all_placed() -> None:
    cluster = Cluster(200_000)
    cluster.batch("a", *range(1, 401))
    assert len(cluster.place()) == 400


SIZES = st.sampled_from([250, 1000, 2000, 4000])


@settings(max_examples=150, deadline=None)
@given(
    workers=st.lists(st.sampled_from([1000, 4000, 16_000]), min_size=1, max_size=5),
    batches=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(SIZES, min_size=1, max_size=12), st.booleans()), max_size=8
    ),
    ends=st.lists(st.integers(0, 200), max_size=30),
)
def test_no_worker_is_overfull_and_no_small_job_waits_beside_room_for_it(
    workers: list[int], batches: list[tuple[str, list[int], bool]], ends: list[int]
) -> None:
    cluster = Cluster(*workers)
    for user, sizes, always in batches:
        cluster.batch(user, *sizes, always_run=always)
    cluster.place()
    for end in ends:
        if not (live := sorted(cluster.state.attempts)):
            break
        cluster.end(live[end % len(live)])
        cluster.place()
        waiting = [
            columns.mcpu[i]
            for b in cluster.state.batches.values()
            if (columns := b.columns) is not None
            for i, byte in enumerate(columns.states)
            if byte & 7 == JobState.READY
        ]
        fits = [w for w in cluster.state.workers.values() if waiting and w.free_mcpu >= min(waiting)]
        blocked = any(mcpu > max(w.free_mcpu for w in cluster.state.workers.values()) for mcpu in waiting)
        assert len(fits) <= (1 if blocked else 0), (
            "only a reserved worker may keep room that somebody could use"
        )
