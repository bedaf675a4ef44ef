"""From the user's words to the service's: a pipeline of tasks becomes a batch of jobs.

Job n is the n-th task in the order of running; after the tasks come jobs that copy inputs which are
written straight out. Below /io every name is made of [A-Za-z0-9._-]:

    /io/<name>              the job's own files; a group's are /io/<name> + what its templates append
    /io/inputs/<n>/<name>   its n-th input, or all members of it

An intermediate file waits at <scratch>/<job id>/<name> for the jobs that read it.
"""

from __future__ import annotations

import gc
import os.path
from collections.abc import Iterator
from contextlib import contextmanager

from .checks import safe_name
from .errors import UsageError
from .pipeline import Declaration, Pipeline, Task
from .resource import (
    InputResourceFile,
    Resource,
    ResourceFile,
    ResourceGroup,
    TaskResourceFile,
    substitute,
)
from .status import JobSpec

_INPUTS = "inputs"

# Linux refuses an argument longer than 128 KiB, and all of them together above 2 MiB. A longer script
# is handed over in pieces of so many characters: short enough to have 4 bytes each, and for a worker
# without mount namespaces to put a long path of its own in the place of each /io.
_PIECE = 10_000
_LONGEST_SCRIPT = 1_500_000

Copies = tuple[tuple[str, str], ...]


def compile_pipeline(pipeline: Pipeline, *, scratch: str, folder: str) -> list[JobSpec]:
    """The jobs of one run, job 1 first.

    Parameters
    ----------
    scratch : where this run's intermediate files go; nobody else uses it.
    folder : what relative paths of inputs and outputs are relative to.

    Raises UsageError for a cycle and for a script that no machine can start.
    """
    order = pipeline._ordered()
    ids = {task._position: job_id for job_id, task in enumerate(order, start=1)}
    names: dict[str, str] = {}
    for task in order:
        names.update(_own_names(task._declaration))
    written: dict[int, list[tuple[Resource, str]]] = {}
    straight: list[tuple[Resource, str]] = []
    for resource, dest in pipeline._written:
        maker = _maker(resource)
        if maker is None:
            straight.append((resource, absolute(dest, folder)))
        else:
            written.setdefault(maker._position, []).append((resource, absolute(dest, folder)))
    homes = {position: f"{scratch}/{job_id}" for position, job_id in ids.items()}
    with _nothing_collected():
        jobs = [_job(task, ids, names, homes, written.get(task._position, []), folder) for task in order]
    jobs.extend(_copying_job(resource, dest, folder) for resource, dest in straight)
    return jobs


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Many objects are made, and none is garbage: looking for it takes as long as making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def absolute(path: str, folder: str) -> str:
    """An absolute path, or a URL as it is; a ``/`` at the end, which means a directory, stays.

    >>> absolute('out/../a b.txt', '/home/me'), absolute('out/', '/home/me'), absolute('gs://b/x', '/')
    ('/home/me/a b.txt', '/home/me/out/', 'gs://b/x')
    """
    if path.startswith("gs://"):
        return path
    whole = os.path.normpath(os.path.join(folder, path))
    if whole.startswith("//"):  # POSIX lets exactly two slashes stand.
        whole = whole[1:]
    return whole + "/" if path.endswith("/") and whole != "/" else whole


def plan(jobs: list[JobSpec]) -> str:
    """What would run, for people."""
    lines = []
    for job_id, job in enumerate(jobs, start=1):
        after = f" after {', '.join(map(str, job.parents))}" if job.parents else ""
        lines.append(f"job {job_id} {job.name!r}{after}" + (f" in {job.image}" if job.image else ""))
        lines.extend(f"    in   {source} → {destination}" for source, destination in job.input_files)
        lines.extend(f"    | {line}" for line in script_of(job).splitlines())
        lines.extend(f"    out  {source} → {destination}" for source, destination in job.output_files)
    return "\n".join(lines)


def script_of(job: JobSpec) -> str:
    """The shell commands of a compiled job, whichever way they are handed over."""
    return "".join(job.command[4:]).removeprefix("set --; ") if len(job.command) > 3 else job.command[-1]


def _own_names(declaration: Declaration) -> dict[str, str]:
    """A distinct name below /io for each of a task's own files, by token."""
    names: dict[str, str] = {}
    taken = {_INPUTS}
    for name, resource in declaration.resources.items():
        if isinstance(resource, ResourceGroup):
            ends = {str(member): _end(member) for member in resource._members.values()}
            root = _free(safe_name(name), ["", *ends.values()], taken)
            names[str(resource)] = root
            names.update((token, root + end) for token, end in ends.items())
        elif resource._made:
            names[str(resource)] = _free(safe_name(name), [_end(resource)], taken) + _end(resource)
    return names


def _end(file: ResourceFile) -> str:
    """What follows the safe name of a file, or of its group's root."""
    if isinstance(file, TaskResourceFile) and file._group is not None:
        return file._template
    return file._extension


def _free(stem: str, ends: list[str], taken: set[str]) -> str:
    """`stem`, numbered if any of its names in /io is taken; takes them all."""
    candidate, n = stem, 1
    while not taken.isdisjoint(entries := {(candidate + end).split("/")[0] for end in ends}):
        n += 1
        candidate = f"{stem}-{n}"
    taken |= entries
    return candidate


