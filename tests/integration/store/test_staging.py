"""Jobs arrive in bunches, in any order, in parallel, repeated: the rows are the same, and unseen."""

from __future__ import annotations

import random
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from longshore_controller.core.model import JobState, Refusal, RefusalKind
from longshore_controller.store import Store
from world import Job, World, columns, staged

PLAN = [
    Job(
        parents=[i // 2] if i > 1 and i % 3 else [],
        mcpu=250 * (1 + i % 4),
        always_run=i % 5 == 0,
        retries=i % 2,
        name=f"job {i}",
        attributes={"i": str(i)} if i % 7 == 0 else {},
    )
    for i in range(1, 101)
]


def stage(store: Store, batch_id: int, first: int, last: int) -> None:
    store.stage(batch_id, first, staged(PLAN[first - 1 : last]))


def refused(kind: RefusalKind, *mentions: str) -> pytest.RaisesExc[Refusal]:
    def about(refusal: Refusal) -> bool:
        return refusal.kind is kind and all(m in refusal.message for m in mentions)

    return pytest.RaisesExc(Refusal, check=about)


@pytest.fixture
def batch(world: World) -> int:
    """An open batch of 100 jobs."""
    batch_id = world.create(*PLAN)
    world.step()
    return batch_id


@pytest.mark.parametrize("seed", range(3))
def test_bunches_in_any_order_in_parallel_and_repeated_make_the_same_batch(
    store: Store, batch: int, seed: int
) -> None:
    rng = random.Random(seed)
    cuts = [0, *sorted(rng.sample(range(1, 100), 9)), 100]
    bunches = [(a + 1, b) for a, b in zip(cuts, cuts[1:], strict=False)] * 3
    rng.shuffle(bunches)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda bunch: stage(store, batch, *bunch), bunches))
    assert store.columns(batch) == columns(PLAN)
    wanted = staged(PLAN)
    assert store.specs([(batch, i) for i in range(1, 102)]) == {
        (batch, i): spec for i, spec in enumerate(wanted.specs, 1)
    }


def test_nothing_of_a_batch_is_seen_before_it_is_closed(world: World, store: Store, batch: int) -> None:
    stage(store, batch, 1, 100)
    assert store.jobs(batch, limit=10) == []
    assert store.job(batch, 1) is None
    world.close(batch)
    world.settle()
    job = store.job(batch, 1)
    assert job is not None
    assert job.row.state is JobState.READY
    assert len(store.jobs(batch, limit=1000)) == 100


def test_an_incomplete_batch_is_refused_by_its_first_missing_job_and_their_number(
    store: Store, batch: int
) -> None:
    with refused(RefusalKind.FAILED_PRECONDITION, "100 of the 100 jobs", "job 1;"):
        store.columns(batch)
    stage(store, batch, 1, 10)
    stage(store, batch, 21, 30)
    with refused(RefusalKind.FAILED_PRECONDITION, "80 of the 100 jobs", "job 11;"):
        store.columns(batch)
    stage(store, batch, 11, 20)
    with refused(RefusalKind.FAILED_PRECONDITION, "70 of the 100 jobs", "job 31;"):
        store.columns(batch)


def test_other_jobs_under_the_same_ids_are_refused_and_change_nothing(store: Store, batch: int) -> None:
    stage(store, batch, 1, 100)
    others = staged([Job(name="other")] * 10)
    for first in (1, 5, 91):
        with refused(RefusalKind.ALREADY_EXISTS, f"{first} to {first + 9}"):
            store.stage(batch, first, others)
    # The same jobs cut otherwise are not the same bunch.
    with refused(RefusalKind.ALREADY_EXISTS):
        stage(store, batch, 1, 50)
    assert store.columns(batch) == columns(PLAN)


def test_a_bunch_is_stored_whole_or_not_at_all(store: Store, batch: int) -> None:
    stage(store, batch, 50, 60)
    with refused(RefusalKind.ALREADY_EXISTS):
        stage(store, batch, 41, 55)
    assert set(store.specs([(batch, i) for i in range(1, 101)])) == {(batch, i) for i in range(50, 61)}
    stage(store, batch, 41, 49)


@pytest.mark.parametrize("change", ["spec", "name", "attributes", "mcpu", "retries", "always_run", "parents"])
def test_any_difference_makes_it_another_bunch(store: Store, batch: int, change: str) -> None:
    jobs = staged([Job(), Job(parents=[1])])
    store.stage(batch, 1, jobs)
    store.stage(batch, 1, jobs)
    if change == "spec":
        jobs.specs[1] += b" "
    elif change == "name":
        jobs.names[1] = "x"
    elif change == "attributes":
        jobs.attributes[1]["x"] = ""
    elif change == "parents":
        jobs.parents[1] = b""
    elif change == "always_run":
        jobs = staged([Job(), Job(parents=[1], always_run=True)])
    else:
        column: array[int] = getattr(jobs, change)
        column[1] += 1
    with refused(RefusalKind.ALREADY_EXISTS):
        store.stage(batch, 1, jobs)


