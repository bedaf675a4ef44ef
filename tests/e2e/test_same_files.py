"""The same program gives the same files and the same ends of jobs, wherever it runs.

Three services: embedded with Docker, embedded with plain processes, and a controller with Postgres, a store
folder and a worker with Docker. And no service: a LocalBackend, in the user's shell and in Docker.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import longshore as hp
import postgres
import pytest
from command_line import run_in_process
from e2e.pipelines import DEFAULTS, PIPELINES
from embedded import EXAMPLES, running
from faults.cluster import Cluster
from faults.cluster import running as running_cluster
from longshore_workerd.images import TASK_IMAGE

pytestmark = pytest.mark.docker

SCRIPTS = Path(__file__).with_name("scripts")

ODD = """it's "a b" (1) $HOME;ü☃ *[x].txt"""
FOLDER = {"deep/x": b"deep", ".hidden": b"hidden", "empty": b""}

Tree = dict[str, tuple[bool, bytes]]
"""By path: whether it can be executed, and what is in it. A folder's path ends in a slash."""


COMPARED = (
    *("job_id", "name", "attributes", "state", "reason", "exit_code", "n_attempts"),
    *("reserved_mcpu", "reserved_memory_bytes", "always_run"),
)
"""What of a job must be the same everywhere, but for the folder in its texts."""


@dataclass(frozen=True)
class Place:
    """A service and a folder that its jobs can reach."""

    name: str
    environ: dict[str, str]
    folder: Path
    scratch: Path
    """Where it keeps intermediate files."""
    said: Callable[[], str]

    def run(self, script: Path) -> tuple[Tree, list[dict[str, Any]]]:
        """Run a program; the files that it left, and its jobs."""
        inputs, outputs = self.folder / "in", self.folder / "out"
        make_inputs(inputs)
        outputs.mkdir()
        program = shutil.copytree(script.parent, self.folder / "program") / script.name
        arguments = [str(outputs)] if script.parent == EXAMPLES else [str(inputs), str(outputs)]
        jobs = self._jobs_of(str(program), *arguments)
        assert not any(self.scratch.iterdir()), "intermediate files are removed in the end"
        return tree(outputs), [self._compared(job) for job in jobs]

    def build(self, name: str) -> hp.Pipeline:
        """One of the small pipelines."""
        p = hp.Pipeline(backend=self._backend(), name=name, **DEFAULTS)  # type: ignore[arg-type]
        outputs = self.folder / "out" / name
        outputs.mkdir(parents=True)
        PIPELINES[name](p, self.folder / "in", outputs)
        return p

    def end(self, name: str, batch: hp.Batch | None) -> tuple[str, Tree, list[dict[str, Any]]]:
        """What became of it: the batch's state, the files, the jobs."""
        assert batch is not None
        status = batch.wait(timeout=120, check=False)
        jobs = [self._compared(job.last_status.as_dict()) for job in batch.jobs() if job.last_status]
        return status.state, tree(self.folder / "out" / name), jobs

    def _backend(self) -> hp.BatchBackend | hp.LocalBackend:
        service = json.loads((Path(self.environ["LONGSHORE_HOME"]) / "service.json").read_text())
        return hp.BatchBackend("test", endpoint=service["endpoint"], token=service["token"])

    def _jobs_of(self, *program: str) -> list[dict[str, Any]]:
        self._execute(*program)
        listed = run_in_process("jobs", "last", "-o", "json", environ=self.environ)
        assert listed.code == 0, listed.err
        jobs: list[dict[str, Any]] = listed.document["jobs"]
        return jobs

    def _execute(self, *program: str) -> None:
        done = subprocess.run(
            [sys.executable, *program],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.stdout.decode()}{self.said()}"

    def _compared(self, job: dict[str, Any]) -> dict[str, Any]:
        return {key: _without(str(self.folder), job[key]) for key in COMPARED}


@dataclass(frozen=True)
class Here(Place):
    """No service at all: a LocalBackend."""

    image: str = ""
    """Of all tasks; without one they run in a shell."""

    def build(self, name: str) -> hp.Pipeline:
        p = super().build(name)
        for task in p.select_tasks("") if self.image else ():
            task.image(self.image)
        return p

    def _backend(self) -> hp.LocalBackend:
        return hp.LocalBackend(self.scratch, cores=4)

    def _jobs_of(self, *program: str) -> list[dict[str, Any]]:
        noted = self.folder / "jobs.json"
        self._execute(str(Path(__file__).with_name("locally.py")), str(noted), self.image, *program)
        jobs: list[dict[str, Any]] = json.loads(noted.read_text())
        return jobs


