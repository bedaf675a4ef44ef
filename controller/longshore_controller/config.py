"""Every tunable of the controller, its unit, and what happens when it runs out.

Read from a TOML file, then from the environment (``LONGSHORE_CONTROLLER_<SECTION>_<KEY>``, which wins),
and checked as a whole: `ConfigError` lists all that is wrong, each with the path of its key.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

ENVIRONMENT = "LONGSHORE_CONTROLLER_"
LARGEST = 2**31 - 1
"""Of all numbers: some travel in 32 bits. In ms these are 24 days."""


class ConfigError(Exception):
    """The configuration cannot be used. ``problems``: one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Server:
    listen: str = "127.0.0.1:0"
    """HOST:PORT or unix:/PATH. Port 0: a free one. Without TLS only within this machine."""
    tls_cert: str = ""
    """Certificate chain, PEM; with tls_key all is said by TLS. Both are read again when they change."""
    tls_key: str = ""
    """Its key, PEM."""
    endpoint_file: str = ""
    """Written when it listens: where. Removed at the end. Empty: not written."""
    log_format: str = "plain"
    """Of the lines on stderr: plain or json."""
    grace_ms: int = 1_000
    """At the end calls have so long to finish; then they are cut off."""


@dataclass(frozen=True, slots=True)
class Database:
    url: str = "sqlite:////var/lib/longshore/longshore.db"
    """sqlite:///ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE."""
    keep_events_ms: int = 86_400_000
    """Followers that come back within this time miss nothing; later ones take a snapshot."""


@dataclass(frozen=True, slots=True)
class StoreFolder:
    folder: str = "/var/lib/longshore/store"
    """Files of jobs lie below it; paths elsewhere are refused at submission."""
    remote_tmpdir: str = ""
    """Where clients put intermediate files; empty: <folder>/tmp."""
    logs: str = "/var/lib/longshore/logs"
    """Logs of containers. Full: workers keep theirs and push again."""


@dataclass(frozen=True, slots=True)
class Service:
    embedded: bool = False
    """One machine, one user: billing projects are made on first use."""
    owner: str = ""
    """A user who exists from the start; empty: nobody."""
    owner_token_file: str = ""
    """His token: read, or made when it is missing, for him alone to read."""
    activation_token_file: str = ""
    """A worker's one-time token, made anew when it was used; empty: no worker can join."""
    notices: list[str] = field(default_factory=list)
    """What users should know, e.g. that jobs are not isolated."""
    private_callbacks: bool = False
    """Batches may call back addresses of this machine and of private networks."""


@dataclass(frozen=True, slots=True)
class Login:
    issuer: str = ""
    """Of the OpenID provider, e.g. https://accounts.google.com; empty: tokens are given by hand."""
    client_id: str = ""
    """Of the browser's login, as the provider gave it."""
    client_secret_file: str = ""
    """Its secret; empty: it has none."""
    device_client_id: str = ""
    """Of the login on another device, where that is another one; empty: the same."""
    device_client_secret_file: str = ""
    domains: list[str] = field(default_factory=list)
    """Whoever's account is one of these organisations' needs no invitation."""


@dataclass(frozen=True, slots=True)
class Workers:
    heartbeat_ms: int = 5_000
    """How often a worker says what it holds."""
    lease_ms: int = 30_000
    """A worker that was not answered for so long stops its containers."""
    grace_ms: int = 10_000
    """A worker not heard for lease and grace is lost: its jobs are given to others."""
    largest_mcpu: int = 16_000
    """The largest worker there will be: jobs that reserve more are refused at submission."""


@dataclass(frozen=True, slots=True)
class Config:
    server: Server = field(default_factory=Server)
    database: Database = field(default_factory=Database)
    store: StoreFolder = field(default_factory=StoreFolder)
    service: Service = field(default_factory=Service)
    login: Login = field(default_factory=Login)
    workers: Workers = field(default_factory=Workers)

    @property
    def remote_tmpdir(self) -> str:
        return self.store.remote_tmpdir or self.store.folder.rstrip("/") + "/tmp"


def load(file: Path | None, environment: Mapping[str, str]) -> Config:
    """The resolved configuration. ConfigError."""
    problems: list[str] = []
    given = _read(file) if file else {}
    sections = {f.name: get_type_hints(Config)[f.name] for f in fields(Config)}
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for section, keys in given.items():
        if section not in sections:
            problems.append(f"{section}: no such section{_meant(section, sections)}")
        elif not isinstance(keys, dict):
            problems.append(f"{section}: a section, written as [{section}], got {keys!r}")
        else:
            values[section] |= keys
    for section, key, text in _from_environment(environment, sections, problems):
        values[section][key] = text
    parts = {name: _section(name, kind, values[name], problems) for name, kind in sections.items()}
    if problems:
        raise ConfigError(problems)
    config = Config(**parts)
    if problems := list(_contradictions(config)):
        raise ConfigError(problems)
    return config


