"""One leader at a time: by the lock, and, where that is not enough, by the epoch in every commit."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psycopg
import pytest
from longshore_controller.store import EpochLost, Store, StoreInUse, StoreUnavailable
from world import Job, World, new_store, open_store


def test_a_second_opener_is_refused_and_told_who_leads(url: str, store: Store) -> None:
    with pytest.raises(StoreInUse, match=f"process {os.getpid()} on {socket.gethostname()}"):
        open_store(url)
    store.close()
    second = open_store(url)
    assert second.epoch == store.epoch + 1
    second.close()


def test_what_one_leader_committed_the_next_one_loads(url: str, world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job(), Job(parents=[1]))
    world.settle()
    world.end(world.attempt_of(batch, 1))
    world.settle()
    store.close()
    second = open_store(url)
    state, seq = second.load()
    assert state == world.state
    assert seq == world.seq
    second.close()


def test_who_lost_the_epoch_commits_nothing_and_cannot_come_back(world: World, store: Store) -> None:
    world.submit()
    world.settle()
    _raise_epoch(store)
    world.create()
    with pytest.raises(EpochLost):
        world.step()
    assert [b.batch_id for b in store.batches("ann", limit=10)] == [1]
    assert store.events_after(world.seq, 10) == []
    with pytest.raises(EpochLost):
        store.load()


def test_who_lost_the_epoch_is_told_so_though_it_commits_nothing(store: Store) -> None:
    store.load()
    store.confirm()
    _raise_epoch(store)
    with pytest.raises(EpochLost):
        store.confirm()


def _raise_epoch(store: Store) -> None:
    """As another leader would, if the lock let two in."""
    with store._db.writing() as db:
        store._db.execute(db, "UPDATE leader SET epoch = epoch + 1")


def test_a_lost_connection_is_made_again_with_the_lock(postgres_url: str) -> None:
    store = open_store(postgres_url)
    world = World(store)
    world.submit()
    world.settle()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    world.create()
    with pytest.raises(StoreUnavailable):
        world.step()
    world.reload()
    world.submit()
    world.settle()
    world.check()
    with pytest.raises(StoreInUse):
        open_store(postgres_url)
    store.close()


def test_whoever_takes_the_lock_while_the_connection_is_lost_leads(postgres_url: str) -> None:
    first = open_store(postgres_url)
    world = World(first)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    second = open_store(postgres_url)
    world.create()
    with pytest.raises(StoreUnavailable):
        world.step()
    with pytest.raises(EpochLost):
        first.load()
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://x", "begins with 'mysql': expected sqlite:///ABSOLUTE/PATH or postgresql://"),
        ("sqlite://relative/path", "expected sqlite:///ABSOLUTE/PATH"),
        ("postgresql://user:secret@host/", "names no database"),
        ("postgresql://user:secret@host/db?colour=red", "colour"),
    ],
)
def test_a_url_that_names_no_database_is_refused_without_telling_its_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        new_store(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/missing/x.db"):
        open_store(f"sqlite://{tmp_path}/missing/x.db")
    with pytest.raises(StoreUnavailable, match="Postgres database nowhere") as refused:
        open_store(f"postgresql://user:secret@/nowhere?host={tmp_path}")
    assert "secret" not in str(refused.value)
