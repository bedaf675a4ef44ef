"""`longshore auth`, `longshore admin users`, `admin audit`, `history`: what they print, say and return."""

from __future__ import annotations

import pytest
from command_line import Run
from fakes_service import FakeService
from longshore import browser_login
from longshore.people import hash_of, is_whole, new_token


def test_a_token_is_printed_once_listed_and_revoked(run: Run, service: FakeService) -> None:
    made = run("auth", "token", "create", "--name", "ci", "--scope", "read", "--expires", "7d")
    (token,) = made.lines
    assert is_whole(token)
    assert hash_of(token) in service.tokens
    title, line = run("auth", "tokens").lines
    assert title.split()[:3] == ["ID", "NAME", "SCOPE"]
    token_id = line.split()[0]
    assert line.split()[1:3] == ["ci", "read"]
    assert token not in run("auth", "tokens", "-o", "json").out.decode()
    assert run("auth", "token", "revoke", token_id[:4]).code == 0
    assert not service.tokens
    assert run("auth", "token", "revoke", "gone").code == 3


def test_a_life_that_is_none_is_refused(run: Run, service: FakeService) -> None:
    for life in ("7", "d", "0d", "-1d", "1w", "99999999d"):
        assert run("auth", "token", "create", "--name", "ci", "--expires", life).code == 2
    assert run("auth", "token", "revoke").code == 2
    assert run("auth", "token", "revoke", "x", "--all").code == 2


def test_users_are_invited_suspended_and_promoted(run: Run, service: FakeService) -> None:
    invited = run("admin", "users", "invite", "bob", "bob@example.org")
    assert "bob can log in with bob@example.org; their service identity is sa-bob" in invited.err
    assert run("admin", "users", "suspend", "bob").code == 0
    assert run("admin", "users", "promote", "bob").code == 0
    lines = [line.split()[:3] for line in run("admin", "users", "ls").lines[1:]]
    assert lines == [["ada", "active", "yes"], ["bob", "suspended", "yes"]]
    run("admin", "users", "restore", "bob")
    run("admin", "users", "demote", "bob")
    assert run("admin", "users", "ls").lines[2].split()[:3] == ["bob", "invited", "bob@example.org"]
    assert run("admin", "users", "suspend", "nobody").code == 3


def test_the_audit_and_a_history_are_lists(run: Run, service: FakeService) -> None:
    title, line = run("admin", "audit", "--since", "7d", "--user", "ada").lines
    assert title.split()[:5] == ["AT", "WHO", "ROLE", "WHAT", "BATCH"]
    assert line.split()[1:5] == ["ada", "admin", "CancelBatch", "7"]
    assert run("--billing-project", "test", "run", "-d", "--", "true").code == 0
    assert run("history", "1").lines[1].split()[-1] == "CreateBatch"


def test_a_token_with_a_wrong_letter_is_known() -> None:
    token = new_token()
    assert is_whole(token)
    assert not is_whole(token[:-1] + ("a" if token[-1] != "a" else "b"))
    assert not is_whole("lsu_x")


@pytest.mark.parametrize(
    ("environ", "there"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "1.2.3.4"}, False),
        ({"BROWSER": "firefox"}, True),
    ],
)
def test_who_sits_elsewhere_has_no_browser_here(environ: dict[str, str], there: bool) -> None:
    assert browser_login.has_browser(environ) is there
