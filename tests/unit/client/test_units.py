"""Amounts: what is accepted, exactly, and what is refused, with the value and an example."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore import UsageError, WrongType
from longshore.units import parse_bytes, parse_cpu, parse_seconds


@pytest.mark.parametrize(
    ("value", "mcpu"),
    [
        (1, 1000),
        ("1", 1000),
        (0.5, 500),
        ("500m", 500),
        ("0.1", 100),
        (0.1 + 0.2, 300),
        ("1.", 1000),
        (".5", 500),
    ],
)
def test_cores_are_thousandths(value: Any, mcpu: int) -> None:
    assert parse_cpu(value) == mcpu


@pytest.mark.parametrize(
    ("value", "n_bytes"),
    [
        ("3.75G", 3_750_000_000),
        ("4Gi", 4 * 2**30),
        (7, 7_000_000_000),
        ("7", 7_000_000_000),
        (3.75, 3_750_000_000),
        ("1K", 1000),
        ("1Ki", 1024),
        ("5M", 5_000_000),
        ("5Mi", 5 * 2**20),
        ("2T", 2 * 10**12),
        ("1Pi", 2**50),
        (1e-8, 10),
    ],
)
def test_a_bare_number_of_bytes_is_gigabytes_and_units_are_exact(value: Any, n_bytes: int) -> None:
    assert parse_bytes("memory", value) == n_bytes


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        "0",
        "-1",
        "0m",
        0.0001,
        "",
        " 1",
        "1 ",
        "1 core",
        "m",
        "1e3",
        "1,5",
        "١",
        float("nan"),
        float("inf"),
        1e12,
    ],
)
def test_cores_that_are_none_are_refused_with_the_value_and_an_example(value: Any) -> None:
    with pytest.raises(UsageError, match="e.g. 2, 0.5 or '500m'") as refusal:
        parse_cpu(value)
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize(
    "value",
    [0, -3, "0G", "-1G", "G", "3.75GB", "4gi", "4 Gi", "lots", "", "1E", float("nan"), 1e-12, "9999999P"],
)
def test_memory_that_is_none_is_refused_with_the_value_and_an_example(value: Any) -> None:
    with pytest.raises(UsageError, match=r"e\.g\. '3\.75G'") as refusal:
        parse_bytes("memory", value)
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize("value", [None, True, [1], b"1G"])
def test_amounts_of_a_wrong_type_are_type_errors(value: Any) -> None:
    for parse in (parse_cpu, lambda v: parse_bytes("memory", v), lambda v: parse_seconds("timeout", v)):
        with pytest.raises(WrongType) as refusal:
            parse(value)
        assert isinstance(refusal.value, TypeError)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_time_must_be_greater_than_nothing(value: float) -> None:
    with pytest.raises(UsageError, match="greater than 0"):
        parse_seconds("timeout", value)


@given(st.integers(1, 10**6), st.sampled_from(["K", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]))
def test_whole_amounts_are_exact_in_every_unit(n: int, unit: str) -> None:
    scale = (1024 if unit.endswith("i") else 1000) ** ("KMGT".index(unit[0]) + 1)
    assert parse_bytes("storage", f"{n}{unit}") == n * scale


@given(st.integers(1, 10**6))
def test_cores_survive_a_float(mcpu: int) -> None:
    assert parse_cpu(mcpu / 1000) == parse_cpu(f"{mcpu}m") == mcpu
