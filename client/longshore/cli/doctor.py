"""`longshore doctor`: whether everything is there that is needed, and what to do where it is not."""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from urllib.parse import urlsplit

import click

from .. import __version__
from ..discovery import find_service
from ..errors import AuthError, BatchError
from ..profiles import setting
from ..status import Record, Session
from ..terminal import clean
from .connection import connect
from .exits import exit_code_of
from .formats import output_option, write_one
from .output import Look

_PATIENCE_S = 3.0
_SKEW_S = 30.0
"""More than this between two clocks makes ages and dates on the screen wrong."""
_MARKS = {"ok": ("✓", "+", "green"), "note": ("·", ".", "yellow"), "bad": ("✗", "x", "red")}


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One thing that was looked at."""

    what: str
    how: str
    """``ok``, ``note`` (it works, but) or ``bad``."""
    found: str
    to_do: str = ""


@click.command("doctor", epilog="Examples: longshore doctor · longshore --profile prod doctor")
@output_option
def command(output: str) -> int:
    """Check endpoint, versions, token, Docker and clock, and say what to do about each.

    Exit code 0 when the service can be used; else that of the first error, e.g. 4 (not logged in) or 7
    (it does not answer).
    """
    findings, code = [], 0
    for finding, finding_code in _look():
        findings.append(finding)
        code = code or finding_code
        if output == "table":
            _show(finding)
    if output != "table":
        write_one("findings", findings, output)
    return code


def _show(finding: Finding) -> None:
    look = Look.of(sys.stdout)
    symbol, in_ascii, colour = _MARKS[finding.how]
    mark = look.paint(symbol if look.symbols else in_ascii, colour) if look.tty else f"{finding.how:<4}"
    click.echo(f"{mark} {finding.what:<10} {clean(finding.found)}", color=True)
    if finding.to_do:
        click.echo(f"  {'':<10} {'->' if not look.symbols else '→'} {clean(finding.to_do)}", color=True)


def _look() -> Iterator[tuple[Finding, int]]:
    """Each finding, and the exit code that it asks for."""
    yield Finding("longshore", "ok", f"{__version__}, Python {sys.version.split()[0]}"), 0
    session = None
    try:
        address = find_service()
        chosen = setting("endpoint")
        origin = chosen.origin if chosen and not address.file else str(address.file)
        yield Finding("endpoint", "ok", f"{address.endpoint}, from {origin}"), 0
        with connect(_PATIENCE_S) as client:
            before = datetime.now(UTC)
            session = client.session()
            after = datetime.now(UTC)
    except AuthError as error:
        yield Finding("token", "bad", error.message, error.hint), exit_code_of(error)
    except BatchError as error:
        yield Finding("service", "bad", error.message, error.hint), exit_code_of(error)
    if session:
        yield _version(session), 0
        yield Finding("token", "ok", f"you are {session.user}"), 0
        for notice in session.notices:
            yield Finding("notice", "note", notice), 0
        if session.now:
            yield _clock(session.now, before, after), 0
    yield _docker(needed=session is None or session.embedded), 0
    yield _dashboard(), 0


def _version(session: Session) -> Finding:
    if session.version == __version__ or not session.version[:1].isdigit():  # It runs from a folder.
        return Finding("service", "ok", f"answers, version {session.version}")
    return Finding(
        "service", "note", f"answers, version {session.version}; this program is {__version__}",
        "use the same version of both if something does not work: pip install longshore=="
        + session.version,
    )  # fmt: skip


def _clock(theirs: datetime, before: datetime, after: datetime) -> Finding:
    late = max((before - theirs).total_seconds(), 0.0)
    early = max((theirs - after).total_seconds(), 0.0)
    if max(late, early) <= _SKEW_S:
        return Finding("clock", "ok", f"agrees with the service's to {_SKEW_S:g} s")
    what = f"{late:,.0f} s ahead of" if late else f"{early:,.0f} s behind"
    return Finding(
        "clock", "note", f"this machine's is {what} the service's: ages are shown wrong",
        "set the clock, e.g. sudo timedatectl set-ntp true",
    )  # fmt: skip


def _docker(*, needed: bool) -> Finding:
    if not needed:
        return Finding("Docker", "ok", "not needed here: the service runs elsewhere")
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        version = _engine_version(where)
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = "start the engine, e.g. sudo systemctl start docker, or set DOCKER_HOST"
        if isinstance(error, PermissionError):
            what = "let your user in: sudo usermod -aG docker $USER, then log in again"
        return Finding(
            "Docker", "note", f"no engine answers at {where}: {why}; `longshore up` runs plain processes",
            f"{what}; jobs run without it, but are not isolated",
        )  # fmt: skip
    return Finding("Docker", "ok", f"engine with API {version} at {where}")


def _engine_version(where: str) -> str:
    """The version of the API of the engine there. Raises OSError, ValueError, HTTPException."""
    url = urlsplit(where)
    if url.scheme == "unix":
        connection = http.client.HTTPConnection("localhost", timeout=_PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_PATIENCE_S)
    elif url.scheme in ("tcp", "http") and url.hostname:
        connection = http.client.HTTPConnection(url.hostname, url.port or 2375, timeout=_PATIENCE_S)
    else:
        raise ValueError("this kind of address cannot be looked at from here")
    try:
        if url.scheme == "unix":
            connection.sock.connect(url.path)
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("API-Version") or "unknown"
    finally:
        connection.close()


def _dashboard() -> Finding:
    if find_spec("textual"):
        return Finding("dashboard", "ok", "installed")
    return Finding("dashboard", "note", "not installed", "pip install 'longshore[tui]'")
