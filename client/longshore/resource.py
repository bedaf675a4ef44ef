"""PURE. Files of a pipeline as strings that can be put into a command.

A resource file *is* a string: a token of letters, digits and underscores, which no shell minds and
which survives f-strings, `format`, `join`, `+` and `shlex.quote`. A process-wide weak registry knows
whose token it is, so that `Task.command` can find what a text mentions; compiling replaces every
token by a path below /io.
"""

from __future__ import annotations

import difflib
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from .checks import check_safe
from .errors import UsageError, WrongType

if TYPE_CHECKING:
    from .pipeline import Pipeline, Task

_MARK = "__longshore_"
_TOKEN = re.compile(_MARK + r"([0-9]+)__")
_numbers = itertools.count(1)
_owners: WeakValueDictionary[str, Mentionable] = WeakValueDictionary()


class Mentionable(ABC):
    """What can stand in a command as a token: files, groups, and by mistake tasks and pipelines."""

    __slots__ = ()

    @abstractmethod
    def _described(self) -> str:
        """Kind and name for an error message."""


class ResourceFile(str, Mentionable):
    """A file that flows through a pipeline; as text, a token that a command may mention."""

    __slots__ = ("__weakref__", "_extension", "_group", "_pipeline")
    _pipeline: Pipeline
    _group: ResourceGroup | None
    _extension: str

    def __new__(cls, pipeline: Pipeline, group: ResourceGroup | None = None) -> ResourceFile:
        self = super().__new__(cls, _new_token())
        self._pipeline = pipeline
        self._group = group
        self._extension = ""
        _owners[str(self)] = self
        return self

    def add_extension(self, extension: str) -> ResourceFile:
        """Let the file's name end in `extension`, for programs that look at names. Once per file.

        >>> from longshore import Pipeline
        >>> t = Pipeline().new_task()
        >>> _ = t.command(f'echo 1 > {t.table.add_extension(".csv")}')
        """
        if self._group is not None:
            raise UsageError(f"{self._described()}: its group names it, it takes no extension")
        if self._extension:
            raise UsageError(f"{self._described()} has the extension {self._extension!r} already")
        check_safe("extension", extension)
        self._extension = extension
        return self

    def _unit(self) -> ResourceFile | ResourceGroup:
        """What moves when this file moves: its whole group, or the file."""
        return self if self._group is None else self._group

    def __copy__(self) -> ResourceFile:
        return self

    def __deepcopy__(self, memo: object) -> ResourceFile:
        return self


class InputResourceFile(ResourceFile):
    """A file from outside, made by `Pipeline.read_input`."""

    __slots__ = ("_source",)
    _source: str

    def __new__(
        cls, pipeline: Pipeline, source: str, group: ResourceGroup | None = None
    ) -> InputResourceFile:
        self = super().__new__(cls, pipeline, group)
        assert isinstance(self, InputResourceFile)
        self._source = source
        return self

    def _described(self) -> str:
        return f"input file {self._source!r}"


class TaskResourceFile(ResourceFile):
    """A file that a task makes, reached as an attribute of the task."""

    __slots__ = ("_made", "_name", "_task", "_template")
    _task: Task
    _name: str
    _template: str
    _made: bool
    """Some command of its task mentions it, or its group was declared."""

    def __new__(
        cls, pipeline: Pipeline, task: Task, name: str, group: ResourceGroup | None = None, template: str = ""
    ) -> TaskResourceFile:
        self = super().__new__(cls, pipeline, group)
        assert isinstance(self, TaskResourceFile)
        self._task = task
        self._name = name
        self._template = template
        self._made = group is not None
        return self

    def _described(self) -> str:
        return f"file {self._name!r} of {self._task._described()}"

    def __call__(self, *args: object, **kwargs: object) -> None:
        methods = [name for name in dir(type(self._task)) if not name.startswith("_")]
        close = difflib.get_close_matches(self._name, methods, n=1)
        raise WrongType(
            f"{self._described()} cannot be called: a task has no method {self._name!r}",
            hint=f"did you mean `{close[0]}`?" if close else f"methods of a task: {', '.join(methods)}",
        )


class ResourceGroup(Mentionable):
    """Files that share one root: `group.bed` or `group['fasta.idx']` is a member, the group its root."""

    __slots__ = ("__weakref__", "_members", "_name", "_pipeline", "_task", "_token")

    def __init__(self, pipeline: Pipeline, task: Task | None, name: str) -> None:
        self._pipeline = pipeline
        self._task = task
        self._name = name
        self._members: dict[str, ResourceFile] = {}
        self._token = issue_token(self)

    def __getitem__(self, identifier: str) -> ResourceFile:
        try:
            return self._members[identifier]
        except KeyError:
            raise UsageError(
                f"{self._described()} has no member {identifier!r}; it has {', '.join(self._members)}"
            ) from None

    def __getattr__(self, identifier: str) -> ResourceFile:
        if identifier.startswith("_") or identifier not in self._members:
            raise AttributeError(
                f"{self._described()} has no member {identifier!r}; it has {', '.join(self._members)}"
            )
        return self._members[identifier]

    def __str__(self) -> str:
        return self._token

    def __add__(self, other: str) -> str:
        return self._token + other

    def __radd__(self, other: str) -> str:
        return other + self._token

    def __repr__(self) -> str:
        return f"<{self._described()}: {', '.join(self._members)}>"

    def _unit(self) -> ResourceGroup:
        return self

    def _described(self) -> str:
        of = f" of {self._task._described()}" if self._task else ""
        return f"resource group {self._name!r}{of}"


Resource = ResourceFile | ResourceGroup


def issue_token(owner: Mentionable) -> str:
    """A new token of `owner`, known for as long as the owner lives."""
    token = _new_token()
    _owners[token] = owner
    return token


def _new_token() -> str:
    return f"{_MARK}{next(_numbers)}__"


def mentioned(text: str) -> Iterator[Mentionable]:
    """The owner of each token in `text`, each once, in order.

    Raises UsageError for a token whose owner is gone.
    """
    for token in dict.fromkeys(match[0] for match in _TOKEN.finditer(text)):
        owner = _owners.get(token)
        if owner is None:
            raise UsageError(f"{token} stands for a file of a pipeline that no longer exists: {text!r}")
        yield owner


def substitute(text: str, paths: Mapping[str, str]) -> str:
    """`text` with each token replaced by its path.

    >>> substitute('cat __longshore_0__ > out', {'__longshore_0__': '/io/a'})
    'cat /io/a > out'
    """
    if _MARK not in text:  # Of most texts; and it is ten times as fast to see.
        return text
    return _TOKEN.sub(lambda match: paths[match[0]], text)
