"""The tests' own database servers behave as the tests that use them rely on."""

from __future__ import annotations

import postgres
import psycopg


def test_two_databases_do_not_see_each_other(postgres_server: postgres.Cluster) -> None:
    one, two = postgres_server.new_database(), postgres_server.new_database()
    with psycopg.connect(one) as connection:
        connection.execute("CREATE TABLE cargo (id int)")
    with psycopg.connect(two) as connection:
        assert connection.execute("SELECT to_regclass('cargo')").fetchone() == (None,)


def test_what_was_committed_outlives_a_crash_of_the_server(postgres_of_its_own: postgres.Cluster) -> None:
    url = postgres_of_its_own.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        connection.execute("CREATE TABLE cargo (id int)")
        connection.execute("INSERT INTO cargo VALUES (7)")
        postgres_of_its_own.stop_at_once()
    postgres_of_its_own.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT id FROM cargo").fetchone() == (7,)
