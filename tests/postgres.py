"""PostgreSQL servers for tests: made in a second, on a socket in a folder of their own, gone at the end."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

SUPERUSER = "longshore"


class PostgresMissing(Exception):
    """PostgreSQL's programs are not on this machine."""


class Cluster:
    """One PostgreSQL server. It listens on no network port, so servers never get in each other's way."""

    def __init__(self, programs: Path, folder: Path, *, durable: bool) -> None:
        self._programs = programs
        self._folder = folder
        # The server refuses to be root; the package made this user for it.
        self._become: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            self._become = ["setpriv", *ids, "--clear-groups"]
        options = ["-N"] if not durable else []
        self._do("initdb", "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C", *options)
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{folder}'",
            "max_connections": "50",
        }
        if not durable:
            settings |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        self._names = (f"test_{i}" for i in itertools.count(1))

    def start(self) -> None:
        """The server answers. After `stop_at_once` it has first recovered from its log."""
        self._do("pg_ctl", "start", "--wait", "--timeout=60", f"--log={self._folder / 'log'}")

    def stop(self) -> None:
        """The server has ended in good order; clients were cut off."""
        self._do("pg_ctl", "stop", "--wait", "--mode=fast")

    def stop_at_once(self) -> None:
        """The server is gone as in a crash: nothing was written that was not in its log already."""
        self._do("pg_ctl", "stop", "--wait", "--mode=immediate")

    def new_database(self) -> str:
        """The URL of an empty database that nobody else uses; takes some 20 ms."""
        name = next(self._names)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self._folder}"

    def _do(self, program: str, *arguments: str) -> None:
        # A server would hold a pipe open for as long as it lives; a file it may keep. `setpriv` rather than
        # `user=`, for which Python would fork, and a fork of a process that uses gRPC may crash.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self._become, self._programs / program, "-D", self._folder / "data", *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} {' '.join(arguments)} failed: {output.read().decode()}")


@contextmanager
def cluster(*, durable: bool = False) -> Iterator[Cluster]:
    """A running server in a folder of its own, both gone afterwards. PostgresMissing without programs.

    ``durable`` is for tests that stop it at once: it then syncs what it commits, which it else skips
    for speed, since no other test outlives a power cut.
    """
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="longshore-pg-"))
    try:
        server = Cluster(programs, folder, durable=durable)
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Where initdb is: on the PATH, or where Debian puts it, the newest first."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "initdb").exists()]
    if not versions:
        raise PostgresMissing("PostgreSQL's initdb is not here: run setup/postgres.sh as root")
    return max(versions, key=lambda p: int(p.parent.name))
