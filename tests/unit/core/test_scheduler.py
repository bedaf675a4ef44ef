"""Who gets cores (W1) and where (W2), on the state alone."""

from __future__ import annotations

from array import array
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_controller.core import events as ev
from longshore_controller.core.model import ALWAYS_RUN, EndReason, JobColumns, JobState
from longshore_controller.core.scheduler import Placement, Reservation, Room, ahead_of, placements
from longshore_controller.core.state import State


class Cluster:
    """A state with workers and batches, and the placing done on it."""

    def __init__(self, *capacities_mcpu: int) -> None:
        self.state = State()
        self.ended = 0
        self.kept: Reservation | None = None
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
        workers = set(self.state.workers)
        room = Room(self.state, workers, self.kept)
        for p in placements(self.state, workers, room):
            done.append(p)
            attempt = f"a{len(self.state.attempts) + self.ended}"
            self.state.apply(ev.AttemptAssigned(attempt, p.batch_id, p.job_id, 1, p.worker_id, p.mcpu, 0))
            self.state.check()
        self.kept = room.reserved
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


def test_a_big_job_waits_only_for_what_runs_where_it_is_to_go_whoever_else_is_served_first() -> None:
    """Small jobs of its own user elsewhere, and another user at the same level, would starve it for ever."""
    cluster = Cluster(4000, 1000)
    cluster.batch("z", 1000)
    cluster.batch("a", *[1000] * 500)
    cluster.place()
    big = cluster.batch("z", 4000)
    cluster.batch("z", *[1000] * 500)
    cluster.end(next(iter(cluster.state.workers["w0"].attempts)))
    assert cluster.place() == []
    assert cluster.kept is not None and (cluster.kept.batch_id, cluster.kept.job_id) == (big, 1)
    there = list(cluster.state.workers[cluster.kept.worker_id].attempts)
    for n, attempt in enumerate(there, start=1):
        cluster.end(next(iter(cluster.state.workers["w1"].attempts)))
        cluster.place()
        cluster.end(attempt)
        assert (big in {p.batch_id for p in cluster.place()}) == (n == len(there))


def test_a_kept_worker_is_let_go_when_its_job_is_no_longer_to_start() -> None:
    for let_go in ("cancelled", "elsewhere", "gone"):
        cluster = Cluster(4000)
        cluster.batch("a", *[1000] * 3)
        cluster.place()
        big = cluster.batch("a", 4000)
        cluster.batch("a", 1000)
        assert cluster.place() == [] and cluster.kept is not None
        if let_go == "cancelled":
            cluster.state.apply(ev.BatchCancelled(big, "a", "", 0))
        elif let_go == "elsewhere":
            cluster.state.apply(ev.WorkerJoined("new", "new", 4000, "fake", 0))
        else:
            cluster.state.apply(ev.WorkerJoined("w0", "w0", 3000, "fake", 0))
            cluster.state.apply(ev.WorkerJoined("new", "new", 1000, "fake", 0))
        placed = cluster.place()
        assert (big in {p.batch_id for p in placed}) == (let_go == "elsewhere")
        assert 1000 in {p.mcpu for p in placed}, let_go


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


CLUSTERS = {
    "workers": st.lists(st.sampled_from([1000, 2000, 4000, 16_000]), min_size=1, max_size=5),
    "batches": st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(SIZES, min_size=1, max_size=12), st.booleans()), max_size=8
    ),
    "ends": st.lists(st.integers(0, 200), max_size=20),
}


def busy(workers: list[int], batches: list[tuple[str, list[int], bool]], ends: list[int]) -> Cluster:
    """A cluster in the middle of things."""
    cluster = Cluster(*workers)
    for user, sizes, always in batches:
        cluster.batch(user, *sizes, always_run=always)
    cluster.place()
    for end in ends:
        if live := sorted(cluster.state.attempts):
            cluster.end(live[end % len(live)])
            cluster.place()
    return cluster


@settings(max_examples=100, deadline=None)
@given(**CLUSTERS)
def test_a_round_leaves_nothing_that_the_next_could_place(
    workers: list[int], batches: list[tuple[str, list[int], bool]], ends: list[int]
) -> None:
    assert busy(workers, batches, ends).place() == []