def _without(folder: str, value: Any) -> Any:
    return value.replace(folder, "") if isinstance(value, str) else value


def make_inputs(folder: Path) -> None:
    for name, content in {
        ODD: "naïve\nno end".encode(),
        "binary": bytes(range(256)) * 1000,
        "genome.fa": b">chr1\nACGT\n",
        "in dex/of it": b"chr1\t4\n",
        **{f"fol der/{name}": content for name, content in FOLDER.items()},
        "many/b (2).txt": b"b\n",
        "many/a'.txt": b"a\n",
        "many/ü.txt": b"u\n",
        "many/not this": b"not\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "fol der" / "deep" / "x").chmod(0o755)


def tree(folder: Path) -> Tree:
    found: Tree = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), f"{name} is neither file nor folder"
        if stat.S_ISDIR(mode):
            found[name + "/"] = (False, b"")
        else:
            found[name] = (bool(mode & 0o100), path.read_bytes())
    return found


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: postgres.Cluster
) -> Iterator[list[Place]]:
    with ExitStack() as stack:

        def embedded(runtime: str) -> Place:
            folder = tmp_path_factory.mktemp(runtime)
            up = stack.enter_context(running(folder / "up", "--runtime", runtime))
            return Place(f"embedded, {runtime}", up.environ, folder, up.folder / "tmp", up.logs)

        def shared() -> Place:
            folder = tmp_path_factory.mktemp("shared")
            store = folder / "the store"
            store.mkdir()
            cluster = Cluster(folder, postgres_server.new_database(), store=store)
            stack.enter_context(running_cluster(cluster))
            cluster.worker("w1", runtime="docker").start()
            environ = {
                **{name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")},
                "LONGSHORE_ENDPOINT": f"unix:{folder / 'socket'}",
                "LONGSHORE_TOKEN_FILE": str(folder / "owner.token"),
            }
            return Place("controller, Postgres, Docker", environ, store, store / "tmp", cluster.said)

        def here(image: str) -> Here:
            folder = tmp_path_factory.mktemp("here")
            scratch = folder / "scratch"
            environ = {
                **{name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")},
                "TMPDIR": str(scratch),
            }
            return Here(f"here, {image or 'no image'}", environ, folder, scratch, lambda: "", image)

        yield [embedded("docker"), embedded("process"), shared(), here(""), here(TASK_IMAGE)]


@pytest.fixture
def places(services: list[Place], request: pytest.FixtureRequest) -> list[Place]:
    """The services, with folders of this test's own."""
    fresh = []
    for place in services:
        folder = place.folder / request.node.name
        folder.mkdir()
        place.scratch.mkdir(exist_ok=True)
        fresh.append(replace(place, folder=folder))
    return fresh


@pytest.mark.parametrize("script", [EXAMPLES / "hello.py", EXAMPLES / "word_count.py"], ids=lambda s: s.stem)
def test_an_example_gives_the_same_files_wherever_it_runs(places: list[Place], script: Path) -> None:
    files, jobs = same_everywhere(places, script)
    assert {job["state"] for job in jobs} == {"Success"}
    assert sorted(files) == (
        []
        if script.stem == "hello"
        else sorted(["top_ten.txt", *(f"{text.stem}.count" for text in (EXAMPLES / "data").iterdir())])
    )


def test_files_of_any_name_come_and_go_the_same_way_wherever_they_do(places: list[Place]) -> None:
    files, jobs = same_everywhere(places, SCRIPTS / "files.py")
    assert {job["state"] for job in jobs} == {"Success"}
    odd, genome, index = "naïve\nno end".encode(), b">chr1\nACGT\n", b"chr1\t4\n"
    seen = b"as named\n" + odd + b"2080856851 256000\n"
    assert {name: content for name, (_, content) in files.items() if not name.endswith("/")} == {
        "seen": seen,
        """a copy of it's (own)/ü "☃".txt""": seen,
        "beside": b"genome.fasta\ngenome.fasta.idx\n",
        "both": genome + index,
        "parts.head": b">chr1\n",
        "parts.tail": b"ACGT\nchr1\t4\n",
        "the tail alone": b"ACGT\nchr1\t4\n",
        "folder/joined": """chr1\t4\nACGT\nit's $HOME "ü" \\n""".encode(),
        "tree/cat": b"a\nb\nu\n",
        "tree/ls": "a'.txt\nb (2).txt\nü.txt\n".encode(),
        **{f"tree/a b/whole/{name}": content for name, content in FOLDER.items()},
        "found": b"/a b/whole/.hidden\n/a b/whole/deep/x\n/a b/whole/empty\n/cat\n/ls\n",
        f"into a folder/{ODD}": odd,
        "straight/genome.fasta": genome,
        "straight/genome.fasta.idx": index,
        **{f"straight/folder/{name}": content for name, content in FOLDER.items()},
    }
    assert {name for name, (executable, _) in files.items() if executable} == {
        "tree/a b/whole/deep/x",
        "straight/folder/deep/x",
    }


def test_tasks_end_the_same_way_wherever_they_run(places: list[Place]) -> None:
    files, jobs = same_everywhere(places, SCRIPTS / "outcomes.py")
    assert files == {
        "partial": (False, b"until here\n"),
        "cleaned": (False, b"until here\ncleaned\n"),
        "after": (False, b"until here\ncleaned\n" * 2),
        "sizes": (False, b"0.5 1875000000 yes 8\n"),
    }
    assert {job["name"]: (job["state"], job["exit_code"], job["reason"]) for job in jobs} == {
        "fails": ("Failure", 3, ""),
        "keeps its output to itself": ("Failure", 1, ""),
        "child of a failure": ("Cancelled", None, "a job it depends on did not succeed"),
        "grandchild": ("Cancelled", None, "a job it depends on did not succeed"),
        "cleans up in any case": ("Success", 0, ""),
        "after the clean-up": ("Success", 0, ""),
        "runs after all": ("Success", 0, ""),
        "knows its size": ("Success", 0, ""),
        "its memory is worth more": ("Success", 0, ""),
        "says nothing": ("Success", 0, ""),
        "fails every time": ("Failure", 255, ""),
        "takes too long": ("Error", 143, "timed out: it ran longer than 1 s"),
        "killed": ("Failure", 137, ""),
        "breaks its promise": ("Error", 1, "/io/promised does not exist"),
        "wants what is not there": ("Error", 1, "/in/not there does not exist"),
    }
    assert {job["name"]: job["n_attempts"] for job in jobs if job["n_attempts"] != 1} == {
        "child of a failure": 0,
        "grandchild": 0,
        "fails every time": 3,
    }
    assert {job["name"]: job["reserved_mcpu"] for job in jobs if job["reserved_mcpu"] != 250} == {
        "knows its size": 500,
        "its memory is worth more": 500,
    }


def test_commands_mean_the_same_wherever_they_run(places: list[Place]) -> None:
    files, jobs = same_everywhere(places, SCRIPTS / "commands.py")
    assert {job["state"] for job in jobs} == {"Success"}
    hard = jobs[0]["name"]
    assert sorted(files) == ["long", "one shell", "one shell, of the second run", "quoted"]
    quoted = f"{hard}\n{hard}\n  indented, and an empty line:\n\nout\n"
    assert files["quoted"] == (False, quoted.encode())
    assert files["one shell"] == files["one shell, of the second run"] == (False, b"2 /tmp\n5\n")
    *lines, count = files["long"][1].decode().splitlines()
    assert lines == [f"{i} {hard} {'x' * 60}" for i in range(1_000)]
    assert count.split()[0] == "1000"


def test_every_row_of_the_pipelines_contract_means_the_same_wherever_it_runs(places: list[Place]) -> None:
    compared = [place for place in places if "Postgres" not in place.name]  # Its difference is elsewhere.
    for place in compared:
        make_inputs(place.folder / "in")
    running = {
        name: [place.build(name).run(wait=False, disable_progress_bar=True) for place in compared]
        for name in PIPELINES
    }
    for name, batches in running.items():
        first, *others = (place.end(name, batch) for place, batch in zip(compared, batches, strict=True))
        for place, other in zip(compared[1:], others, strict=True):
            assert other == first, f"{name} at {place.name}"
        assert first[0] == ENDS.get(name, "success"), name


ENDS = {
    "commands_run_in_one_bash_to_the_first_that_fails": "failure",
    "every_setter_is_heeded": "failure",
    "what_is_missing_is_named": "failure",
}
"""Of the batches that do not succeed."""


def same_everywhere(places: list[Place], script: Path) -> tuple[Tree, list[dict[str, Any]]]:
    """What the script gives at each service, which is the same."""
    places = [place for place in places if TASK_IMAGE not in place.name]  # The rows are enough for it.
    with ThreadPoolExecutor() as threads:
        (files, jobs), *others = threads.map(lambda place: place.run(script), places)
    for place, (other_files, other_jobs) in zip(places[1:], others, strict=True):
        assert other_jobs == jobs, place.name
        assert other_files == files, place.name
    return files, jobs
