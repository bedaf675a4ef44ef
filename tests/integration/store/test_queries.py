"""What the databases leave out, and what they find, is what a query matches; no text of a user's is SQL."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore_controller.core.language import QueryError, parse_for_batches, parse_for_jobs
from longshore_controller.core.model import EndReason, JobState, Viewer, memory_of
from longshore_controller.core.query import JOB_WORDS, Item
from longshore_controller.core.reactor import CreateBatch
from longshore_controller.store import JobView, Store, conditions, item_of, pages
from world import LATER, Job, World, staged

NAMES = [
    "align-001", "Align 2", "50% off", "a_b", "ÄPFEL", "äpfel!", "K\N{KELVIN SIGN}k", "İstanbul",
    'the "quoted"', "back\\slash", "it's; DROP TABLE job; --", "a\nb", "", "x" * 300, "\u2028", "état",
]  # fmt: skip
ATTRIBUTES = [
    {},
    {"sample": "NA12878"},
    {"sample": 'na "1" \\', "é": "Ünï"},
    {"my key": "50%_;--", "empty": ""},
]
ANN = Viewer("ann")
ENOUGH = 300
"""Queries; with fewer than 20,000 rows each looks at all of them in one slice."""


def item_of_job(view: JobView) -> Item:
    row = view.row
    return {
        "id": row.job_id,
        "name": view.name,
        "state": JOB_WORDS[row.state],
        "exit": row.exit_code,
        "reason": row.reason,
        "dur": row.duration_ms,
        "cost": row.cost_nanousd,
        "attempts": row.n_attempts,
        "preempted": row.n_preempted,
        "cpu": view.mcpu,
        "mem": memory_of(view.mcpu),
        "started": row.started_at_ms,
        "ended": row.ended_at_ms,
        "attr": view.attributes,
    }


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pieces_of(texts: list[str]) -> st.SearchStrategy[str]:
    """Whole texts and parts of them, in any case."""

    def piece(text: str, begin: int, length: int, form: str) -> str:
        some = text[begin : begin + length] if length else text
        return {"upper": some.upper(), "lower": some.lower()}.get(form, some)

    lengths = st.sampled_from([0, 0, 1, 2, 3])
    return st.builds(
        piece, st.sampled_from(texts), st.integers(0, 8), lengths, st.sampled_from(["", "upper", "lower"])
    )


def terms(for_jobs: bool) -> st.SearchStrategy[str]:
    words = pieces_of(NAMES).filter(bool).map(quoted)
    values = pieces_of(["NA12878", 'na "1" \\', "50%_;--", "Ünï", "", "ann", "bob", "project"]).map(quoted)
    numbers = st.integers(-2, 20) | st.sampled_from([137, 2**31, 2**63 - 1])
    compared = st.sampled_from([":", "=", "!=", ">", ">=", "<", "<="])
    equal = st.sampled_from([":", "=", "!="])
    counts = ["id", "exit", "attempts", "preempted"] if for_jobs else ["id", "jobs", "failed"]
    moments = ["started", "ended"] if for_jobs else ["created", "ended"]
    ago = st.sampled_from(["-2s", "-1h", "now", "2023-11-14", "2023-11-14T22:13:21"])
    states = ["failure", "error", "bad", "live", "done", "pending,ready", "running", "success,cancelled"]
    found = [
        words,
        st.builds(
            "{}{}{}".format, st.just("state"), equal, st.sampled_from(states if for_jobs else states[2:5])
        ),
        st.builds("{}{}{}".format, st.sampled_from(counts), compared, numbers),
        st.builds("{}:{}..{}".format, st.sampled_from(counts), numbers, numbers),
        st.builds("{}{}{}".format, st.sampled_from(moments), compared.filter(lambda o: o not in ":=!="), ago),
        st.builds("{}{}0.0000000{}".format, st.just("cost"), compared, st.integers(0, 99)),
        st.builds("{}{}{}ms".format, st.just("dur"), compared, st.integers(0, 30)),
        st.builds("{}{}{}".format, st.just("name"), equal, words),
        st.builds(
            "name{}{}".format,
            st.sampled_from(["=~", "!~"]),
            st.sampled_from(['"^a"', '"(?i)ä|k"', '"."', '"[0-9]+$"']),
        ),
        st.builds(
            "attr.{}{}{}".format, st.sampled_from(["sample", '"my key"', "é", "empty", "none"]), equal, values
        ),
        st.integers(0, 30).map(str),
    ]
    if for_jobs:
        found.append(
            st.builds(
                "reason{}{}".format, equal, pieces_of(["as the test says", "batch cancelled"]).map(quoted)
            )
        )
        found.append(st.builds("cpu{}{}m".format, compared, st.sampled_from([250, 1000, 4000])))
        found.append(st.builds("mem{}{}".format, compared, st.sampled_from(["3.75G", "0.9G", "1"])))
    else:
        found.append(st.builds("{}{}{}".format, st.sampled_from(["user", "project"]), equal, values))
    return st.one_of(found)


def queries(for_jobs: bool) -> st.SearchStrategy[str]:
    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return (
            inner.map("-({})".format)
            | st.builds("({} OR {})".format, inner, inner)
            | st.builds("({} {})".format, inner, inner)
        )

    return st.recursive(terms(for_jobs), more, max_leaves=6)


@contextmanager
def spied(store: Store, patch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """Every statement that reaches the database meanwhile, with its parameters."""
    told: list[tuple[str, tuple[Any, ...]]] = []
    pool: Any = store._db._pool
    real = pool.execute_sql

    def execute_sql(sql: str, params: Any = None, *rest: Any) -> Any:
        told.append((sql, tuple(params or ())))
        return real(sql, params, *rest)

    with patch.context() as within:
        within.setattr(pool, "execute_sql", execute_sql)
        yield told


def a_batch_of_everything(world: World) -> int:
    """Its jobs are in all states, with all kinds of names, attributes, exit codes and times."""
    rng = random.Random(7)
    world.hello("w1", cores=100)
    jobs = [
        Job(
            parents=[i - 16] if i > 48 else [],
            mcpu=rng.choice([250, 1000, 4000]),
            name=NAMES[i % len(NAMES)],
            attributes=ATTRIBUTES[i // 3 % len(ATTRIBUTES)],
            retries=i % 2,
        )
        for i in range(1, 65)
    ]
    batch = world.submit(*jobs)
    world.settle()
    for i in range(1, 33):
        world.pass_time(500)
        code = rng.choice([0, 0, 0, 1, 137])
        reason = EndReason.ERROR if i % 7 == 0 else EndReason.PREEMPTED if i % 5 == 0 else EndReason.COMPLETED
        world.start(world.attempt_of(batch, i), 1)
        world.end(world.attempt_of(batch, i), code, reason, main_ms=rng.randint(1, 30))
        world.settle()
    return batch


def test_jobs_found_are_those_that_match(world: World, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = a_batch_of_everything(world)
    batch = store.batch(batch_id)
    assert batch is not None
    items = [item_of_job(job) for job in store.jobs(batch_id, limit=100)]
    assert len({frozenset(item["state"]) for item in items}) >= 5
    # Both ways of searching, in several slices.
    monkeypatch.setattr(pages, "SLICE", 10)
    n_found: set[int] = set()

    @settings(max_examples=ENOUGH, deadline=None, suppress_health_check=list(HealthCheck))
    @given(queries(for_jobs=True), st.sampled_from([0, 1, 8, 1_000]))
    def holds(text: str, few: int) -> None:
        query = parse_for_jobs(text, world.now)
        expected = [item["id"] for item in items if query.matches(item)]
        monkeypatch.setattr(pages, "FEW", few)
        found = store.search_jobs(batch, query, with_states=True, stop=lambda: False)
        assert list(found.job_ids) == expected, text
        assert [JOB_WORDS[JobState(s)] for s in found.states] == [
            items[i - 1]["state"] for i in found.job_ids
        ]
        assert store.jobs_among(batch_id, query, list(range(1, 65, 2))) == [i for i in expected if i % 2]
        n_found.add(len(expected))

    holds()
    assert len(n_found) > 20


def test_batches_found_are_those_that_match(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "STRETCH", 7)
    world.hello(cores=4)
    for i, name in enumerate(NAMES * 2):
        wanted = CreateBatch(
            ("ann", "bob")[i % 2], f"project {i % 3}", f"r{i}", b"sha", i % 4,
            {"name": name} | ATTRIBUTES[i % len(ATTRIBUTES)],
        )  # fmt: skip
        jobs = [Job() for _ in range(i % 4)]
        bunch = staged(jobs)
        world.now += 700
        batch_id = world.reactor.on_create(
            wanted, world.now, (bunch, bunch.columns()) if jobs and i % 5 else None
        )
        world.settle()
        for attempt in [a for a in world.state.attempts.values() if a.batch_id == batch_id and i % 3]:
            world.end(attempt.attempt_id, i % 2)
            world.settle()
        if i % 11 == 0:
            world.cancel(batch_id)
    world.settle()
    rows = store.batches("ann", limit=100)
    items = {row.batch_id: item_of(row) for row in rows}
    assert len(rows) == len(NAMES) and len({item["state"] for item in items.values()}) >= 4
    n_found: set[int] = set()

    @settings(max_examples=ENOUGH, deadline=None, suppress_health_check=list(HealthCheck))
    @given(queries(for_jobs=False))
    def holds(text: str) -> None:
        query = parse_for_batches(text, world.now)
        expected = [batch_id for batch_id, item in items.items() if query.matches(item)]
        found = store.batches_matching(ANN, query, limit=100, until=float("inf"))
        assert found is not None and [row.batch_id for row in found] == expected, text
        mine, matching = store.batch_ids(ANN, query)
        assert (list(mine)[::-1], list(matching)[::-1]) == (list(items), expected)
        n_found.add(len(expected))

    holds()
    assert len(n_found) > 8


@pytest.mark.parametrize(
    "viewer",
    [
        Viewer("ann"),
        Viewer("ann", frozenset({"p1"})),
        Viewer("bob", frozenset({"p0", "p2"})),
        Viewer("eve"),
        Viewer("eve", admin=True),
    ],
)
def test_whose_batches_are_looked_through(world: World, store: Store, viewer: Viewer) -> None:
    """The viewer's own; where the query asks whose they are, all that they may see."""
    owners: dict[int, tuple[str, str]] = {}
    for i in range(9):
        user, project = ("ann", "bob", "cyd")[i // 3], f"p{i % 3}"
        wanted = CreateBatch(user, project, f"r{i}", b"sha", 0, {"name": f"n{i}"})
        owners[world.reactor.on_create(wanted, world.now, None)] = user, project
    world.settle()
    for text in (
        "",
        "n",
        "user:ann",
        "user:bob,cyd project:p1",
        "-user:cyd",
        "project:p2 OR state:done",
        "user:me",
    ):
        query = parse_for_batches(text, me=viewer.name)
        seen = [
            batch_id
            for batch_id, (user, project) in owners.items()
            if (viewer.sees(user, project) if query.asks_owner else user == viewer.name)
        ]
        items = {
            row.batch_id: item_of(row)
            for user in ("ann", "bob", "cyd")
            for row in store.batches(user, limit=9)
        }
        matching = [batch_id for batch_id in seen if query.matches(items[batch_id])]
        found = store.batches_matching(viewer, query, limit=20, until=float("inf"))
        assert found is not None and [row.batch_id for row in found] == matching[::-1], text
        assert [list(ids) for ids in store.batch_ids(viewer, query)] == [seen, matching]
        assert store.newest_batch_id(viewer, query) == max(seen, default=0)
        visible = [batch_id for batch_id, owner in owners.items() if viewer.sees(*owner)]
        assert [row.batch_id for row in store.batches_of(viewer, owners)] == visible[::-1]


@pytest.mark.parametrize(
    ("query", "n"),
    [
        ("id:3..5", 3),
        ("exit:999", 0),
        ("-exit:999 id<3", 2),
        ("state:pending", None),
        ('name="50% off"', 4),
        ("attr.sample:NA12878 -id>20", None),
        ("(id:1 OR id:2) dur>=0", 2),
    ],
)
def test_the_database_leaves_out_what_it_can(world: World, store: Store, query: str, n: int | None) -> None:
    """Not `matches` alone decides: it would have to look at every row of a large batch."""
    batch_id = a_batch_of_everything(world)
    batch = store.batch(batch_id)
    parsed = parse_for_jobs(query)
    jobs = conditions.of_jobs(parsed, like=store._db.like, with_state=False)
    with store._db.reading() as db:
        rows = list(store._rows_among(db, batch_id, jobs, list(range(1, 65))))
    assert batch is not None
    matching = store.search_jobs(batch, parsed, stop=lambda: False).job_ids
    assert len(rows) == len(matching) == (len(matching) if n is None else n)


def test_no_text_of_a_query_reaches_the_database_as_sql(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = a_batch_of_everything(world)
    batch = store.batch(batch_id)
    assert batch is not None
    hostile = [
        "zqx'; DROP TABLE job; --", 'zqx" OR 1=1 --', "zqx%", "zqx_", "zqx\\", "zqx?", "%s zqx %(a)s",
        "zqx$1", "zqx\u2028\N{FULLWIDTH APOSTROPHE}", "zqx)) UNION SELECT * FROM user_token", ":zqx", "{zqx}",
    ]  # fmt: skip
    shapes = ["{}", "-{}", "name:{}", "name={}", "reason!={}", "attr.{}={}", "attr.a:{}", "(zqq OR name={})"]
    shapes_of_batches = ["user={}", "project:{}", "-user:{}"]
    statements: set[str] = set()
    with spied(store, monkeypatch) as told:
        for text in hostile:
            for shape in shapes:
                query = parse_for_jobs(shape.replace("{}", quoted(text)))
                assert list(store.search_jobs(batch, query, stop=lambda: False).job_ids) in (
                    [],
                    [*range(1, 65)],
                )
            for shape in shapes + shapes_of_batches:
                if "reason" not in shape:
                    of_batches = parse_for_batches(shape.replace("{}", quoted(text)))
                    store.batches_matching(ANN, of_batches, limit=5, until=float("inf"))
                    store.batch_ids(ANN, of_batches)
        n_random = 0
        rng = random.Random(3)
        for _ in range(300):
            text = " ".join(rng.choice(shapes[:4]).format(quoted(rng.choice(hostile))) for _ in range(3))
            try:
                store.search_jobs(batch, parse_for_jobs(text), stop=lambda: False)
                n_random += 1
            except QueryError:
                pass
    statements = {sql for sql, _ in told}
    assert n_random == 300
    assert any("zqx" in str(value) for _, values in told for value in values)
    assert not [
        sql for sql in statements if "zqx" in sql or "DROP" in sql or "UNION SELECT *" in sql or "OR 1" in sql
    ]
    assert len(statements) < 60, "what a query says makes no other statement, but for its shape"
    assert len(store.jobs(batch_id, limit=100)) == 64


def test_a_search_that_takes_too_long_says_how_far_it_came(world: World, store: Store) -> None:
    batch_id = a_batch_of_everything(world)
    batch = store.batch(batch_id)
    assert batch is not None
    asked = iter([False] * 2 + [True] * 100)
    found = store.search_jobs(batch, parse_for_jobs('name=~"."'), stop=lambda: next(asked))
    assert found.searched_to == 2 * pages.LOOKS - 1
    assert all(job_id <= found.searched_to for job_id in found.job_ids)


@pytest.mark.parametrize(
    "query", ["", "align", "state:ready,running", "exit:1 OR -exit:1", "cost>=0 -name:zzz"]
)
def test_pages_of_jobs_stay_what_they_are_while_others_come(world: World, store: Store, query: str) -> None:
    """Between two pages batches are made and jobs change: none that was there all the time is missed or told
    twice."""
    batch_id = world.submit(*[Job(name=f"align-{i}") for i in range(1, 21)])
    world.settle()
    parsed, seen = parse_for_jobs(query), list[int]()
    while True:
        batch = store.batch(batch_id)
        assert batch is not None
        if parsed.asks_states_alone:
            some = store.jobs(
                batch_id, after_job_id=seen[-1] if seen else 0, limit=3, states=parsed.job_states
            )
            page = [job.row.job_id for job in some]
        else:
            after = seen[-1] if seen else 0
            page = list(
                store.search_jobs(batch, parsed, after_job_id=after, limit=3, stop=lambda: False).job_ids[:3]
            )
        if not page:
            break
        seen += page
        world.submit(Job(name="align-new"), Job())
        world.settle()
        if len(seen) == 6:
            world.hello(cores=2)
            world.settle()
    assert seen == list(range(1, 21))


@pytest.mark.parametrize("query", ["", "request", "state:running", "created>2020-01-01", 'name=~"quest"'])
def test_pages_of_batches_stay_what_they_are_while_others_come(
    world: World, store: Store, query: str
) -> None:
    there = [world.submit(Job()) for _ in range(11)]
    world.settle()
    parsed, seen = parse_for_batches(query, LATER), list[int]()
    while True:
        before = seen[-1] if seen else None
        page = store.batches_matching(ANN, parsed, before_id=before, limit=3, until=float("inf"))
        assert page is not None
        if not page:
            break
        seen += [row.batch_id for row in page]
        world.submit(Job())
        world.settle()
    assert seen == there[::-1]


def test_a_list_of_batches_that_takes_too_long_is_none(world: World, store: Store) -> None:
    world.submit()
    world.settle()
    far = store.batches_matching(ANN, parse_for_batches("x"), before_id=2**62, limit=1, until=float("inf"))
    assert far is not None  # Without a look at all the ids that there are not.
    assert store.batches_matching(ANN, parse_for_batches("x"), limit=1, until=0.0) is None


def test_failures_of_before_they_were_counted_are_counted_once(world: World, store: Store) -> None:
    """The migration comes to what commits would have."""
    batch_id = a_batch_of_everything(world)
    counted = store.failures(batch_id, 100)
    assert len(counted) >= 3 and sum(tally.n for _, tally in counted) == world.batch(batch_id).n_failed
    migration = import_module("longshore_controller.store.migrations.0011_failure_group")
    with store._db.committing() as db:
        store._db.execute(db, "DROP TABLE failure_group")
        migration.up(None, db)
    assert store.failures(batch_id, 100) == counted
    world.check()
