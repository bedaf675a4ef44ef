"""One attempt of a job on this machine: its files come, its command runs, its files go.

What it means is decided as by the service: which container's failure counts, with which exit code and
reason, and whether output files are copied.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..status import ContainerStatus, JobSpec, JobState
from ..units import BYTES_PER_CORE, reserved_mcpu
from .files import Interrupted, IoFolder, remove_tree
from .process import Bell, CannotStart, Ended, Limits, at_home, run_process

if TYPE_CHECKING:
    from .containers import Engine


_WORK_MODE = 0o700


@dataclass(slots=True)
class Surroundings:
    """What is the same for all attempts of a run."""

    batch_id: int
    token: str
    """Names the run among all runs of this machine."""
    folder: str
    """For this run alone."""
    safe_folder: str
    """The same by a path that means the same in any quoting of any shell."""
    scratch: str
    """Where intermediate files wait for the jobs that read them."""
    readers: Counter[str]
    """How many jobs read an intermediate file."""
    link_inputs: bool
    keep_scratch: bool
    engine: Engine | None
    """None: no job has an image."""
    environ: Mapping[bytes, bytes]
    """Of this program, for commands without an image."""
    spare: list[str] = field(default_factory=list)
    """Work folders of attempts that are over, empty: a new one costs more than all else but bash itself."""
    cancelled: Bell = field(default_factory=Bell)
    """The batch was: all but always_run jobs stop."""
    stopped: Bell = field(default_factory=Bell)
    """Everything is to stop ..."""
    killed: Bell = field(default_factory=Bell)
    """... and that at once."""

    def close(self) -> None:
        for bell in (self.cancelled, self.stopped, self.killed):
            bell.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt means for its job."""

    state: JobState
    exit_code: int | None
    reason: str
    main_ms: int
    containers: Mapping[str, ContainerStatus]


