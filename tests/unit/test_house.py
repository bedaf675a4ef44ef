"""The rules of the house that a machine can check: facts about this repository."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from repository import ROOT, tracked

SOURCE_ROOTS = ("proto", "controller", "workerd", "client", "tui")


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the packages, by its dotted name."""
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] in SOURCE_ROOTS and path.name != "conftest.py":
            parts = path.with_suffix("").parts[1:]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse((ROOT / path).read_text())


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_proto_is_no_package_lest_it_shadow_the_one_of_google_cloud() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()


def test_no_file_names_this_machine_or_a_package_index() -> None:
    patterns = [r"(index-url|find-links|trusted-host)[ =]\S*[:/]", r"\bfile:///\w", r"\bpypi\.(org|io)\b"]
    if len(ROOT.parts) > 2:  # a checkout at /src would accuse every text that says /src
        patterns.append(re.escape(str(ROOT)))
    machine = re.compile("|".join(patterns))
    assert not [f"{path}: {found[0]}" for path, text in texts() if (found := machine.search(text))]


def test_nothing_is_left_to_be_done_later() -> None:
    later = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert not [str(path) for path, text in texts() if later.search(text)]


def test_no_module_name_says_nothing() -> None:
    empty = {
        "util",
        "utils",
        "helper",
        "helpers",
        "common",
        "manager",
        "handler",
        "processor",
        "base",
        "misc",
    }
    assert not [name for name, _ in modules() if empty & set(re.split(r"[._]", name))]


def test_every_module_begins_by_saying_what_it_is_for() -> None:
    assert not [name for name, tree in modules() if tree.body and not ast.get_docstring(tree)]


def test_what_calls_itself_pure_is_held_to_it() -> None:
    contract = next(
        c
        for c in project()["tool"]["importlinter"]["contracts"]
        if c["name"].startswith("What calls itself PURE")
    )
    held = tuple(contract["source_modules"])
    pure = {name for name, tree in modules() if (ast.get_docstring(tree) or "").startswith("PURE")}
    assert not [name for name in pure if not any(name == h or name.startswith(f"{h}.") for h in held)]
    assert not [h for h in held if h not in pure]


@pytest.mark.parametrize(
    ("package", "allowed"), [("os", {"PathLike", "fspath"}), ("random", {"Random"})], ids=["os", "random"]
)
def test_a_pure_module_takes_only_harmless_names_of(package: str, allowed: set[str]) -> None:
    for name, tree in modules():
        if not (ast.get_docstring(tree) or "").startswith("PURE"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert package not in {alias.name.partition(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom) and node.module == package:
                assert {alias.name for alias in node.names} <= allowed, name


def test_the_lock_holds_what_the_project_asks_for() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {
        name: Version(version)
        for name, version in re.findall(r"^([a-z0-9._-]+)(?:\[.*?\])?==(\S+)", lock, re.MULTILINE)
    }
    asked = project()
    requirements = [
        Requirement(line)
        for lines in (
            asked["project"]["dependencies"],
            asked["build-system"]["requires"],
            asked["dependency-groups"]["dev"],
            *asked["project"]["optional-dependencies"].values(),
        )
        for line in lines
    ]
    assert not [
        str(r)
        for r in requirements
        if r.name != asked["project"]["name"] and (r.name not in pinned or pinned[r.name] not in r.specifier)
    ]


def test_each_package_imports_what_it_asks_for_and_nothing_else() -> None:
    imported: dict[str, set[str]] = {}
    for name, tree in modules():
        found = imported.setdefault(name.partition(".")[0], set())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    others = {name: found - sys.stdlib_module_names - imported.keys() for name, found in imported.items()}

    asked = project()["project"]
    base, extras = asked["dependencies"], asked["optional-dependencies"]
    declared = {
        "longshore_api": base,
        # Bars where rich is installed, or tqdm in a notebook; LocalBackend.
        "longshore": base + extras["tui"] + extras["docker"] + extras["notebook"],
        "longshore_controller": base + extras["controller"],
        "longshore_workerd": base + extras["workerd"],
        "longshore_tui": base + extras["tui"],
    }
    other_names = {
        "google-re2": {"re2"},
        "grpcio": {"grpc"},
        "grpcio-health-checking": {"grpc_health"},
        "protobuf": {"google"},
        "pyjwt": {"jwt"},
        "pyyaml": {"yaml"},
        "tqdm": {"tqdm", "IPython"},  # IPython is there anyway in a notebook.
        "peewee": {"peewee", "playhouse"},
        "docker": {"docker", "requests", "urllib3"},  # it raises their exceptions as they are
    }
    allowed = {
        package: set().union(
            *(other_names.get(name, {name}) for name in (Requirement(r).name for r in lines))
        )
        for package, lines in declared.items()
    }
    assert not {package: extra for package, found in others.items() if (extra := found - allowed[package])}
    assert set().union(*allowed.values()) <= set().union(*others.values())
