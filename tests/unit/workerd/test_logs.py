"""Logs of containers: every byte, at the offset where it was."""

from __future__ import annotations

import struct
from pathlib import Path

from longshore_workerd.logs import Logs
from longshore_workerd.runtime import Container, ContainerId

ID = ContainerId("a", Container.MAIN)


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000

    def __call__(self) -> int:
        return self.ms


def test_bytes_are_kept_as_they_come(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "attempts")
    data = bytes(range(256)) * 3
    log = logs.open(ID)
    log.write(data[:100])
    log.write(data[100:])
    assert logs.read(ID, 0, 10_000) == data
    assert logs.read(ID, 250, 10) == data[250:260]
    assert (log.size, log.stored, logs.size(ID)) == (768, 768, 768)
    log.close()


def test_a_container_that_says_nothing_leaves_no_file(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "attempts")
    logs.open(ID).close()
    assert logs.attempts() == [] and logs.containers("a") == []


def test_a_log_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    log = Logs(tmp_path).open(ID)
    log.write(b"one ")
    log.close()
    logs = Logs(tmp_path)
    again = logs.open(ID)
    assert again.size == 4
    again.write(b"two")
    again.close()
    assert logs.read(ID, 0, 100) == b"one two"


def test_a_log_is_cut_off_at_the_cap_with_a_marker(tmp_path: Path) -> None:
    logs = Logs(tmp_path, cap=10)
    log = logs.open(ID)
    for _ in range(5):
        log.write(b"12345678")
    log.close()
    text = logs.read(ID, 0, 1_000)
    assert text.startswith(b"1234567812\n[longshore: this log was cut off after 10 bytes]\n")
    assert log.size == 40
    assert log.stored == len(text) == logs.size(ID)


def test_exactly_the_cap_is_not_cut(tmp_path: Path) -> None:
    logs = Logs(tmp_path, cap=10)
    log = logs.open(ID)
    log.write(b"1234567890")
    log.close()
    assert logs.read(ID, 0, 100) == b"1234567890"


def test_a_marker_that_was_half_written_is_completed_once(tmp_path: Path) -> None:
    logs = Logs(tmp_path, cap=4)
    log = logs.open(ID)
    log.write(b"12345")
    log.close()
    whole = logs.read(ID, 0, 1_000)
    (tmp_path / "a/logs/main.log").write_bytes(whole[:20])
    again = logs.open(ID)
    again.write(b"6")
    again.write(b"7")
    again.close()
    assert logs.read(ID, 0, 1_000) == whole


def test_the_index_says_when_the_log_was_how_long(tmp_path: Path) -> None:
    clock = Clock()
    logs = Logs(tmp_path, clock_ms=clock)
    log = logs.open(ID)
    for _ in range(30):
        log.write(b"x" * 10)
        clock.ms += 10
    log.close()
    index = list(struct.iter_unpack(">QQ", (tmp_path / "a/logs/main.times").read_bytes()))
    assert index == [(0, 1_000), (100, 1_100), (200, 1_200)]


def test_a_log_that_cannot_be_written_does_not_disturb_the_container(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "attempts")
    (tmp_path / "attempts" / "a").write_text("in the way")
    log = logs.open(ID)
    log.write(b"hello")
    log.close()
    assert (log.size, log.stored) == (5, 0)


def test_the_files_of_an_attempt_go_before_its_logs(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "attempts")
    (logs.make_io_folder("a") / "big").write_bytes(b"x")
    log = logs.open(ID)
    log.write(b"kept")
    log.close()
    logs.remove_io_folder("a")
    assert logs.read(ID, 0, 10) == b"kept"
    logs.remove("a")
    assert logs.attempts() == []


def test_the_last_line_is_found_without_reading_the_rest(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    log = logs.open(ID)
    assert logs.last_line(ID, 100) == ""
    log.write(b"x" * 1_000 + b"\nerror: \xff is missing\n\n")
    log.close()
    assert logs.last_line(ID, 100) == "error: \ufffd is missing"
