"""What is shown: documentation that runs, names that exist, text that cannot steer a terminal."""

from __future__ import annotations

import doctest
import importlib
from typing import get_type_hints

import longshore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.errors import BatchError, error_of_code
from longshore.terminal import clean


@pytest.mark.parametrize(
    "module", ["checks", "compile", "pipeline", "resource", "status", "terminal", "units"]
)
def test_the_examples_in_the_documentation_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"longshore.{module}"))
    assert result.attempted and not result.failed


def test_the_package_has_all_its_names_and_no_others() -> None:
    assert all(getattr(longshore, name) is not None for name in dir(longshore))
    assert "Pipeline" in dir(longshore)
    with pytest.raises(AttributeError):
        _ = longshore.Pipline


def test_every_exception_has_the_one_root_a_code_and_the_python_kind_that_fits() -> None:
    kinds = {
        "invalid_argument": ValueError,
        "not_found": LookupError,
        "unavailable": ConnectionError,
        "deadline_exceeded": ConnectionError,
        "permission_denied": BatchError,
        "something_new": BatchError,
    }
    for code, kind in kinds.items():
        error = error_of_code(code, "words")
        assert isinstance(error, BatchError) and isinstance(error, kind) and error.code == code
    assert "longshore up" in str(error_of_code("unavailable", "words"))


@given(st.text())
def test_clean_text_holds_no_control_characters(text: str) -> None:
    assert not [c for c in clean(text) if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]


def test_clean_text_is_otherwise_the_same() -> None:
    assert clean("Grüße,\n\t日本 🙂 [/b]") == "Grüße,\n\t日本 🙂 [/b]"
    assert clean("\x1b]52;c;AAAA\x07\u202e\x9b") == "\\x1b]52;c;AAAA\\x07\\u202e\\x9b"


def test_hints_of_types_can_be_resolved() -> None:
    assert get_type_hints(longshore.JobSpec)["retries"] is int
