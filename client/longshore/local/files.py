"""Moves a job's files between this machine and the folder that stands for /io.

The rules and the words are those of the service's localizer: a file appears under its final name whole
or not at all, symbolic links are followed, those of a job never out of /io. Here the copies are made
by this program itself; where nobody could see the difference, a file changes its name instead.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from secrets import token_hex

from ..terminal import clean

_WILD = re.compile(r"[*?\[]")
_FICLONE = 0x40049409
_MAX_LINKS = 40
_CHUNK = 1 << 20
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}

Copies = Iterable[tuple[str, str]]
Files = Iterator[tuple[str, str]]
"""(source, destination) of single files."""


How = Callable[[str, str], None]


class CopyRefused(Exception):
    """A copy cannot be made, and why, in words for the user."""


class Interrupted(Exception):
    """Nobody wants the copy any more."""


class IoFolder:
    """The folder that stands for /io in one attempt of a job, and the ways of a file into it and out."""

    def __init__(self, folder: str, unwanted: Callable[[], bool]) -> None:
        """`folder` exists. When `unwanted` becomes true, copying ends with Interrupted."""
        self._folder = folder
        self._unwanted = unwanted

    def bring(self, copies: Copies, how: How) -> list[str]:
        """Copies from the machine to /io, each by `how(source, target)`; what went wrong, in words."""
        return self._each(copies, self._walk_in, how, self._there, "the job's folder")

    def fetch(self, copies: Copies, how: How) -> list[str]:
        """Copies from /io to the machine; what went wrong, in words."""
        return self._each(copies, self._walk_out, how, str, "the folder")

    def copy(self, source: str, target: str) -> None:
        """A file of its own; it shares its blocks with the source where the file system can."""
        self._copy(source, target, 0)

    def copy_readable(self, source: str, target: str) -> None:
        """The same, for whatever user an image has."""
        self._copy(source, target, 0o444)

    def link(self, source: str, target: str) -> None:
        """One more name of the same file; a copy where that cannot be."""
        if os.path.lexists(target) and not os.path.isdir(target):
            os.unlink(target)
        try:
            os.link(source, target)
        except OSError:
            self._copy(source, target, 0o444)

    def keep(self, source: str, target: str) -> None:
        """For a source that its job will not touch again: one more name, unless it has two already."""
        (self.link if os.stat(source).st_nlink == 1 else self.copy)(source, target)

    def move(self, source: str, target: str) -> None:
        """For a source that nobody else reads."""
        mode = stat.S_IMODE(os.stat(source).st_mode)
        if mode | 0o444 != mode:
            os.chmod(source, mode | 0o444)
        os.rename(source, target)

    def _copy(self, source: str, target: str, more_mode: int) -> None:
        if os.path.isdir(target):
            raise CopyRefused(f"{_shown(target)} is a directory")
        temporary = f"{os.path.dirname(target)}/.longshore-{token_hex(8)}"
        # A FIFO in place of the file that was there a moment ago must not hold us.
        with os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as read:
            mode = stat.S_IMODE(os.fstat(read.fileno()).st_mode) & 0o777 | more_mode
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as written:
                    try:
                        fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
                    except OSError:
                        while chunk := read.read(_CHUNK):
                            if self._unwanted():
                                raise Interrupted from None
                            written.write(chunk)
                    os.fchmod(written.fileno(), mode)
                os.rename(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise

    def _each(
        self,
        copies: Copies,
        walk: Callable[[str, str], Files],
        how: How,
        called: Callable[[str], str],
        place: str,
    ) -> list[str]:
        """Make all copies, whatever becomes of one; `called` is what people call a target."""
        errors = []
        for source, destination in copies:
            target = destination
            try:
                for each, target in walk(source, destination):
                    if self._unwanted():
                        raise Interrupted
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    how(each, target)
            except CopyRefused as refused:
                errors.append(str(refused))
            except OSError as error:
                shown = _shown(called(target))
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    folder = _shown(os.path.dirname(called(target)))
                    errors.append(f"no space left in {place} {folder}: {shown} was not written")
                else:
                    errors.append(f"cannot copy {_shown(source)} to {shown}: {error.strerror}")
        return errors

    def _there(self, path: str) -> str:
        """What it is called inside."""
        return "/io" + path.removeprefix(self._folder)

    def _walk_in(self, source: str, destination: str) -> Files:
        onto = self._folder + destination.removeprefix("/io")
        found, wild = _matches(source)
        if not found:
            raise CopyRefused(f"{_shown(source)} {'matches nothing' if wild else 'does not exist'}")
        if not wild and source.endswith("/") and not os.path.isdir(source):
            raise CopyRefused(f"{_shown(source)} is not a directory")
        into = wild or onto.endswith("/")
        taken: dict[str, str] = {}
        for match in found:
            target = f"{onto.rstrip('/')}/{os.path.basename(match)}" if into else onto
            if (other := taken.setdefault(target, match)) != match:
                both = f"{_shown(other)} and {_shown(match)}"
                raise CopyRefused(f"{both} would both become {_shown(self._there(target))}")
            yield from _walk(match, target, os.path.realpath, str)

    def _walk_out(self, source: str, destination: str) -> Files:
        if destination.endswith("/"):
            destination += os.path.basename(source)
        inside = self._folder + source.removeprefix("/io")
        if not os.path.exists(self._real(inside)):
            raise CopyRefused(f"{_shown(source)} does not exist")
        yield from _walk(inside, destination, self._real, self._there)

    def _real(self, path: str) -> str:
        """Where it really is, links followed as inside. CopyRefused when one leads out of /io."""
        todo = list(reversed(path.removeprefix(self._folder).split("/")))
        real: list[str] = []
        n_links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if not real:
                    raise CopyRefused(f"{_shown(self._there(path))} is a link that leads out of /io")
                real.pop()
                continue
            here = "/".join((self._folder, *real, name))
            if not os.path.islink(here):
                real.append(name)
                continue
            n_links += 1
            if n_links > _MAX_LINKS:
                raise CopyRefused(f"{_shown(self._there(path))}: too many symbolic links")
            target = os.readlink(here)
            if target.startswith("/"):
                names = ("/io", self._folder, os.path.realpath(self._folder))
                root = next((name for name in names if f"{target}/".startswith(f"{name}/")), None)
                if root is None:
                    raise CopyRefused(
                        f"{_shown(self._there(path))} is a link that leads out of /io: {_shown(target)}"
                    )
                target = target.removeprefix(root)
                real = []
            todo.extend(reversed(target.split("/")))
        return "/".join((self._folder, *real))


def remove_tree(folder: str) -> None:
    """Remove it, also what a command made unreadable for its own owner. Raises OSError."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError:
        for path, names, _ in os.walk(folder):
            for name in names:
                inner = os.path.join(path, name)
                if not os.path.islink(inner):
                    with suppress(OSError):
                        os.chmod(inner, 0o700)
        shutil.rmtree(folder)


