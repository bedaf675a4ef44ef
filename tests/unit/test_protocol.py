"""The check of the protocol finds what would break a program that speaks the released one."""

from __future__ import annotations

import shutil
from pathlib import Path

import check_protos
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

RELEASED = """
syntax = "proto3";
package longshore_api.v1;
service Clock { rpc Now(Ask) returns (Time); }
message Ask { string zone = 1; repeated string formats = 2; message Deep { uint32 n = 1; } }
message Time { int64 at_ms = 1; Kind kind = 2; }
enum Kind { KIND_UNSPECIFIED = 0; KIND_WALL = 1; }
"""


def described(folder: Path, text: str) -> FileDescriptorSet:
    proto = folder / "proto" / "longshore_api" / "v1" / "clock.proto"
    proto.parent.mkdir(parents=True, exist_ok=True)
    proto.write_text(text)
    return check_protos.described(folder)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("string zone = 1;", "string zone = 1; bool utc = 9;"),
        ("string zone = 1;", 'reserved 1; reserved "zone";'),
        ("KIND_WALL = 1;", 'reserved 1; reserved "KIND_WALL";'),
        ("KIND_WALL = 1;", "KIND_WALL = 1; KIND_STEADY = 2;"),
        ("message Time", "message Zone {} message Time"),
    ],
)
def test_what_only_adds_or_reserves_is_compatible(tmp_path: Path, was: str, becomes: str) -> None:
    released = described(tmp_path, RELEASED)
    assert not list(check_protos.broken(released, described(tmp_path, RELEASED.replace(was, becomes))))


@pytest.mark.parametrize(
    ("was", "becomes", "named"),
    [
        ("string zone = 1;", "", "Ask.zone"),
        ("string zone = 1;", "reserved 1;", "Ask.zone"),
        ("string zone = 1;", 'reserved 7; reserved "zone";', "Ask.zone"),
        ("string zone = 1;", "string zone = 3;", "Ask.zone"),
        ("string zone = 1;", "bytes zone = 1;", "Ask.zone"),
        ("string zone = 1;", "string country = 1;", "Ask.zone"),
        ("repeated string formats", "string formats", "Ask.formats"),
        ("message Deep { uint32 n = 1; }", "message Deep { uint64 n = 1; }", "Ask.Deep.n"),
        ("message Deep { uint32 n = 1; }", "", "Ask.Deep"),
        ("KIND_WALL = 1;", "KIND_WALL = 2;", "Kind.KIND_WALL"),
        ("KIND_WALL = 1;", "", "Kind.KIND_WALL"),
        ("returns (Time)", "returns (stream Time)", "Clock.Now"),
        ("rpc Now(Ask)", "rpc Now(Time)", "Clock.Now"),
    ],
)
def test_what_breaks_a_released_program_is_named(tmp_path: Path, was: str, becomes: str, named: str) -> None:
    released = described(tmp_path, RELEASED)
    complaints = list(check_protos.broken(released, described(tmp_path, RELEASED.replace(was, becomes))))
    assert [c for c in complaints if f"v1.{named}" in c]


def test_the_released_protocol_is_kept() -> None:
    released = FileDescriptorSet.FromString(check_protos.RELEASED.read_bytes())
    assert not list(check_protos.broken(released, check_protos.described()))


def test_stubs_of_an_older_text_are_found(tmp_path: Path) -> None:
    shutil.copytree(
        check_protos.ROOT / "proto",
        tmp_path / "proto",
        ignore=shutil.ignore_patterns("*_pb2*", "__pycache__"),
    )
    assert not list(check_protos.stale(check_protos.described(tmp_path)))
    changed = tmp_path / "proto" / "longshore_api" / "v1" / "types.proto"
    changed.write_text(changed.read_text() + "\nmessage Newcomer {}\n")
    assert len(list(check_protos.stale(check_protos.described(tmp_path)))) == 1
