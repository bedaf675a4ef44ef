"""The documentation is true: its programs run as they stand, and its reference names everything."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import longshore
import pytest
from documented import find
from embedded import running
from longshore.cli.verbs import VERBS
from longshore_controller.core import why_texts
from longshore_controller.core.language import BATCHES, JOBS
from longshore_tui.app import Dashboard
from longshore_tui.screens.batch import BatchScreen
from longshore_tui.screens.job import JobScreen
from longshore_tui.screens.lists import ListScreen
from longshore_tui.screens.live import LiveScreen
from longshore_tui.widgets.log_pane import LogPane
from longshore_tui.widgets.log_view import LogView
from repository import ROOT
from textual.binding import Binding
from textual.keys import _character_to_key

PROGRAM = re.compile(r"^```(python|py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""What says ``py`` needs a service; in the quickstart it is a piece of a program, and shown alone."""

NAMED = re.compile(r"^\.\. auto(?:class|exception):: (\w+)$", re.MULTILINE)


def run_programs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """All programs of these kinds on a page, one after another, as they are typed into one interpreter."""
    text = (ROOT / "docs" / page).read_text()
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for program in PROGRAM.finditer(text):
        if program[1] in kinds:
            line = text.count("\n", 0, program.start(2))
            exec(compile("\n" * line + program[2], page, "exec"), names)
    assert names


@pytest.mark.parametrize("page", ["index.md", "quickstart.md"])
def test_the_programs_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_programs(page, tmp_path, monkeypatch, "python")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a service that runs."""
    folder = tmp_path_factory.mktemp("up")
    with running(folder, "--runtime", "process", "--cores", "2"):
        yield str(folder)


def test_the_programs_of_the_readme_run_at_a_service(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, home)
    run_programs("../README.md", tmp_path, monkeypatch, "python")
    assert (tmp_path / "numbers.txt").read_text().split() == [str(n) for n in range(31)]


def test_billing_is_explained_with_figures_that_are_true(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, home)
    run_programs("billing.md", tmp_path, monkeypatch, "py")


def test_the_tutorial_runs_and_leaves_what_it_says(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, home)
    run_programs("tutorial.md", tmp_path, monkeypatch, "python", "py")
    files = {
        str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert files["count.txt"].strip() == files["copies/count"].strip() == "10"
    assert files["parts/part.ab"].split() == [str(n) for n in range(6, 11)]
    assert files["merged.txt"].split() == [str(n) for n in range(31)]
    assert "2 tide" in files["words.txt"] and files["copy of poem.txt"] == files["poem"]
    assert files["copied.bed"] == "the bed\n"
    assert files["copied.bim"] == files["only.bim"] == "the bim\n"
    assert files["elsewhere.txt"] == "fine\n"
    assert files["work.log"] == "half done\n"
    assert files["swept.txt"] == "swept\n"
    assert files["out.txt"] == "a\nb\n"
    assert any(name.startswith("scratch/") for name in files)


def test_the_queries_of_the_reference_are_understood(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, home)
    run_programs("queries.md", tmp_path, monkeypatch, "py")
    text = (ROOT / "docs" / "queries.md").read_text()
    examples = re.findall(r"^```(jobs|batches)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [(subject, line) for subject, block in examples for line in [block, *block.splitlines()]]
    assert len(lines) > 20
    with longshore.Client("my-project") as client:
        builder = client.create_batch(name="align")
        builder.create_job(None, ["true"], name="align-007", attributes={"sample": "NA12878"})
        batch = builder.submit()
        batch.wait(timeout=60)
        for subject, line in lines:
            if subject == "jobs":
                client.page_of_jobs(batch.id, query=line)
            else:
                client.page_of_batches(query=line)
        for query in (
            "align",
            "name:ALIGN -qc",
            "exit:0 dur<1h",
            "attr.sample=NA12878",
            "a OR b\nstate = success",
        ):
            assert [job.id for job in batch.jobs(query)] == [1], query
        assert batch.id in [found.id for found in client.list_batches(query="user:me created>-1h jobs:1")]


def test_the_reference_of_queries_has_every_field_and_operator() -> None:
    text = (ROOT / "docs" / "queries.md").read_text()
    named = re.split("^## ", text, flags=re.MULTILINE)
    for title, subject in (("Fields of jobs", JOBS), ("Fields of batches", BATCHES)):
        (section,) = [part for part in named if part.startswith(title)]
        assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == subject.shown
        assert set(subject.states) <= set(re.findall("`([a-z]+)`", section))
    (operators,) = [part for part in named if part.startswith("Operators")]
    assert set(re.findall(r"`([:=!<>~]+)`", operators)) == {
        operator for kind in (*JOBS.fields.values(), *BATCHES.fields.values()) for operator in kind.operators
    }


def test_the_tutorial_stands_program_by_program(tmp_path: Path) -> None:
    """Each can be copied out of the page, below the imports that the page begins with."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    first, *rest = (program[2] for program in PROGRAM.finditer(text))
    for i, program in enumerate(rest):
        (tmp_path / f"{i}.py").write_text(first + program)
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_reference_of_the_api_names_everything_public() -> None:
    named = NAMED.findall((ROOT / "docs" / "api.md").read_text())
    assert sorted(set(longshore.__all__) - set(named)) == []
    assert len(named) == len(set(named))


def test_the_tutorial_shows_every_method_of_pipelines_and_their_handles() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    for shown in (longshore.Pipeline, longshore.Task, longshore.Batch, longshore.Job):
        for name in vars(shown):
            if not name.startswith("_") and name not in ("name", "batch", "id"):
                assert re.search(rf"\b{name}\b", text), f"{shown.__name__}.{name}"


def test_the_reference_of_the_command_line_has_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = import_module("command_reference").text()
    for verbs in VERBS.values():
        for verb in verbs:
            assert f"\n### longshore {verb}\n" in page
    for shared in ("--endpoint", "--profile", "last~1", "Usage: longshore config set"):
        assert shared in page


def test_the_page_of_reasons_has_every_reason() -> None:
    source = Path(why_texts.__file__).read_text()
    page = (ROOT / "docs" / "why.md").read_text()
    codes = set(re.findall(r'Reason\(\s*"([A-Z_]+)"', source))
    assert codes == set(re.findall(r"`([A-Z_]{3,})`", page))


def test_the_keys_of_the_dashboard_are_its_keys() -> None:
    everywhere = {"enter"}.union(*map(keys_of, (Dashboard, LiveScreen, ListScreen)))
    bound = {
        "Everywhere": everywhere,
        "A batch": keys_of(BatchScreen),
        "A job": keys_of(JobScreen) | keys_of(LogView) | keys_of(LogPane),
    }
    sections = re.split("^## (.+)$", (ROOT / "docs" / "dashboard.md").read_text(), flags=re.MULTILINE)
    for title, text in zip(sections[1::2], sections[2::2], strict=True):
        if title in bound:
            named = [
                key
                for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
                for key in re.findall("`(.+?)`", row)
            ]
            assert named and [key for key in named if key_name(key) not in bound[title]] == [], title


def keys_of(part: type) -> set[str]:
    bindings = [each for kind in part.__mro__ for each in vars(kind).get("BINDINGS", ())]
    return {key for each in bindings if isinstance(each, Binding) for key in each.key.split(",")}


def key_name(shown: str) -> str:
    """What Textual calls it."""
    return _character_to_key(shown) if len(shown) == 1 else shown.lower()
