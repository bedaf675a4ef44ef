"""The configuration is checked as a whole, and each reason names its key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from longshore_controller.__main__ import main
from longshore_controller.config import Config, ConfigError, load, show

PREFIX = "LONGSHORE_CONTROLLER_"


def configured(tmp_path: Path, toml: str = "", **environment: str) -> Config:
    file = tmp_path / "controller.toml"
    file.write_text(toml)
    return load(file, {f"{PREFIX}{name}": value for name, value in environment.items()})


def problems(tmp_path: Path, toml: str = "", **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        configured(tmp_path, toml, **environment)
    return wrong.value.problems


def test_without_a_word_there_are_defaults() -> None:
    config = load(None, {"PATH": "/bin"})
    assert config == Config()
    assert config.remote_tmpdir == "/var/lib/longshore/store/tmp"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    toml = '[workers]\nlease_ms = 20000\n[service]\nnotices = ["a"]\n[server]\nlisten = "127.0.0.1:1"'
    config = configured(
        tmp_path, toml, WORKERS_LEASE_MS="40000", SERVICE_NOTICES='["b", "c"]', SERVER_LISTEN="[::1]:0"
    )
    assert config.workers.lease_ms == 40_000
    assert config.service.notices == ["b", "c"]
    assert config.server.listen == "[::1]:0"


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[workers]\nleese_ms = 1", "workers.leese_ms: no such key; did you mean lease_ms?"),
        ("[wokers]\nlease_ms = 1", "wokers: no such section; did you mean workers?"),
        ("[zzz]", "zzz: no such section; there are server, database, store, service, login, workers"),
        ("workers = 5", "workers: a section, written as [workers], got 5"),
        ('[workers]\nlease_ms = "30"', "workers.lease_ms: a whole number from 0 to 2147483647, got '30'"),
        ("[workers]\nlease_ms = -1", "workers.lease_ms: a whole number from 0 to 2147483647, got -1"),
        ("[workers]\nlease_ms = true", "workers.lease_ms: a whole number from 0 to 2147483647, got True"),
        ("[service]\nembedded = 1", "service.embedded: true or false, got 1"),
        ("[service]\nnotices = [1]", 'service.notices: a list of strings, e.g. ["a", "b"], got [1]'),
        ("[workers]\nheartbeat_ms = 20000", "workers.lease_ms: at least two heartbeats, that is 40000, got"),
        ("[workers]\nlargest_mcpu = 0", "workers.largest_mcpu: more than 0, got 0"),
        ('[service]\nowner = "ada"', "service.owner_token_file: required with service.owner"),
        ("[service]\nembedded = true", "service.owner: required with service.embedded"),
        ('[database]\nurl = "mysql://x"', "database.url: sqlite:///ABSOLUTE/PATH or postgresql://"),
        ('[store]\nfolder = "x"', "store.folder: an absolute path without '..', got 'x'"),
        ('[store]\nlogs = "/a/../b"', "store.logs: an absolute path without '..', got '/a/../b'"),
        ('[store]\nremote_tmpdir = "/tmp"', "store.remote_tmpdir: a path in store.folder /var/lib"),
        ('[server]\nlisten = "0.0.0.0:80"', "server.listen: only this machine (127.0.0.1:PORT"),
        ('[server]\nlisten = "example.org:80"', "server.listen: only this machine"),
        ('[server]\nlisten = "[::]:80"', "server.listen: only this machine"),
        ('[server]\nlisten = "localhost"', "server.listen: HOST:PORT or unix:/PATH, got 'localhost'"),
        ('[server]\nlisten = "127.0.0.1:65536"', "server.listen: a port from 0 to 65535, got"),
        ("[workers]\nlease_ms = 2147483648", "workers.lease_ms: a whole number from 0 to 2147483647, got"),
        ('[server]\nlisten = "unix:x"', "server.listen: unix:/ABSOLUTE/PATH, got 'unix:x'"),
        ('[server]\nlog_format = "xml"', "server.log_format: plain or json, got 'xml'"),
        ('[server]\nendpoint_file = "x"', "server.endpoint_file: an absolute path, got 'x'"),
    ],
)
def test_what_cannot_be_is_named_by_its_path(tmp_path: Path, toml: str, problem: str) -> None:
    found = problems(tmp_path, toml)
    assert any(p.startswith(problem) for p in found), found


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "[workers]\nlease = 1\nlease_ms = -1", DATABASE_ULR="x")) == 3


def test_a_wrong_variable_is_named_as_it_was_given(tmp_path: Path) -> None:
    assert problems(tmp_path, WORKERS_LEESE_MS="1") == [
        f"{PREFIX}WORKERS_LEESE_MS: no such key; did you mean {PREFIX}WORKERS_LEASE_MS?"
    ]
    (problem,) = problems(tmp_path, WORKERS_LEASE_MS="soon")
    assert problem == f"{PREFIX}WORKERS_LEASE_MS: a whole number from 0 to 2147483647, got 'soon'"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        load(tmp_path / "missing.toml", {})
    assert "is not TOML" in problems(tmp_path, "[workers")[0]


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.8.9.1:1", "localhost:5", "[::1]:7", "unix:/run/l.sock"]
)
def test_listening_within_the_machine_needs_no_tls(tmp_path: Path, listen: str) -> None:
    assert configured(tmp_path, SERVER_LISTEN=listen).server.listen == listen


def test_what_is_shown_is_the_configuration_without_its_password(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        DATABASE_URL="postgresql://ada:hunter2@db/x?password=hunter2",
        SERVICE_OWNER="ada",
        SERVICE_OWNER_TOKEN_FILE="/t",
        SERVICE_NOTICES='["\\"quoted\\" – ä"]',
    )
    shown = show(config)
    assert "hunter2" not in shown
    again = tomllib.loads(shown)
    assert again["service"]["notices"] == ['"quoted" – ä']
    assert again["workers"] == {
        "heartbeat_ms": 5000, "lease_ms": 30_000, "grace_ms": 10_000, "largest_mcpu": 16_000
    }  # fmt: skip
    del again["database"]["url"]
    assert again.keys() == {"server", "database", "store", "service", "login", "workers"}


def test_checking_prints_what_holds_and_exits_with_0_or_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:7"')
    assert main(["--config", str(file), "--check-config"]) == 0
    assert 'listen = "127.0.0.1:7"' in capsys.readouterr().out
    file.write_text('[server]\nlisten = "0.0.0.0:7"\n[workers]\nx = 1')
    assert main(["--config", str(file), "--check-config"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["workers.x"]