def test_ids_beyond_the_declared_number_are_refused(store: Store, batch: int) -> None:
    for first in (0, 100, 101):
        with refused(RefusalKind.INVALID_ARGUMENT, "n_jobs = 100"):
            store.stage(batch, first, staged([Job(), Job()]))


def test_jobs_are_refused_where_they_may_not_come_any_more(world: World, store: Store, batch: int) -> None:
    two = staged([Job(), Job()])
    with refused(RefusalKind.NOT_FOUND, "no batch 999"):
        store.stage(999, 1, two)
    stage(store, batch, 1, 100)
    world.close(batch)
    world.settle()
    with refused(RefusalKind.FAILED_PRECONDITION, "closed"):
        store.stage(batch, 3, two)
    stage(store, batch, 1, 100)
    cancelled = world.create(Job(), Job())
    world.step()
    store.stage(cancelled, 1, two)
    world.cancel(cancelled)
    world.settle()
    with refused(RefusalKind.FAILED_PRECONDITION, "cancelled"):
        store.stage(cancelled, 1, two)
    assert store.jobs(cancelled, limit=10) == []
    world.delete(cancelled)
    world.settle()
    with refused(RefusalKind.NOT_FOUND):
        store.stage(cancelled, 1, two)


def test_staging_goes_on_while_the_leader_commits(world: World, store: Store, batch: int) -> None:
    world.hello()
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(stage, store, batch, i, i) for i in range(1, 101)]
        while not all(d.done() for d in done):
            world.create()
            world.step()
        for d in done:
            d.result()
    world.close(batch)
    world.settle()
    world.check()


def test_what_was_staged_for_a_cancelled_open_batch_is_dropped(world: World, store: Store) -> None:
    kept, dropped = (world.create(*[Job() for _ in range(5)]) for _ in range(2))
    world.step()
    for batch in (kept, dropped):
        world.stage(batch, bunch=2)
    assert not store.drop_staged()
    world.cancel(dropped)
    world.settle()
    assert len(store.specs([(dropped, 1), (dropped, 5)])) == 2
    while store.drop_staged():
        pass
    assert not store.specs([(dropped, i) for i in range(1, 6)])
    with store._db.reading() as db:
        for table in ("job", "job_spec", "bunch"):
            rows = store._db.rows(db, f"SELECT DISTINCT batch_id FROM {table}")
            assert [batch for (batch,) in rows] == [kept]
    world.close(kept)
    world.settle()
    assert len(store.jobs(kept, limit=9)) == 5


def test_a_batch_that_comes_with_its_jobs_has_the_rows_of_one_whose_jobs_followed(
    store: Store, world: World
) -> None:
    followed, whole = world.submit(*PLAN), world.create(*PLAN, whole=True)
    world.step()
    assert store.columns(whole) == store.columns(followed) == columns(PLAN)
    assert [s for _, s in sorted(store.specs([(whole, i) for i in range(1, 102)]).items())] == staged(
        PLAN
    ).specs
    of_one, of_other = (store.jobs(batch, after_job_id=0, limit=200) for batch in (followed, whole))
    assert [job.with_row(job.row._replace(batch_id=0)) for job in of_one] == [
        job.with_row(job.row._replace(batch_id=0)) for job in of_other
    ]
    assert world.state.batches[whole].columns == world.state.batches[followed].columns
    store.stage(whole, 1, staged(PLAN))  # Again: no error, and nothing new.
    with refused(RefusalKind.FAILED_PRECONDITION, "is closed"):
        store.stage(whole, 1, staged(PLAN[:50]))
    world.reload()
    assert len(store.jobs(whole, after_job_id=0, limit=200)) == len(PLAN)


def test_specs_at_hand_are_those_of_the_rows_until_their_batch_is_complete(
    store: Store, world: World
) -> None:
    followed, whole = world.submit(*[Job()] * 9), world.create(*[Job()] * 9, whole=True)
    world.step()
    keys = [(batch, i) for batch in (followed, whole) for i in range(1, 10)]
    assert store.fresh_specs([*keys, (whole, 10), (99, 1)]) == store.specs(keys)
    for batch in (followed, whole):
        world.cancel(batch)
    world.settle()
    assert store.fresh_specs(keys) == {}
