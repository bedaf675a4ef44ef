"""What is shown: documentation that runs, names that exist, text that cannot steer a terminal."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import longshore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.errors import BatchError, error_of_code
from longshore.terminal import clean
from longshore.windows import Window


def public_methods() -> dict[str, object]:
    """All methods that this package's users see, by name; not those that Python calls by itself."""
    kinds = {getattr(longshore, name) for name in dir(longshore) if not name.startswith("_")}
    return {
        f"{kind.__name__}.{name}": method
        for kind in kinds | {Window}
        if inspect.isclass(kind)
        for name, method in inspect.getmembers(kind)
        if not name.startswith("_")
        and (inspect.isfunction(method) or isinstance(method, property))
        and getattr(method, "fget", method).__module__.startswith("longshore.")
    }


def test_every_public_method_says_what_it_does_and_shows_it() -> None:
    """They are run as doctests (see tests/documented.py); the async ones name those that they are like."""
    silent = [name for name, method in public_methods().items() if not method.__doc__]
    assert not silent
    shown = {name for name, method in public_methods().items() if ">>> " in (method.__doc__ or "")}
    assert not {
        name for name in public_methods() if name not in shown and name.removeprefix("Async") not in shown
    }


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