def show(config: Config) -> str:
    """As TOML, with every key and no secret."""
    lines: list[str] = []
    for section in fields(config):
        lines += ["", f"[{section.name}]"] if lines else [f"[{section.name}]"]
        part = getattr(config, section.name)
        for key in fields(part):
            value = getattr(part, key.name)
            if section.name == "database" and key.name == "url":
                value = _without_password(value)
            lines.append(f"{key.name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)


def is_local(listen: str) -> bool:
    """Nobody outside this machine can connect to it."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# -- pieces ------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: is not TOML: {error}"]) from None


def _from_environment(
    environment: Mapping[str, str], sections: Mapping[str, type], problems: list[str]
) -> Iterator[tuple[str, str, Any]]:
    known = {
        f"{ENVIRONMENT}{section}_{key.name}".upper(): (section, key.name)
        for section, kind in sections.items()
        for key in fields(kind)
    }
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT):
            continue
        if name not in known:
            problems.append(f"{name}: no such key{_meant(name, known)}")
            continue
        section, key = known[name]
        kind = get_type_hints(sections[section])[key]
        try:
            yield section, key, text if kind is str else tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            problems.append(f"{name}: {_EXPECTED[kind]}, got {text!r}")


_EXPECTED: dict[Any, str] = {
    str: "a string",
    int: f"a whole number from 0 to {LARGEST}",
    bool: "true or false",
    list[str]: 'a list of strings, e.g. ["a", "b"]',
}


def _section(name: str, kind: Any, values: dict[str, Any], problems: list[str]) -> Any:
    types = get_type_hints(kind)
    good: dict[str, Any] = {}
    for key, value in values.items():
        if key not in types:
            problems.append(f"{name}.{key}: no such key{_meant(key, types)}")
        elif not _is(value, types[key]):
            problems.append(f"{name}.{key}: {_EXPECTED[types[key]]}, got {value!r}")
        else:
            good[key] = value
    return kind(**good)


def _is(value: object, kind: Any) -> bool:
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST
    return type(value) is kind


def _meant(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _contradictions(config: Config) -> Iterator[str]:
    """Each value alone has the right type; whether it can be used, and with the others."""
    yield from _listening(config.server)
    url = config.database.url
    if not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
        yield (
            f"database.url: sqlite:///ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE, "
            f"got {_without_password(url)!r}"
        )
    for name in ("folder", "remote_tmpdir", "logs"):
        path = getattr(config.store, name)
        if (path or name != "remote_tmpdir") and (not path.startswith("/") or ".." in path.split("/")):
            yield f"store.{name}: an absolute path without '..', got {path!r}"
    if not (config.remote_tmpdir + "/").startswith(config.store.folder.rstrip("/") + "/"):
        folder = config.store.folder
        yield f"store.remote_tmpdir: a path in store.folder {folder}, got {config.remote_tmpdir!r}"
    service = config.service
    if service.owner and not service.owner_token_file:
        yield "service.owner_token_file: required with service.owner, or the owner could not log in"
    if service.embedded and not service.owner:
        yield "service.owner: required with service.embedded, which serves its owner"
    login = config.login
    if login.issuer and not _ISSUER.fullmatch(login.issuer):
        yield f"login.issuer: https://..., as the provider writes it, got {login.issuer!r}"
    if bool(login.issuer) != bool(login.client_id):
        yield "login.client_id: required with login.issuer, and of no use without it"
    if login.domains and not login.issuer:
        yield "login.domains: of no use without login.issuer"
    workers = config.workers
    for name in ("heartbeat_ms", "lease_ms", "largest_mcpu"):
        if not getattr(workers, name):
            yield f"workers.{name}: more than 0, got 0"
    if workers.lease_ms < 2 * workers.heartbeat_ms:
        yield (
            f"workers.lease_ms: at least two heartbeats, that is {2 * workers.heartbeat_ms}, "
            f"got {workers.lease_ms}: one lost message would cost a worker its jobs"
        )


_ISSUER = re.compile(r"https://[^/\s?#]+[^\s?#]*|http://(127\.0\.0\.1|localhost)(:\d+)?")


def _listening(server: Server) -> Iterator[str]:
    listen = server.listen
    if listen.startswith("unix:"):
        if not listen.startswith("unix:/"):
            yield f"server.listen: unix:/ABSOLUTE/PATH, got {listen!r}"
    elif not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):\d{1,5}", listen):
        yield f"server.listen: HOST:PORT or unix:/PATH, got {listen!r}"
    elif int(listen.rpartition(":")[2]) > 65_535:
        yield f"server.listen: a port from 0 to 65535, got {listen!r}"
    elif not is_local(listen) and not server.tls_cert:
        yield (
            f"server.listen: only this machine (127.0.0.1:PORT, [::1]:PORT or unix:/PATH), got {listen!r}: "
            "tokens and files would cross the network in the clear; set server.tls_cert and server.tls_key"
        )
    if bool(server.tls_cert) != bool(server.tls_key):
        yield "server.tls_key: required with server.tls_cert, and of no use without it"
    if server.log_format not in ("plain", "json"):
        yield f"server.log_format: plain or json, got {server.log_format!r}"
    if server.endpoint_file and not os.path.isabs(server.endpoint_file):
        yield f"server.endpoint_file: an absolute path, got {server.endpoint_file!r}"


def _without_password(url: str) -> str:
    url = re.sub(r"(?<=://)([^:/@]*):[^@]*@", r"\1:…@", url)
    return re.sub(r"(password=)[^&]*", r"\1…", url)