def _job(
    task: Task,
    ids: dict[int, int],
    names: dict[str, str],
    homes: dict[int, str],
    written: list[tuple[Resource, str]],
    folder: str,
) -> JobSpec:
    declaration = task._declaration
    paths = {
        token: f"/io/{names[token]}"
        for resource in declaration.resources.values()
        for token in _tokens(resource)
        if token in names
    }
    input_files: list[tuple[str, str]] = []
    for n, unit in enumerate(declaration.inputs.values(), start=1):
        here = f"/io/{_INPUTS}/{n}"
        maker = _maker(unit)
        if maker is None:
            input_files.extend(_outside(unit, here, folder, paths))
        else:
            input_files.extend(
                (f"{homes[maker._position]}/{names[str(file)]}", f"{here}/{names[str(file)]}")
                for file in _files(unit)
            )
            paths.update((token, f"{here}/{names[token]}") for token in _tokens(unit))
    output_files = [
        (f"/io/{names[str(file)]}", f"{homes[task._position]}/{names[str(file)]}")
        for unit in declaration.outputs.values()
        for file in _files(unit)
    ]
    for resource, dest in written:
        output_files.extend(_destinations(resource, dest, paths))
    return JobSpec(
        command=_bash(task, "\n".join(substitute(command, paths) for command in declaration.commands)),
        name=declaration.name,
        attributes=dict(declaration.attributes),
        image=declaration.image,
        env={key: substitute(value, paths) for key, value in declaration.env.items()},
        cpu_mcpu=declaration.cpu_mcpu,
        memory_bytes=declaration.memory_bytes,
        storage_bytes=declaration.storage_bytes,
        parents=tuple(sorted(ids[position] for position in declaration.parents)),
        input_files=tuple(input_files),
        output_files=tuple(output_files),
        always_run=declaration.always_run,
        timeout_ms=declaration.timeout_ms,
        retries=declaration.retries,
        always_copy_output=declaration.always_copy_output,
    )


def _copying_job(resource: Resource, dest: str, folder: str) -> JobSpec:
    """A job that copies an input to where `write_output` said, with nothing in between."""
    paths: dict[str, str] = {}
    return JobSpec(
        command=("true",),
        name=f"copy {dest}",
        input_files=tuple(_outside(resource._unit(), f"/io/{_INPUTS}/1", folder, paths)),
        output_files=tuple(_destinations(resource, dest, paths)),
    )


def _outside(unit: Resource, here: str, folder: str, paths: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Copies that bring an input from outside to `here`; adds its paths to `paths`."""
    if isinstance(unit, ResourceGroup):
        first = next(iter(unit._members.values()))
        assert isinstance(first, InputResourceFile)
        paths[str(unit)] = f"{here}/{safe_name(os.path.basename(first._source)).partition('.')[0] or '_'}"
        for identifier, member in unit._members.items():
            assert isinstance(member, InputResourceFile)
            paths[str(member)] = f"{paths[str(unit)]}.{identifier}"
            yield absolute(member._source, folder), paths[str(member)]
    else:
        assert isinstance(unit, InputResourceFile)
        name = safe_name(os.path.basename(unit._source.rstrip("/")))
        paths[str(unit)] = f"{here}/{name.removesuffix(unit._extension)}{unit._extension}"
        yield absolute(unit._source, folder), paths[str(unit)]


def _destinations(resource: Resource, dest: str, paths: dict[str, str]) -> Iterator[tuple[str, str]]:
    if isinstance(resource, ResourceGroup):
        for identifier, member in resource._members.items():
            yield paths[str(member)], f"{dest}.{identifier}"
    elif dest.endswith("/") and isinstance(resource, InputResourceFile):
        # Its own name, not the one that it has below /io.
        yield paths[str(resource)], dest + os.path.basename(resource._source.rstrip("/"))
    else:
        yield paths[str(resource)], dest


def _bash(task: Task, script: str) -> tuple[str, ...]:
    script = f"set -e\n{script}"
    if len(script) <= _PIECE:
        return ("bash", "-c", script)
    if len(script.encode()) > _LONGEST_SCRIPT:
        raise UsageError(
            f"the commands of {task._described()} are too long to be started: {len(script):,} characters",
            hint="put data into a file and read_input it, or gather in several tasks",
        )
    return ("bash", "-c", 'eval "$(printf %s "$@")"', "bash", *_pieces(f"set --; {script}"))


def _pieces(text: str) -> Iterator[str]:
    """Cut behind white space where there is some, so that no path is cut in two."""
    while len(text) > _PIECE:
        cut = max(text.rfind(" ", 0, _PIECE), text.rfind("\n", 0, _PIECE)) + 1 or _PIECE
        yield text[:cut]
        text = text[cut:]
    yield text


def _maker(resource: Resource) -> Task | None:
    return None if isinstance(resource, InputResourceFile) else getattr(resource, "_task", None)


def _files(unit: Resource) -> list[ResourceFile]:
    return list(unit._members.values()) if isinstance(unit, ResourceGroup) else [unit]


def _tokens(unit: Resource) -> list[str]:
    members = list(map(str, unit._members.values())) if isinstance(unit, ResourceGroup) else []
    return [str(unit), *members]