def _matches(pattern: str) -> tuple[list[str], bool]:
    """What a path names, sorted, and whether by wildcards. What exists means itself, however it looks."""
    found, wild = ["/"], False
    for name in filter(None, pattern.split("/")):
        if not _WILD.search(name) or not wild and os.path.exists(os.path.join(found[0], name)):
            found = [os.path.join(below, name) for below in found]
            continue
        wild = True
        dotted = name.startswith(".")
        found = [
            os.path.join(below, each)
            for below in found
            if os.path.isdir(below)
            for each in sorted(os.listdir(below))
            if fnmatch.fnmatchcase(each, name) and each.startswith(".") == dotted
        ]
    return list(filter(os.path.exists, found)), wild


def _walk(
    source: str, target: str, real: Callable[[str], str], called: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    """All files below a directory, or the one file; directories are made on the way."""
    todo: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(source, target, ())]
    while todo:
        source, target, above = todo.pop()
        path = real(source)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            raise CopyRefused(f"{_shown(called(source))} is a link to what does not exist") from None
        if stat.S_ISREG(found.st_mode):
            yield path, target
        elif stat.S_ISDIR(found.st_mode):
            here = (found.st_dev, found.st_ino)
            if here in above:
                raise CopyRefused(f"{_shown(called(source))} is a link to a directory around it")
            os.makedirs(target, exist_ok=True)
            todo += [
                (f"{source}/{name}", f"{target}/{name}", (*above, here))
                for name in sorted(os.listdir(path), reverse=True)
            ]
        else:
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
            raise CopyRefused(f"{_shown(called(source))} is {kind}, not a file or directory")


def _shown(path: str) -> str:
    """Quoted where it could be misread or would reach a terminal as a command."""
    return path if path.isprintable() and path.strip() == path else repr(clean(path))