class Attempt:
    """Made when its job is to start; to be run once, and then removed."""

    def __init__(self, spec: JobSpec, job_id: int, number: int, around: Surroundings) -> None:
        self.id = f"{around.token}-{job_id}-{number}"
        self.number = number
        self._spec = spec
        self._job_id = job_id
        self._around = around
        name = f"{job_id}.{number}"
        self._work = f"{around.safe_folder}/{name}.work"
        self._io = f"{around.safe_folder}/{name}.io"
        self._logs = f"{around.folder}/{name}"
        bells = (around.stopped,) if spec.always_run else (around.stopped, around.cancelled)
        self._bells: Sequence[Bell] = bells
        self._has_io = bool(
            spec.image
            or spec.input_files
            or spec.output_files
            or any("/io" in text for text in (*spec.command, *spec.env.values()))
        )
        self.mcpu = reserved_mcpu(spec.cpu_mcpu, spec.memory_bytes)
        self._began = time.monotonic()
        self._containers: dict[str, ContainerStatus] = {}
        self._main_ms = 0

    @property
    def containers(self) -> Sequence[str]:
        """The names of those that it has."""
        spec = self._spec
        return [
            *(["input"] if spec.input_files else []),
            "main",
            *(["output"] if spec.output_files else []),
        ]

    def log(self, container: str) -> str:
        """The file in which its output is, if there is any."""
        return f"{self._logs}.{container}.log"

    def run(self) -> Outcome:
        """From its input files to its output files. Raises OSError where this machine fails."""
        if self._around.spare:
            self._work = self._around.spare.pop()
        else:
            os.mkdir(self._work, _WORK_MODE)
        if self._has_io:
            os.mkdir(self._io)
            os.chmod(self._io, 0o777)  # To whatever user an image has; the folder above is ours alone.
        try:
            return self._run()
        except Interrupted:
            return self._outcome("Cancelled", None, "")

    def remove(self) -> None:
        """Nothing is left of it but its logs. Raises OSError."""
        if os.stat(self._work).st_mode & 0o7777 == _WORK_MODE and not os.listdir(self._work):
            self._around.spare.append(self._work)
        else:
            remove_tree(self._work)
        if not self._has_io:
            return
        try:
            remove_tree(self._io)
        except PermissionError:
            if self._around.engine is None:
                raise
            self._around.engine.remove_files(self._spec.image, self._real_io)
            remove_tree(self._io)

    @property
    def _real_io(self) -> str:
        """By the path that a Docker engine knows."""
        return os.path.realpath(self._io)

    def _is_unwanted(self) -> bool:
        return any(bell.rung for bell in self._bells)

    def _run(self) -> Outcome:
        spec = self._spec
        io = IoFolder(self._io, self._is_unwanted)
        if spec.input_files and (errors := self._move_files("input", lambda: self._bring(io))):
            return self._outcome("Error", 1, errors[-1])
        state, exit_code, reason = self._run_main()
        if state == "Cancelled" or exit_code is None:
            return self._outcome(state, None, reason)
        if spec.output_files and (state == "Success" or spec.always_copy_output):
            errors = self._move_files("output", lambda: self._fetch(io))
            if errors and state == "Success":
                return self._outcome("Error", 1, errors[-1])
        return self._outcome(state, exit_code, reason)

    def _bring(self, io: IoFolder) -> list[str]:
        around = self._around
        alone: list[tuple[str, str]] = []
        others: list[tuple[str, str]] = []
        for source, destination in self._spec.input_files:
            only_reader = around.readers[source] == 1 and not (self._spec.retries or around.keep_scratch)
            intermediate = source.startswith(around.scratch + "/")
            (alone if only_reader and intermediate else others).append((source, destination))
        errors = io.bring(alone, io.move)
        return errors + io.bring(others, io.link if around.link_inputs else io.copy_readable)

    def _fetch(self, io: IoFolder) -> list[str]:
        scratch = self._around.scratch + "/"
        errors = io.fetch([copy for copy in self._spec.output_files if copy[1].startswith(scratch)], io.keep)
        return errors + io.fetch(
            [copy for copy in self._spec.output_files if not copy[1].startswith(scratch)], io.copy
        )

    def _move_files(self, container: str, move: Callable[[], list[str]]) -> list[str]:
        started_ms = self._now_ms()
        errors = move()
        if errors:
            with open(self.log(container), "w", errors="backslashreplace") as log:
                log.writelines(f"error: {error}\n" for error in errors)
        self._note(
            container,
            exit_code=1 if errors else 0,
            error_kind="files" if errors else "",
            error=errors[-1] if errors else "",
            started_ms=started_ms,
        )
        return errors

    def _run_main(self) -> tuple[JobState, int | None, str]:
        """State, exit code and reason of the command."""
        started_ms: int | None = None
        try:
            if self._spec.image:
                assert self._around.engine is not None
                self._around.engine.prepare(self._spec.image)
            started_ms = self._now_ms()
            ended = self._command()
        except CannotStart as refused:
            kind = getattr(refused, "kind", "cannot start")
            self._note("main", exit_code=None, error_kind=kind, error=str(refused), started_ms=None)
            return "Error", None, str(refused)
        self._main_ms = self._now_ms() - started_ms
        kind, reason = ended.error_kind, ended.error
        if ended.timed_out:
            kind = "timed out"
            reason = f"timed out: it ran longer than {self._spec.timeout_ms / 1000:g} s"
        self._note("main", exit_code=ended.exit_code, error_kind=kind, error=reason, started_ms=started_ms)
        if ended.stopped:
            return "Cancelled", None, ""
        if kind:
            return "Error", ended.exit_code, reason
        return ("Failure" if ended.exit_code else "Success"), ended.exit_code, ""

    def _command(self) -> Ended:
        spec, around = self._spec, self._around
        memory_bytes = BYTES_PER_CORE * self.mcpu // 1000
        own = {
            "LONGSHORE_BATCH_ID": str(around.batch_id),
            "LONGSHORE_JOB_ID": str(self._job_id),
            "LONGSHORE_ATTEMPT_ID": self.id,
            "LONGSHORE_CPU": f"{self.mcpu / 1000:g}",
            "LONGSHORE_MEMORY_BYTES": str(memory_bytes),
        }
        timeout_s = spec.timeout_ms / 1000 if spec.timeout_ms else None
        limits = Limits(timeout_s, self._bells, around.killed)
        if spec.image:
            assert around.engine is not None
            return around.engine.run(
                f"longshore-{self.id}",
                spec.image,
                spec.command,
                {**spec.env, **own},
                io_folder=self._real_io,
                mcpu=self.mcpu,
                memory_bytes=memory_bytes,
                log=self.log("main"),
                limits=limits,
            )
        own = {name: at_home(value, self._io) for name, value in spec.env.items()} | own
        environ = {**around.environ, **{name.encode(): value.encode() for name, value in own.items()}}
        return run_process(
            spec.command,
            environ,
            io_folder=self._io,
            work_folder=self._work,
            log=self.log("main"),
            limits=limits,
        )

    def _note(
        self, container: str, *, exit_code: int | None, error_kind: str, error: str, started_ms: int | None
    ) -> None:
        state = "Error" if error_kind else "Failure" if exit_code else "Success"
        try:
            log_bytes = os.stat(self.log(container)).st_size
        except FileNotFoundError:
            log_bytes = 0
        self._containers[container] = ContainerStatus(
            name=container,
            state=state,
            image=self._spec.image if container == "main" else "",
            exit_code=exit_code,
            error_kind=error_kind,
            error=error,
            pull_started_ms=None,
            pull_ended_ms=None,
            started_ms=started_ms,
            ended_ms=self._now_ms(),
            log_bytes=log_bytes,
        )

    def _outcome(self, state: JobState, exit_code: int | None, reason: str) -> Outcome:
        return Outcome(state, exit_code, reason, self._main_ms, MappingProxyType(self._containers))

    def _now_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)
