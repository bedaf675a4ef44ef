"""Each exit code that scripts may rely on, for each way to it."""

from __future__ import annotations

import json

import pytest
from command_line import Run
from fakes_service import TOKEN, FakeService
from longshore import Client, errors
from longshore.cli.exits import exit_code_of, tell

ERRORS = [
    (errors.BatchError("x"), 1),
    (errors.UsageError("x"), 2),
    (errors.WrongType("x"), 2),
    (errors.NotFound("x"), 3),
    (errors.AuthError("x"), 4),
    (errors.PermissionDenied("x"), 5),
    (errors.Conflict("x"), 6),
    (errors.Unavailable("x"), 7),
    (errors.QuotaExceeded("x"), 8),
    (errors.WaitTimeout("x"), 124),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_each_kind_of_error_has_its_code(error: errors.BatchError, code: int) -> None:
    assert exit_code_of(error) == tell(error, []) == code


def test_what_is_a_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        tell(ZeroDivisionError(), [])


def test_the_codes_are_those_of_the_commands(run: Run, service: FakeService, client: Client) -> None:
    for end in ("success", "failure", "cancelled", "running"):
        builder = client.create_batch(name=end)
        builder.create_job(None, ["true"])
        batch = builder.submit()
        if end in ("success", "failure"):
            service.finish(batch.id, 1, exit_code=int(end == "failure"))
        elif end == "cancelled":
            batch.cancel()
    for command, code in {
        "wait success": 0,
        "wait failure": 10,
        "wait failure/1": 10,
        "wait failure --ok-if-failed": 0,
        "wait cancelled": 11,
        "wait cancelled --ok-if-failed": 0,
        "wait 1-3": 10,
        "wait running --timeout 0.1": 124,
        "wait running/1 --timeout 0.1": 124,
        "watch running --timeout 0.1": 124,
        "get 99": 3,
        "get nobody": 3,
        "get": 2,
        "cancel running": 2,
        "--endpoint 127.0.0.1:1 ls": 4,
        "--billing-project secret run true": 125,
        "": 2,
    }.items():
        ran = run(*command.split())
        assert ran.code == code, f"{command}: {ran.err}"


@pytest.mark.parametrize("option", ["-ojson", "--output=json", "-o json", "--output json", "-o jsonl"])
def test_errors_are_documents_for_who_asks_for_documents(run: Run, service: FakeService, option: str) -> None:
    ran = run("jobs", "77", *option.split())
    assert (ran.code, ran.out) == (3, b"")
    error = json.loads(ran.err)["error"]
    assert error["code"] == "not_found" and set(error) == {"code", "message", "hint", "request_id"}


def test_the_request_id_is_told_when_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.NotFound("x")
    error.request_id = "r-1"
    tell(error, ["-o", "json"])
    assert json.loads(capsys.readouterr().err)["error"]["request_id"] == "r-1"


def test_what_stands_after_the_dashes_is_not_ours(run: Run, service: FakeService) -> None:
    ran = run("run", "--cpu", "x", "--", "sort", "-o", "json")
    assert ran.code == 2 and ran.err.startswith("error:")


def test_token_of_the_test_is_not_in_any_message(run: Run, service: FakeService) -> None:
    assert TOKEN not in run("doctor").out.decode()
