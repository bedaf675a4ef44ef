"""The benchmarks can be run. What they say of the speed is for `make bench`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.__main__ import main
from bench.measure import Goal, Result


def test_a_benchmark_says_ours_base_ratio_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    assert main(["4", "--tiny", "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "goal 4" in said and "load average" in said
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [result["goal"] for result in results] == ["4"] * 3
    for result in results:
        assert result["ours"] and result["base"] and result["verdict"] in ("pass", "miss")
        assert result["cpu_us_per_job"]["controller"] >= 0


def test_a_goal_is_missed_when_one_of_its_bounds_is() -> None:
    asked = Result("0", "", "", [3.0], [6.0], "")
    assert asked.verdict == "-"
    assert replace(asked, ratio_goal=Goal(0.5), value_goal=Goal(3)).verdict == "pass"
    assert replace(asked, ratio_goal=Goal(0.6), value_goal=Goal(3)).verdict == "miss"
    assert replace(asked, ratio_goal=Goal(0.5), value_goal=Goal(2, at_most=True)).verdict == "miss"


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["77"])
