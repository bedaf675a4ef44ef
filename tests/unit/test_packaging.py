"""A wheel holds all that an installed Longshore needs, the generated stubs too."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest
from repository import ROOT, tracked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel made from a copy of the sources, as git has them: no stubs."""
    copy = tmp_path_factory.mktemp("sources")
    for path in tracked():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (built,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_a_wheel_holds_the_five_packages_and_nothing_else(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert tops == {
        "longshore",
        "longshore_api",
        "longshore_controller",
        "longshore_workerd",
        "longshore_tui",
    }


def test_a_wheel_holds_the_stubs_of_every_proto_and_their_types(wheel: set[str]) -> None:
    protos = [path.relative_to(ROOT / "proto").with_suffix("") for path in (ROOT / "proto").rglob("*.proto")]
    endings = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    assert not {f"{proto}{ending}" for proto in protos for ending in endings} - wheel


def test_a_wheel_says_that_the_client_is_typed(wheel: set[str]) -> None:
    assert "longshore/py.typed" in wheel
