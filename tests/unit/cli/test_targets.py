"""What may be written for a batch or a job."""

from __future__ import annotations

import pytest
from longshore.cli.targets import Target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("8120", Target(8120)),
        ("8120/4705", Target(8120, job_id=4705)),
        ("last", Target(None)),
        ("last~2", Target(None, back=2)),
        ("last~1/7", Target(None, back=1, job_id=7)),
    ],
)
def test_a_target_is_read_and_written_alike(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "00", "-1", "8120/", "8120/0", "/3", "last~", "8120/1/2", "8120 ", "９", "9" * 30],
)
def test_anything_else_is_refused_and_the_forms_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="write 8120, 8120/4705, last or last~1"):
        parse_target(text)
