"""PURE. What a user writes: a Pipeline of Tasks, shell commands with files flowing between them."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, overload

from .checks import (
    ROOT,
    check_attributes,
    check_bool,
    check_file_name,
    check_identifier,
    check_path,
    check_retries,
    check_template,
    check_text,
)
from .errors import UsageError, WrongType
from .resource import (
    InputResourceFile,
    Mentionable,
    Resource,
    ResourceFile,
    ResourceGroup,
    TaskResourceFile,
    issue_token,
    mentioned,
)
from .units import Amount, parse_bytes, parse_cpu, parse_seconds

if TYPE_CHECKING:
    from .handles import Batch
    from .progress import ProgressKind


class Backend(Protocol):
    """Where a pipeline runs."""

    _run_options: frozenset[str]
    """What `_run` takes besides the three that every backend takes."""

    def _run(
        self,
        pipeline: Pipeline,
        *,
        dry_run: bool,
        verbose: bool,
        delete_scratch_on_exit: bool,
        **options: Any,
    ) -> Batch | None: ...


@dataclass(slots=True)
class Declaration:
    """All that was said about one task; what compiling reads."""

    name: str
    attributes: dict[str, str]
    commands: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    image: str = ""
    cpu_mcpu: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0
    timeout_ms: int = 0
    retries: int = 0
    always_run: bool = False
    always_copy_output: bool = False
    parents: set[int] = field(default_factory=set)
    """Positions, within the pipeline, of the tasks it depends on."""
    resources: dict[str, TaskResourceFile | ResourceGroup] = field(default_factory=dict)
    """Its own files and groups, by name."""
    inputs: dict[str, Resource] = field(default_factory=dict)
    """By token: what it mentions and does not make."""
    outputs: dict[str, Resource] = field(default_factory=dict)
    """By token: what it makes and other tasks mention."""


class Task(Mentionable):
    """Shell commands that run in one container; made only by `Pipeline.new_task`.

    Every setter returns the task. ``t.anything`` and ``t['anything']`` are the task's file of that
    name: the same object every time, a string that commands may mention.

    >>> p = Pipeline(name='words')
    >>> t = p.new_task(name='count').image('python:3.11').cpu(2).memory('4Gi')
    >>> t.command(f'wc -w {p.read_input("/data/a.txt")} > {t.words}')
    <Task 'count' of pipeline 'words'>
    """

    __slots__ = ("__weakref__", "_declaration", "_pipeline", "_position", "_token")

    def __init__(self, pipeline: Pipeline, position: int, declaration: Declaration) -> None:
        self._pipeline = pipeline
        self._position = position
        self._declaration = declaration
        self._token = issue_token(self)

    @property
    def name(self) -> str:
        """The name given to `new_task`, or ``''``.

        >>> Pipeline().new_task(name='align').name
        'align'
        """
        return self._declaration.name

    @property
    def attributes(self) -> dict[str, str]:
        """A copy of the attributes given to `new_task`.

        >>> Pipeline().new_task(attributes={'stage': 'align'}).attributes
        {'stage': 'align'}
        """
        return dict(self._declaration.attributes)

    def command(self, command: str) -> Self:
        """Append shell commands; all run in one bash with ``set -e``: the first failing one ends the task.

        Mentioning a file of another task makes this task depend on it and moves the file here.

        Raises UsageError, and changes nothing, when the text mentions a task, a pipeline, a file of
        another pipeline, or a file that its task never made.

        >>> p = Pipeline()
        >>> a, b = p.new_task(name='a'), p.new_task(name='b')
        >>> _ = a.command(f'echo one > {a.words}').command(f'echo two >> {a.words}')
        >>> _ = b.command(f'wc -w < {a.words}')     # b runs after a
        """
        check_text("command", command)
        self._mention(command)
        self._declaration.commands.append(str(command))
        return self

    def declare_resource_group(self, **groups: Mapping[str, str]) -> Self:
        """Declare files with a common root: ``declare_resource_group(out={'bed': '{root}.bed'})``.

        ``t.out`` in a command is the root, ``t.out.bed`` the member. A template starts with
        ``{root}``, which is the only thing replaced in it.

        >>> t = Pipeline().new_task()
        >>> _ = t.declare_resource_group(out={'bed': '{root}.bed', 'fasta.idx': '{root}.fasta.idx'})
        >>> _ = t.command(f'convert --out {t.out}; wc -l {t.out.bed} {t.out["fasta.idx"]}')
        """
        for name, templates in groups.items():
            check_file_name(name)
            if name in self._declaration.resources:
                raise UsageError(
                    f"{self._described()} has a {name!r} already: declare a group before its first use, once"
                )
            if not isinstance(templates, Mapping) or not templates:
                raise WrongType(f"resource group {name!r} must be {{identifier: template}}: {templates!r}")
            for identifier, template in templates.items():
                check_identifier(identifier)
                check_template(name, identifier, template)
            if len(set(templates.values())) < len(templates):
                raise UsageError(f"resource group {name!r}: two members have one template: {dict(templates)}")
        for name, templates in groups.items():
            group = ResourceGroup(self._pipeline, self, name)
            for identifier, template in templates.items():
                group._members[identifier] = TaskResourceFile(
                    self._pipeline, self, f"{name}.{identifier}", group, template.removeprefix(ROOT)
                )
            self._declaration.resources[name] = group
        return self

    def depends_on(self, *tasks: Task) -> Self:
        """Run after these tasks, also when no file says so.

        >>> p = Pipeline()
        >>> tests = [p.new_task(name=f'test-{i}') for i in range(3)]
        >>> _ = p.new_task(name='clean up').depends_on(*tests).always_run()
        """
        for task in tasks:
            if not isinstance(task, Task):
                raise WrongType(f"{self._described()} can depend on tasks only, not on {task!r}")
            if task._pipeline is not self._pipeline:
                raise UsageError(
                    f"{self._described()} of {self._pipeline._described()} cannot depend on "
                    f"{task._described()} of another pipeline, {task._pipeline._described()}"
                )
            if task is self:
                raise UsageError(f"{self._described()} cannot depend on itself")
        self._declaration.parents.update(task._position for task in tasks)
        return self

    def image(self, image: str) -> Self:
        """Run in this Docker image, which must contain bash.

        Without it a task runs in the service's default image; on a `LocalBackend` in your own shell.

        >>> _ = Pipeline().new_task().image('python:3.11')
        """
        if not check_text("image", image) or any(c.isspace() for c in image):
            raise UsageError(f"image({image!r}): an image has a name, e.g. 'python:3.11'")
        self._declaration.image = str(image)
        return self

    def cpu(self, cores: Amount) -> Self:
        """Ask for cores: ``2``, ``0.5`` or ``'500m'``; each comes with 3.75 GB of memory.

        >>> _ = Pipeline().new_task().cpu('500m')
        """
        self._declaration.cpu_mcpu = parse_cpu(cores)
        return self

    def memory(self, memory: Amount) -> Self:
        """Ask for memory: ``'3.75G'`` (10^9), ``'4Gi'`` (2^30); a bare number is gigabytes.

        More than 3.75 GB for each core reserves, and costs, the cores that come with it.

        >>> Pipeline().new_task().memory('4 GB')
        Traceback (most recent call last):
        longshore.errors.UsageError: memory('4 GB'): memory is a number with K, M, G, T, P or ...
        """
        self._declaration.memory_bytes = parse_bytes("memory", memory)
        return self

    def storage(self, storage: Amount) -> Self:
        """Ask for disk space, in the units of `memory`.

        >>> _ = Pipeline().new_task().storage('100G')
        """
        self._declaration.storage_bytes = parse_bytes("storage", storage)
        return self

    def env(self, name: str, value: str) -> Self:
        """Set an environment variable of the commands; like them, the value may mention files.

        >>> p = Pipeline()
        >>> _ = p.new_task().env('WORDS', p.read_input('words.txt')).command('wc -w "$WORDS"')
        """
        if not check_text("env name", name) or "=" in name:
            raise UsageError(f"env({name!r}, …): a variable has a name without '=', e.g. 'THREADS'")
        check_text(f"env {name}", value)
        self._mention(value)
        self._declaration.env[name] = str(value)
        return self

    def always_run(self, always_run: bool = True) -> Self:
        """Run when all dependencies are complete, whatever their result, also in a cancelled batch.

        >>> _ = Pipeline().new_task(name='clean up').always_run()
        """
        self._declaration.always_run = check_bool("always_run", always_run)
        return self

    def timeout(self, seconds: float) -> Self:
        """End in Error, reason ``timed out``, when the commands run longer than these seconds.

        >>> _ = Pipeline().new_task().timeout(3600)
        """
        self._declaration.timeout_ms = parse_seconds("timeout", seconds)
        return self

    def retries(self, n: int) -> Self:
        """Try again up to `n` times after a Failure or Error of the task's own; a lost machine is none.

        >>> _ = Pipeline().new_task().retries(2)
        """
        self._declaration.retries = check_retries(n)
        return self

    def always_copy_output(self, always_copy_output: bool = True) -> Self:
        """Copy output files also when the commands fail.

        >>> _ = Pipeline().new_task().always_copy_output()
        """
        self._declaration.always_copy_output = check_bool("always_copy_output", always_copy_output)
        return self

    def __getitem__(self, name: str) -> Any:  # Any: a file, or a group after declare_resource_group.
        resources = self._declaration.resources
        if name not in resources:
            check_file_name(name)
            resources[name] = TaskResourceFile(self._pipeline, self, name)
        return resources[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python and IPython ask for such names on their own.
            raise AttributeError(f"a task has no file {name!r}: names do not start with an underscore")
        return self[name]

    def __str__(self) -> str:
        return self._token  # So that `command` can refuse a task in its text by name.

    def __repr__(self) -> str:
        return f"<Task {self.name or self._position!r} of {self._pipeline._described()}>"

    def _described(self) -> str:
        return f"task {self.name or self._position!r}"

    def _mention(self, text: str) -> None:
        """Record what `text` mentions; all of it is checked before anything is changed."""
        owners = list(mentioned(text))
        for owner in owners:
            self._check_mention(owner)
        for owner in owners:
            assert isinstance(owner, ResourceFile | ResourceGroup)
            unit = owner._unit()
            maker = unit._task if isinstance(unit, TaskResourceFile | ResourceGroup) else None
            if maker is self:
                if isinstance(unit, TaskResourceFile):
                    unit._made = True
                continue
            self._declaration.inputs[str(unit)] = unit
            if maker is not None:
                self._declaration.parents.add(maker._position)
                maker._declaration.outputs[str(unit)] = unit

    def _check_mention(self, owner: Mentionable) -> None:
        if not isinstance(owner, ResourceFile | ResourceGroup):
            raise UsageError(
                f"a command of {self._described()} mentions {owner._described()}",
                hint="mention one of its files, e.g. {task.ofile}; use depends_on(task) for order alone",
            )
        if owner._pipeline is not self._pipeline:
            raise UsageError(
                f"{self._described()} of {self._pipeline._described()} mentions {owner._described()} "
                f"of another pipeline, {owner._pipeline._described()}"
            )
        if isinstance(owner, TaskResourceFile) and owner._task is not self and not owner._made:
            raise UsageError(
                f"{self._described()} mentions {owner._described()}, which that task never made",
                hint=f"mention {owner._name!r} in a command of {owner._task._described()} first",
            )


class Pipeline(Mentionable):
    """Tasks and the files that flow between them.

    >>> p = Pipeline(name='hello')
    >>> a = p.new_task(name='say')
    >>> b = p.new_task(name='shout')
    >>> _ = a.command(f'echo hello > {a.words}')
    >>> _ = b.command(f'tr a-z A-Z < {a.words} > {b.loud}')
    >>> p.write_output(b.loud, 'loud.txt')

    :param name: the batch's attribute ``name``.
    :param backend: where it runs, e.g. ``BatchBackend('my-project')``; without one it runs on this
        machine, on a `LocalBackend`.
    :param attributes: str to str, shown with it; ``name`` is refused.
    :param default_image: given to each new task through its setter, as are ``default_cpu``,
        ``default_memory``, ``default_storage`` and ``default_timeout``; a later setter wins.

    Raises UsageError for a default that no task could have.
    """

    _count = 0

    def __init__(
        self,
        name: str | None = None,
        backend: Backend | None = None,
        attributes: Mapping[str, str] | None = None,
        default_image: str | None = None,
        default_memory: Amount | None = None,
        default_cpu: Amount | None = None,
        default_storage: Amount | None = None,
        default_timeout: float | None = None,
    ) -> None:
        if backend is not None and not hasattr(backend, "_run_options"):
            raise WrongType(f"backend must be a backend, e.g. BatchBackend('my-project'), not {backend!r}")
        self._name = "" if name is None else check_text("name", name)
        self._attributes = check_attributes(attributes)
        self._backend = backend
        self._defaults = [
            (setter, value)
            for setter, value in (
                (Task.image, default_image),
                (Task.cpu, default_cpu),
                (Task.memory, default_memory),
                (Task.storage, default_storage),
                (Task.timeout, default_timeout),
            )
            if value is not None
        ]
        self._tasks: list[Task] = []
        self._read: list[Resource] = []
        """What was read: kept, since the registry of tokens does not keep it."""
        self._written: list[tuple[Resource, str]] = []
        self._number = Pipeline._count
        Pipeline._count += 1
        self._token = issue_token(self)
        self._make_task("", {})  # Refuses defaults that no task could have.

    @property
    def name(self) -> str:
        """The name given to the constructor, or ``''``.

        >>> Pipeline(name='hello').name
        'hello'
        """
        return self._name

    @property
    def attributes(self) -> dict[str, str]:
        """A copy of the attributes given to the constructor.

        >>> Pipeline(attributes={'cohort': 'A'}).attributes
        {'cohort': 'A'}
        """
        return dict(self._attributes)

    def new_task(self, name: str | None = None, attributes: Mapping[str, str] | None = None) -> Task:
        """Add a task. Names need not be unique. Attributes, str to str, are shown with it.

        >>> p = Pipeline(name='hello')
        >>> p.new_task(name='say', attributes={'stage': 'first'})
        <Task 'say' of pipeline 'hello'>
        """
        task = self._make_task("" if name is None else check_text("name", name), check_attributes(attributes))
        self._tasks.append(task)
        return task

    def read_input(self, path: str | PathLike[str], extension: str | None = None) -> InputResourceFile:
        """A file from outside: a path of this machine. It need not exist yet.

        A relative path counts from the directory in which `run` is called; ``~`` means nothing. With
        wildcards (``*``, ``?``, ``[…]``) it is a directory of what matches. With `extension` the file's
        name ends so wherever a command sees it.

        >>> p = Pipeline()
        >>> words = p.read_input('my words', extension='.txt')
        >>> _ = p.new_task().command(f'wc -w {words}')
        """
        resource = InputResourceFile(self, check_path("read_input", path))
        if extension is not None:
            resource.add_extension(extension)
        self._read.append(resource)
        return resource

    def read_input_group(self, **paths: str | PathLike[str]) -> ResourceGroup:
        """Files from outside that a command sees side by side, as ``<root>.<identifier>``.

        >>> p = Pipeline()
        >>> data = p.read_input_group(bed='plink/x.bed', bim='plink/x.bim')
        >>> _ = p.new_task().command(f'plink --bfile {data}; wc -l {data.bim}')
        """
        if not paths:
            raise UsageError("a group needs members, e.g. read_input_group(bed='a.bed', bim='a.bim')")
        sources = {check_identifier(key): check_path("read_input_group", paths[key]) for key in paths}
        group = ResourceGroup(self, None, next(iter(sources.values())))
        for identifier, source in sources.items():
            group._members[identifier] = InputResourceFile(self, source, group)
        self._read.append(group)
        return group

    def write_output(self, resource: Resource, dest: str | PathLike[str]) -> None:
        """Copy a file to `dest` when its task succeeded; a group's members to ``dest.<identifier>``.

        May be called again to add destinations. A `dest` that ends in ``/`` is a directory.

        >>> p = Pipeline()
        >>> t = p.new_task()
        >>> _ = t.command(f'echo hello > {t.words}')
        >>> p.write_output(t.words, 'results/hello.txt')
        """
        if not isinstance(resource, ResourceFile | ResourceGroup):
            raise WrongType(f"write_output: {resource!r} is not a file of a pipeline", hint="e.g. task.ofile")
        if resource._pipeline is not self:
            raise UsageError(
                f"write_output of {self._described()}: {resource._described()} is of another pipeline, "
                f"{resource._pipeline._described()}"
            )
        if isinstance(resource, TaskResourceFile) and not resource._made:
            raise UsageError(
                f"write_output: no command of {resource._task._described()} mentions {resource._described()}"
            )
        path = check_path("write_output", dest)
        if isinstance(resource, ResourceGroup) and path.endswith("/"):
            raise UsageError(f"write_output: a group goes to dest + '.' + identifier, not into {path!r}")
        self._written.append((resource, path))

    def select_tasks(self, pattern: str) -> list[Task]:
        """Tasks whose name starts with a match of a regular expression, in creation order.

        >>> p = Pipeline(name='p')
        >>> tasks = [p.new_task(name=name) for name in ('align-1', 'sort-1', 'align-2')]
        >>> p.select_tasks('align-')
        [<Task 'align-1' of pipeline 'p'>, <Task 'align-2' of pipeline 'p'>]
        """
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"select_tasks({pattern!r}): not a regular expression: {error}") from None
        return [task for task in self._tasks if compiled.match(task.name)]

    @overload
    def run(
        self,
        dry_run: Literal[False] = False,
        verbose: bool = False,
        delete_scratch_on_exit: bool = True,
        *,
        wait: bool = True,
        open: bool = False,
        progress: ProgressKind = "auto",
        disable_progress_bar: bool = False,
        check: bool = True,
    ) -> Batch: ...

    @overload
    def run(self, dry_run: bool, verbose: bool = False, **backend_options: Any) -> Batch | None: ...

    def run(
        self,
        dry_run: bool = False,
        verbose: bool = False,
        delete_scratch_on_exit: bool = True,
        **backend_options: Any,
    ) -> Batch | None:
        """Run the tasks on the backend; may be called again, for another run.

        :param dry_run: print what would run and run nothing.
        :param verbose: print what runs.
        :param delete_scratch_on_exit: remove intermediate files in the end.
        :param backend_options: see the backend: `BatchBackend`, `LocalBackend`.

        Returns the batch's handle; None after a dry run. Raises BatchFailedError when the batch does not
        succeed, and UsageError, before anything runs, for tasks that depend on each other in a circle
        and for an option that the backend does not know.

        >>> p = Pipeline(name='hello')
        >>> t = p.new_task(name='say').command('echo hello')
        >>> p.run(dry_run=True)
        job 1 'say'
            | set -e
            | echo hello
        """
        backend = self._backend
        if backend is None:
            from .local.backend import LocalBackend

            backend = LocalBackend()
        for option in backend_options.keys() - backend._run_options:
            known = sorted(backend._run_options)
            close = difflib.get_close_matches(option, known, n=1)
            raise WrongType(
                f"run() on a {type(backend).__name__} has no option {option!r}",
                hint=f"did you mean `{close[0]}`?" if close else f"it has {', '.join(known)}",
            )
        return backend._run(
            self,
            dry_run=dry_run,
            verbose=verbose,
            delete_scratch_on_exit=delete_scratch_on_exit,
            **backend_options,
        )

    def _make_task(self, name: str, attributes: dict[str, str]) -> Task:
        task = Task(self, len(self._tasks), Declaration(name, attributes))
        for setter, value in self._defaults:
            setter(task, value)  # type: ignore[arg-type]  # Each with its own; checked when it is called.
        return task

    def _ordered(self) -> list[Task]:
        """Dependencies first, otherwise creation order. Raises UsageError for a cycle, naming it."""
        children: list[list[int]] = [[] for _ in self._tasks]
        waiting = [len(task._declaration.parents) for task in self._tasks]
        for task in self._tasks:
            for parent in task._declaration.parents:
                children[parent].append(task._position)
        ready = [position for position, n in enumerate(waiting) if n == 0]
        order: list[Task] = []
        while ready:
            position = heapq.heappop(ready)
            order.append(self._tasks[position])
            for child in children[position]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    heapq.heappush(ready, child)
        if len(order) < len(self._tasks):
            cycle = self._cycle({position for position, n in enumerate(waiting) if n})
            raise UsageError(f"these tasks depend on each other in a circle: {' → '.join(map(repr, cycle))}")
        return order

    def _cycle(self, stuck: set[int]) -> list[str]:
        """Names along one cycle among tasks that all wait for another of them."""
        path: list[int] = []
        seen: dict[int, int] = {}
        position = min(stuck)
        while position not in seen:
            seen[position] = len(path)
            path.append(position)
            position = min(self._tasks[position]._declaration.parents & stuck)
        circle = [*path[seen[position] :], position]
        return [self._tasks[i].name or str(i) for i in reversed(circle)]

    def __str__(self) -> str:
        return self._token  # See Task.__str__.

    def __repr__(self) -> str:
        return f"<Pipeline {self._name or self._number!r} of {len(self._tasks)} tasks>"

    def _described(self) -> str:
        return f"pipeline {self._name or self._number!r}"