@settings(max_examples=100, deadline=None)
@given(**CLUSTERS)
def test_every_core_goes_to_whoever_has_the_fewest_among_those_whom_it_would_serve(
    workers: list[int], batches: list[tuple[str, list[int], bool]], ends: list[int]
) -> None:
    """Nobody is given a job while somebody below has one for which there is room then: each placement of a
    round is of the lowest user who could be served, but for one job that a worker was kept for."""
    cluster = busy(workers, batches, ends)
    state = cluster.state
    for attempt in sorted(state.attempts)[::2]:
        cluster.end(attempt)
    names = set(state.workers)
    room = Room(state, names, cluster.kept)
    kept = room.due()
    for p in placements(state, names, room):
        level = {name: user.running_mcpu for name, user in state.users.items()}
        me = state.batches[p.batch_id].user
        held = room.reserved.worker_id if room.reserved else None
        free = max((w.free_mcpu for i, w in state.workers.items() if i != held), default=0)
        could = {
            b.user
            for b in state.batches.values()
            if b.columns is not None
            and any(r and m <= free for r, m in zip(b.columns.ready, b.columns.mcpu, strict=True))
        }
        if p != kept:
            assert (level[me], me) == min((level[u], u) for u in could), (p, level, could)
        attempt = f"b{len(state.attempts)}.{p.batch_id}.{p.job_id}"
        state.apply(ev.AttemptAssigned(attempt, p.batch_id, p.job_id, 1, p.worker_id, p.mcpu, 0))
        state.check()


@settings(max_examples=100, deadline=None)
@given(**CLUSTERS, which=st.integers(0, 200))
def test_the_place_in_the_queue_is_the_place_in_the_queue(
    workers: list[int], batches: list[tuple[str, list[int], bool]], ends: list[int], which: int
) -> None:
    """With room for everybody, a job is served right after those that were said to be before it."""
    state = busy(workers, batches, ends).state
    ready = [
        (b, i + 1)
        for b in state.batches.values()
        if b.columns is not None
        for i, byte in enumerate(b.columns.ready)
        if byte
    ]
    if not ready:
        return
    batch, job_id = ready[which % len(ready)]
    own, others = ahead_of(state, batch, job_id, 16_000)
    none_before = [0, 0]
    state.apply(ev.WorkerJoined("endless", "endless", 2**31, "fake", 0))
    for n, p in enumerate(placements(state, {"endless"})):
        if (p.batch_id, p.job_id) == (batch.batch_id, job_id):
            break
        none_before[state.batches[p.batch_id].user != batch.user] += 1
        state.apply(ev.AttemptAssigned(f"e{n}", p.batch_id, p.job_id, 1, p.worker_id, p.mcpu, 0))
    assert none_before == [own, others]


@settings(max_examples=60, deadline=None)
@given(
    workers=st.lists(st.sampled_from([2000, 4000, 8000]), min_size=1, max_size=4),
    whose=st.sampled_from("abc"),
    mcpu=st.sampled_from([2000, 4000, 8000]),
    stream=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200)), min_size=150, max_size=150),
)
def test_a_big_job_waits_for_nothing_that_began_after_a_worker_was_kept_for_it(
    workers: list[int], whose: str, mcpu: int, stream: list[tuple[str, int]]
) -> None:
    """Whatever small jobs whoever brings: on the worker that is kept nothing begins any more."""
    cluster = Cluster(*workers)
    mcpu = min(mcpu, max(workers))
    for user in sorted({*"abc"} - {whose}):
        cluster.batch(user, *[250] * 150)
    cluster.place()
    big = cluster.batch(whose, mcpu)
    left: set[str] | None = None
    for user, which in stream:
        cluster.batch(user, 250, 500)
        live = sorted(cluster.state.attempts)
        cluster.end(live[which % len(live)])
        placed = cluster.place()
        if big in {p.batch_id for p in placed}:
            return
        if (kept := cluster.kept) is not None and (kept.batch_id, kept.job_id) == (big, 1):
            there = cluster.state.workers[kept.worker_id].attempts
            assert left is None or there <= left, "something began on the kept worker"
            left = set(there)
            # What runs there ends sooner or later; here at once, one after another.
            cluster.end(min(there))
            cluster.place()
        else:
            assert left is None or cluster.state.batches[big].counts[JobState.RUNNING], "it was let go"
        if cluster.state.batches[big].counts[JobState.RUNNING]:
            return
    raise AssertionError(f"150 ends later it still waits: {cluster.kept}")
