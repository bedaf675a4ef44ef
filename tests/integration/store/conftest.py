"""Each test of the store runs on SQLite and on Postgres: one contract, two databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from longshore_controller.store import Store
from world import World, new_store

OpenStore = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/longshore.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def open_another(url: str) -> Iterator[OpenStore]:
    """Makes stores of that database, as further processes would; closes them at the end."""
    made: list[Store] = []

    def make() -> Store:
        made.append(new_store(url))
        made[-1].open()
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(open_another: OpenStore) -> Store:
    return open_another()


@pytest.fixture
def world(store: Store) -> World:
    """A cluster whose steps are committed."""
    return World(store)
