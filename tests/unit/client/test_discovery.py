"""Where a service is found, and that a token goes nowhere else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from longshore import AuthError, Unavailable, UsageError
from longshore.discovery import ServiceAddress, find_service, home_folder, write_service_file

HERE = ServiceAddress("127.0.0.1:5300", "local-token")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which `longshore up` runs."""
    write_service_file(tmp_path, HERE, os.getpid())
    return {"LONGSHORE_HOME": str(tmp_path)}


def test_without_anything_it_is_the_service_of_this_machine(home: dict[str, str]) -> None:
    assert find_service(environ=home) == HERE


def test_the_environment_goes_before_the_file_and_arguments_before_both(home: dict[str, str]) -> None:
    environ = {**home, "LONGSHORE_ENDPOINT": "there:1", "LONGSHORE_TOKEN": "t"}
    assert find_service(environ=environ) == ServiceAddress("there:1", "t")
    assert find_service("else:2", "u", environ) == ServiceAddress("else:2", "u")


def test_a_token_can_stand_in_a_file(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    environ = {"LONGSHORE_ENDPOINT": "there:1", "LONGSHORE_TOKEN_FILE": str(tmp_path / "token")}
    assert find_service(environ=environ).token == "secret"
    with pytest.raises(AuthError, match="LONGSHORE_TOKEN_FILE=/nowhere cannot be read"):
        find_service(environ={**environ, "LONGSHORE_TOKEN_FILE": "/nowhere"})


def test_the_local_token_is_sent_to_the_local_service_only(home: dict[str, str]) -> None:
    assert find_service(HERE.endpoint, environ=home) == HERE
    with pytest.raises(AuthError, match="no token for the service at evil:1"):
        find_service("evil:1", environ=home)


def test_no_service_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="`longshore up`"):
        find_service(environ={"LONGSHORE_HOME": str(tmp_path)})


def test_a_service_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    write_service_file(tmp_path, HERE, process.pid)
    with pytest.raises(Unavailable, match="has ended"):
        find_service(environ={"LONGSHORE_HOME": str(tmp_path)})


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"endpoint": "x"}', "\udcff"])
def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "service.json").write_text(content, errors="surrogateescape")
    with pytest.raises(Unavailable, match="service.json does not say where"):
        find_service(environ={"LONGSHORE_HOME": str(tmp_path)})


def test_the_file_is_its_owners_alone_and_can_be_replaced(tmp_path: Path) -> None:
    for token in ("one", "two"):
        file = write_service_file(tmp_path, ServiceAddress("127.0.0.1:1", token), os.getpid())
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_service(environ={"LONGSHORE_HOME": str(tmp_path)}).token == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["service.json"]


@pytest.mark.parametrize("endpoint", ["nonsense", "http://x:1", "x:", ":1", "x:y"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="host:port"):
        find_service(endpoint, "t", {})


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:///run/x", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("batch.example.org:443", False),
    ],
)
def test_only_what_never_leaves_the_machine_goes_unencrypted(endpoint: str, local: bool) -> None:
    assert ServiceAddress(endpoint, "t").is_local is local


def test_a_token_is_not_in_the_repr() -> None:
    assert "local-token" not in repr(HERE)


def test_the_folder_of_up_follows_the_environment() -> None:
    assert home_folder({"LONGSHORE_HOME": "/x"}) == Path("/x")
    assert home_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/longshore/up")
    assert home_folder({}) == Path.home() / ".local/state/longshore/up"
