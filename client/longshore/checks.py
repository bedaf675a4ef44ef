"""PURE. What a program may say: each value is checked where it is given, not where it is used.

Each check returns the value or raises UsageError (WrongType for a wrong type) with the value and the
accepted form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike, fspath

from .errors import UsageError, WrongType

_SAFE = re.compile(r"[A-Za-z0-9._-]+")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 100
ROOT = "{root}"
"""Stands for the root in the templates of `Task.declare_resource_group`."""


def safe_name(text: str) -> str:
    """A file name of [A-Za-z0-9._-], recognisably `text`, never empty, '.' or '..'.

    >>> safe_name('über (1).txt'), safe_name('..'), safe_name('')
    ('_ber__1_.txt', '_..', '_')
    """
    name = _UNSAFE.sub("_", text)[-_LONGEST_NAME:]  # The end, for the sake of extensions.
    return name if name.strip(".") else "_" + name


def check_text(what: str, value: object) -> str:
    """`value` if it is text that can be sent and executed: a str without NUL, valid as UTF-8."""
    if not isinstance(value, str):
        raise WrongType(f"{what} must be a str, not {type(value).__name__}: {value!r}")
    if "\0" in value:
        raise UsageError(f"{what} must not hold a NUL character: {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not valid Unicode: {value!r}") from None
    return value


def check_safe(what: str, value: object) -> str:
    """`value` if it may be a part of a file's name below /io as it is."""
    text = check_text(what, value)
    if not _SAFE.fullmatch(text):
        raise UsageError(f"{what} {text!r}: only letters, digits, '.', '_' and '-' can be used in it")
    return text


def check_attributes(attributes: Mapping[str, str] | None) -> dict[str, str]:
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping):
        raise WrongType(f"attributes must be a dict of str to str, not {attributes!r}")
    for key, value in attributes.items():
        check_text("attribute name", key)
        check_text(f"attribute {key!r}", value)
    if "name" in attributes:
        raise UsageError("attributes must not hold 'name'", hint=f"use name={attributes['name']!r}")
    return dict(attributes)


def check_path(what: str, path: str | PathLike[str]) -> str:
    if not isinstance(path, str | PathLike):
        raise WrongType(f"{what}: {path!r} is not a path")
    text = check_text(f"{what}: path", fspath(path))
    if not text:
        raise UsageError(f"{what}: the path is empty")
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", text)
    if scheme and scheme[1] != "gs":
        raise UsageError(f"{what}: {text!r}: only paths of this machine and gs:// URLs are known")
    return text


def check_file_name(name: str) -> None:
    if not check_text("the name of a file", name):
        raise UsageError("the name of a file is empty")
    if name.startswith("_"):
        raise UsageError(f"the name of a file must not start with an underscore: {name!r}")


def check_identifier(identifier: str) -> str:
    check_safe("identifier", identifier)
    if identifier.startswith("_") or not identifier.strip("."):
        raise UsageError(f"identifier {identifier!r}: e.g. 'bed' or 'fasta.idx'")
    return identifier


def check_template(group: str, identifier: str, template: object) -> None:
    """A template is ``{root}`` and then what the command itself appends to the root."""
    what = f"resource group {group!r}: template of {identifier!r}"
    text = check_text(what, template)
    rest = text.removeprefix(ROOT)
    if rest == text or not rest:
        raise UsageError(f"{what} must start with {ROOT} and go on: {text!r}", hint="e.g. '{root}.bed'")
    for part in rest.split("/")[1:] if rest.startswith("/") else rest.split("/"):
        if part in ("", ".", ".."):
            raise UsageError(f"{what} must not have {part!r} for a folder: {text!r}")
        check_safe(what, part)


def check_retries(n: object) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise WrongType(f"retries({n!r}) must be a whole number, e.g. 2")
    if not 0 <= n <= 1000:
        raise UsageError(f"retries({n!r}) must be between 0 and 1000, e.g. 2")
    return n


def check_count(what: str, n: object) -> int:
    """A whole number from 1 to 10,000,000."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise WrongType(f"{what}({n!r}) must be a whole number, e.g. 10")
    if not 1 <= n <= 10_000_000:
        raise UsageError(f"{what}({n!r}) must be between 1 and 10,000,000; without it: never")
    return n


def check_limit(what: str, n: object) -> int:
    """How many attempts that failed through nobody's fault make a job an Error: 1 to 1,000."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise WrongType(f"{what}({n!r}) must be a whole number, e.g. 3")
    if not 1 <= n <= 1000:
        raise UsageError(f"{what}({n!r}) must be between 1 and 1000; 1: it is not tried again")
    return n


def check_bool(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongType(f"{what}({value!r}) must be True or False")
    return value


def check_id(what: str, value: object, *, below: int = 2**63) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType(f"{what} must be a whole number, not {value!r}")
    if not 0 < value < below:
        raise UsageError(f"{what} must be 1 or more: {value}")
    return value
