"""Every method has its policy, every refusal its status."""

from __future__ import annotations

import pytest
from longshore_controller import interceptors
from longshore_controller.__main__ import SERVICES
from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.errors import MAX_MESSAGE, STATUS, status_of
from longshore_controller.interceptors import METHOD_POLICY, May, check_policy
from longshore_controller.store import StoreUnavailable


def test_the_policy_names_every_method_of_every_service() -> None:
    check_policy(SERVICES)


def test_a_method_without_a_policy_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METHOD_POLICY, "/longshore_api.v1.BatchService/ReadLog")
    monkeypatch.setitem(METHOD_POLICY, "/longshore_api.v1.BatchService/Gone", May.ASK)
    with pytest.raises(RuntimeError, match="differ in .*/Gone, /longshore_api.v1.BatchService/ReadLog"):
        check_policy(SERVICES)


def test_only_logging_in_activation_and_health_are_for_anyone() -> None:
    assert {
        m.split("/")[1] + "/" + m.split("/")[2] for m, may in METHOD_POLICY.items() if may is May.ANYONE
    } == {
        "longshore_api.v1.AuthService/BeginLogin",
        "longshore_api.v1.AuthService/FinishLogin",
        "longshore_api.v1.WorkerService/Activate",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
    }


def test_each_kind_of_refusal_is_one_status() -> None:
    assert STATUS.keys() == set(RefusalKind)
    assert len(set(STATUS.values())) == len(RefusalKind)
    assert all(kind.name == status.name for kind, status in STATUS.items())


def test_what_is_told_of_an_error_is_short_and_of_a_defect_nothing() -> None:
    code, words = status_of(Refusal(RefusalKind.NOT_FOUND, "x" * 10_000), "id")
    assert (code.name, len(words)) == ("NOT_FOUND", MAX_MESSAGE)
    assert status_of(StoreUnavailable("host 10.0.0.1 refused"), "id")[0].name == "UNAVAILABLE"
    assert "10.0.0.1" not in status_of(StoreUnavailable("host 10.0.0.1 refused"), "id")[1]
    code, words = status_of(ValueError("password is hunter2"), "4711")
    assert code.name == "INTERNAL"
    assert "hunter2" not in words
    assert "4711" in words


def test_a_token_is_kept_as_its_hash() -> None:
    assert interceptors.hash_of("x") == bytes.fromhex(
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
