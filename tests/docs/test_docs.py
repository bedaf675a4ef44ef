"""The programs in the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from repository import ROOT

PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""What only says ``py`` needs a service, and is shown alone."""


@pytest.mark.parametrize("page", ["index.md", "quickstart.md", "tutorial.md"])
def test_the_programs_of_a_page_run_one_after_another(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / page).read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for program in PROGRAM.finditer(text):
        line = text.count("\n", 0, program.start(1))
        exec(compile("\n" * line + program[1], page, "exec"), names)
    assert names


def test_the_tutorial_leaves_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_the_programs_of_a_page_run_one_after_another("tutorial.md", tmp_path, monkeypatch)
    files = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert files["count.txt"].strip() == "10"
    assert files["merged.txt"].split() == [str(n) for n in range(31)]
    assert files["copied.bed"] == "the bed\n"
    assert files["copied.bim"] == files["only.bim"] == "the bim\n"
    assert files["elsewhere.txt"] == "fine\n"
    assert files["work.log"] == "half done\n"
    assert files["swept.txt"] == "swept\n"
