"""Moves a job's files between the store and /io: what runs in the input and output containers.

One file, standard library only: it is put into an image as it is, and runs as `longshore-localizer`
there and as `python -m longshore_workerd.localizer` anywhere. It starts twice for many a job, so it imports
only what starts quickly. All it is told is in its environment:

    LONGSHORE_COPIES        sources and destinations in turn, NUL between them, zlib, base64; what is too
                            long for one variable goes on in LONGSHORE_COPIES_1, LONGSHORE_COPIES_2 ...
    LONGSHORE_DIRECTION     "input" (store to /io) or "output" (/io to store)
    LONGSHORE_IO            where /io really is (default /io)
    LONGSHORE_STORE         all paths of the store lie below it (default /)
    LONGSHORE_STORE_PREFIX  where the root of these paths really is (default: here)
    LONGSHORE_OWNER         uid:gid[,gid...]: files of the store are touched with this identity

It exits 0 when every copy was made, else 1 with one line for each that was not.

What holds for a copy: a file appears under its final name whole or not at all. Its bytes were read
back and compared by CRC-32 with those that were read from the source, unless the file system shares
them (reflink); an output is on disk (fsync) before it has its name. Names are walked one by one from
an open directory, and symbolic links are resolved by hand: no name and no link, whoever made it and
whenever, leads outside /io or the store.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import os
import stat
import sys
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from io import TextIOWrapper

TYPE_CHECKING = False  # As type checkers read it; `typing` itself takes long to import.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMMAND = "longshore-localizer"
COPIES = "LONGSHORE_COPIES"
DIRECTION = "LONGSHORE_DIRECTION"
IO = "LONGSHORE_IO"
STORE = "LONGSHORE_STORE"
STORE_PREFIX = "LONGSHORE_STORE_PREFIX"
OWNER = "LONGSHORE_OWNER"

_THREADS = 8
_CHUNK = 1 << 20
_TRIES = 3
_MAX_LINKS = 40
_FICLONE = 0x40049409
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR}

Parts = tuple[str, ...]
FileToCopy = tuple[Parts, Parts]
"""Source and destination."""


class CopyRefused(Exception):
    """A copy cannot be made, and why, in words for the user."""


class _Transient(Exception):
    """The copy may succeed when it is tried again."""


class Owner:
    """Whose files the store's are. Entered, the *thread* has that identity, if it may change it."""

    def __init__(self, uid: int, gids: list[int]) -> None:
        import ctypes

        self.uid = uid
        self.gids = gids
        self._libc = ctypes.CDLL(None)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """None when there is nothing to change: no owner given, or we are the owner, or not root."""
        if not text:
            return None
        uid, *gids = text.replace(",", ":").split(":")
        if not gids or text.count(":") != 1 or not all(id.isascii() and id.isdigit() for id in (uid, *gids)):
            raise CopyRefused(f"{OWNER} is {text!r}: write it as uid:gid, e.g. 1000:1000")
        if os.geteuid() != 0 or int(uid) == 0:
            return None
        return cls(int(uid), [int(gid) for gid in gids])

    def join_groups(self) -> None:
        """Root needs no groups of its own, so the whole process may have the owner's."""
        os.setgroups(self.gids)

    @contextmanager
    def entered(self) -> Iterator[None]:
        # The file system identity is the only one that belongs to a thread alone; leaving user 0
        # takes the capabilities that go round permissions away, coming back returns them.
        self._libc.setfsgid(self.gids[0])
        self._libc.setfsuid(self.uid)
        try:
            if self._libc.setfsuid(-1) != self.uid:
                raise CopyRefused(f"cannot take the identity of user {self.uid}")
            yield
        finally:
            self._libc.setfsuid(0)
            self._libc.setfsgid(0)


class Tree:
    """A directory that nothing leads out of, and the absolute names by which people know it.

    Paths are tuples of names below it. A link is followed as if the tree's first name were mounted
    where it says, so that a link of the store means what it means on the store's own machine.
    Descriptors returned belong to the caller.
    """

    def __init__(self, names: tuple[str, ...], folder: str, owner: Owner | None = None) -> None:
        self.names = names
        self.folder = folder
        self._owner = owner

    @contextmanager
    def identity(self) -> Iterator[None]:
        if self._owner is None:
            yield
        else:
            with self._owner.entered():
                yield

    def parts(self, path: str) -> Parts:
        """The path below this tree. CopyRefused when it is not an absolute path below it."""
        if "\0" in path:
            raise CopyRefused(f"{shown(path)}: a path cannot hold a NUL character")
        for name in self.names:
            root = name.rstrip("/") + "/"
            if (path + "/").startswith(root):
                below = tuple(part for part in path[len(root) :].split("/") if part not in ("", "."))
                if ".." in below:
                    raise CopyRefused(f"{shown(path)}: write the path without '..'")
                return below
        raise CopyRefused(f"{shown(path)} is not below {self.names[0]}")

    def shown(self, parts: Parts) -> str:
        return shown("/".join((self.names[0].rstrip("/"), *parts)))

    def resolve(self, parts: Parts, *, create: bool = False) -> tuple[int, str, os.stat_result | None]:
        """The directory that really holds the path, the name there, and what it is; None = nothing.

        Links are followed, the last one too. With `create` missing directories are made.
        """
        directories = [os.open(self.folder, os.O_PATH | os.O_DIRECTORY)]
        todo = list(reversed(parts))
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == "..":
                    if len(directories) == 1:
                        raise CopyRefused(f"{self.shown(parts)} is a link that leads out of {self.names[0]}")
                    os.close(directories.pop())
                    continue
                try:
                    found = os.stat(name, dir_fd=directories[-1], follow_symlinks=False)
                except FileNotFoundError:
                    if not todo:
                        return directories.pop(), name, None
                    if not create:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o777, dir_fd=directories[-1])
                    found = os.stat(name, dir_fd=directories[-1], follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise CopyRefused(f"{self.shown(parts)}: too many symbolic links")
                    target = os.readlink(name, dir_fd=directories[-1])
                    if target.startswith("/"):
                        todo.extend(reversed(self._target(target, parts)))
                        while len(directories) > 1:
                            os.close(directories.pop())
                    else:
                        todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
                elif todo:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
                    directories.append(os.open(name, flags, dir_fd=directories[-1]))
                else:
                    return directories.pop(), name, found
            return os.dup(directories[-1]), ".", os.stat(directories[-1])
        finally:
            for fd in directories:
                os.close(fd)

    def _target(self, target: str, parts: Parts) -> list[str]:
        for name in self.names:
            root = name.rstrip("/") + "/"
            if (target + "/").startswith(root):
                return [part for part in target[len(root) :].split("/") if part not in ("", ".")]
        raise CopyRefused(f"{self.shown(parts)} is a link that leads out of {self.names[0]}: {shown(target)}")

    def look(self, parts: Parts) -> os.stat_result | None:
        """What is there, links followed; None when nothing is."""
        try:
            fd, _, found = self.resolve(parts)
        except (FileNotFoundError, NotADirectoryError):
            return None
        os.close(fd)
        return found

    def names_in(self, parts: Parts) -> list[str]:
        """Sorted names in a directory."""
        above, name, _ = self.resolve(parts)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def open_file(self, parts: Parts) -> int:
        """A regular file, for reading."""
        above, name, _ = self.resolve(parts)
        try:
            # Not blocking: a FIFO in place of the file that was there a moment ago must not hold us.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
        finally:
            os.close(above)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise CopyRefused(f"{self.shown(parts)} is not a file")
        return fd


class Localizer:
    """The copies of one container, from one tree to another."""

    def __init__(self, source: Tree, destination: Tree, *, durable: bool) -> None:
        """`durable`: files are on disk when `copy` returns. Else their readers are on this boot."""
        self._source = source
        self._destination = destination
        self._durable = durable

    def plan(self, source: str, destination: str) -> list[FileToCopy]:
        """The single files of one copy; empty directories are made at once.

        A missing source, a wildcard without a match, two files for one name: CopyRefused.
        """
        parts, onto = self._source.parts(source), self._destination.parts(destination)
        with self._source.identity():
            found = self._source.look(parts)
            # What exists means itself, also when it looks like a pattern.
            n_existing = self._n_existing(parts)
            wild = any(map(_is_wild, parts[n_existing:]))
            matches = self._matches(parts, n_existing)
        if not matches:
            what = "matches nothing" if wild else "does not exist"
            raise CopyRefused(f"{shown(source)} {what}")
        if found is not None and source.endswith("/") and not stat.S_ISDIR(found.st_mode):
            raise CopyRefused(f"{shown(source)} is not a directory")
        into = wild or destination.endswith("/") or not onto
        taken: dict[Parts, Parts] = {}
        files: list[FileToCopy] = []
        for match in matches:
            target = (*onto, match[-1]) if into and match else onto
            if target in taken:
                both = f"{self._source.shown(taken[target])} and {self._source.shown(match)}"
                raise CopyRefused(f"{both} would both become {self._destination.shown(target)}")
            taken[target] = match
            files += self._walk(match, target)
        return files

    def _n_existing(self, path: Parts) -> int:
        """How many names of the path, from its start, are there as they are written."""
        return next(n for n in range(len(path), -1, -1) if not n or self._source.look(path[:n]) is not None)

    def _matches(self, pattern: Parts, n_existing: int) -> list[Parts]:
        """What a pattern names, in order; as in a shell a leading dot must be written."""
        found = [pattern[:n_existing]]
        for name in pattern[n_existing:]:
            if not _is_wild(name):
                found = [(*below, name) for below in found]
                continue
            from fnmatch import fnmatchcase

            dotted = name.startswith(".")
            found = [
                (*below, each)
                for below in found
                if (here := self._source.look(below)) and stat.S_ISDIR(here.st_mode)
                for each in self._source.names_in(below)
                if fnmatchcase(each, name) and each.startswith(".") == dotted
            ]
        return [path for path in found if self._source.look(path) is not None]

    def _walk(self, source: Parts, target: Parts) -> Iterator[FileToCopy]:
        """All files below a directory, or the one file; directories are made on the way."""
        todo: list[tuple[Parts, Parts, tuple[tuple[int, int], ...]]] = [(source, target, ())]
        while todo:
            source, target, above = todo.pop()
            with self._source.identity():
                found = self._source.look(source)
                if found is None:
                    raise CopyRefused(f"{self._source.shown(source)} is a link to what does not exist")
                names = self._source.names_in(source) if stat.S_ISDIR(found.st_mode) else []
            if stat.S_ISREG(found.st_mode):
                yield source, target
            elif stat.S_ISDIR(found.st_mode):
                here = (found.st_dev, found.st_ino)
                if here in above:
                    raise CopyRefused(f"{self._source.shown(source)} is a link to a directory around it")
                with self._destination.identity():
                    os.close(self._destination.resolve((*target, "."), create=True)[0])
                todo += [((*source, name), (*target, name), (*above, here)) for name in reversed(names)]
            else:
                kind = _kind(found.st_mode)
                raise CopyRefused(f"{self._source.shown(source)} is {kind}, not a file or directory")

    def copy(self, file: FileToCopy) -> int:
        """Makes one copy and returns its bytes. What is under the final name is whole, always."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._copy_once(file)
            except (_Transient, OSError) as error:
                lasting = isinstance(error, OSError) and error.errno not in _TRANSIENT
                if lasting or attempt == _TRIES:
                    raise
                time.sleep(0.1 * 4**attempt)
        raise AssertionError("unreachable")

    def _copy_once(self, file: FileToCopy) -> int:
        from_, to = file
        with self._source.identity():
            source = self._source.open_file(from_)
        try:
            with self._destination.identity():
                above, name, found = self._destination.resolve(to, create=True)
                try:
                    if found is not None and stat.S_ISDIR(found.st_mode):
                        raise CopyRefused(f"{self._destination.shown(to)} is a directory")
                    return self._write(source, above, name)
                finally:
                    os.close(above)
        finally:
            os.close(source)

    def _write(self, source: int, directory: int, name: str) -> int:
        before = os.fstat(source)
        # Inputs must be readable to whoever the job's image runs as.
        mode = before.st_mode & 0o777 | (0 if self._durable else 0o444)
        temporary = f".longshore-{os.urandom(8).hex()}"
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        try:
            copied = _clone(source, target) or _stream(source, target)
            after = os.fstat(source)
            if copied != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
                raise _Transient("the source changed while it was copied")
            os.fchmod(target, mode)
            if self._durable:
                os.fsync(target)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(target)
        if self._durable:
            _sync_directory(directory)
        return copied

    def in_words(self, error: Exception, source: str, destination: str) -> str:
        """The error of one copy for the user who asked for it."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = "the store folder" if self._durable else "the job's folder"
            folder = os.path.dirname(destination.rstrip("/"))
            return f"no space left in {place} {shown(folder)}: {shown(destination)} was not written"
        if isinstance(error, CopyRefused):
            return str(error)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"cannot copy {shown(source)} to {shown(destination)}: {reason}"

    def run(self, copies: list[tuple[str, str]]) -> list[str]:
        """Makes all copies in parallel, a line of progress for each file; returns what went wrong."""
        errors: list[str] = []
        full = threading.Event()

        def one(file: FileToCopy) -> None:
            source, destination = self._source.shown(file[0]), self._destination.shown(file[1])
            if full.is_set():
                return
            try:
                copied = self.copy(file)
            except (CopyRefused, _Transient, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    if full.is_set():
                        return
                    full.set()  # every other file would say the same
                errors.append(self.in_words(error, source, destination))
            else:
                print(f"{source} -> {destination}: {copied} bytes", flush=True)

        files: list[FileToCopy] = []
        for source, destination in copies:
            try:
                files += self.plan(source, destination)
            except (CopyRefused, OSError) as error:
                errors.append(self.in_words(error, source, destination))
        _in_parallel(one, files)
        return errors


def _in_parallel(function: Callable[[FileToCopy], None], files: list[FileToCopy]) -> None:
    """Calls it for each, in some threads. An error that it raises is not lost."""
    todo = iter(files)
    turn = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            with turn:
                file = next(todo, None)
            if file is None:
                return
            try:
                function(file)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(_THREADS, len(files)) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _is_wild(name: str) -> bool:
    return any(each in name for each in "*?[")


def _clone(source: int, target: int) -> int:
    """Shares the blocks where the file system can; bytes copied, or 0."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return 0
    return os.fstat(target).st_size


def _stream(source: int, target: int) -> int:
    """Copies the bytes and reads them back. `_Transient` when they differ."""
    buffer = memoryview(bytearray(_CHUNK))
    total = checksum = 0
    while n := os.preadv(source, [buffer], total):
        chunk = buffer[:n]
        checksum = zlib.crc32(chunk, checksum)
        total += n
        while chunk:
            chunk = chunk[os.write(target, chunk) :]
    position = written = 0
    while n := os.preadv(target, [buffer], position):
        written = zlib.crc32(buffer[:n], written)
        position += n
    if (position, written) != (total, checksum):
        raise _Transient("what was written is not what was read")
    return total


def _sync_directory(directory: int) -> None:
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    except PermissionError:
        return  # may be written to but not read: then the file system decides when
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def shown(path: str) -> str:
    """The path in a message: quoted where it could be misread or would reach a terminal as a command."""
    return path if path.isprintable() and path.strip() == path else repr(path)


def decode(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """The copies that were told of. KeyError or ValueError when they were not."""
    text, n = env[COPIES], 1
    while piece := env.get(f"{COPIES}_{n}"):
        text, n = text + piece, n + 1
    try:
        told = zlib.decompress(binascii.a2b_base64(text)).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
    paths = told.split("\0") if told else []
    return list(zip(paths[::2], paths[1::2], strict=True))


def main(env: Mapping[str, str] = os.environ) -> int:
    """Does what the environment says; 0 when all was done, else 1, and the reasons are its last lines."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        copies = decode(env)
        output = {"input": False, "output": True}[env[DIRECTION]]
        owner = Owner.parse(env.get(OWNER, ""))
        if owner:
            owner.join_groups()
        folder = env.get(IO) or "/io"
        io = Tree(("/io", folder, os.path.realpath(folder)), folder)
        root = os.path.normpath(env.get(STORE) or "/")
        store = Tree((root,), env.get(STORE_PREFIX, "").rstrip("/") + root, owner)
    except CopyRefused as error:
        errors = [str(error)]
    except (KeyError, TypeError, ValueError) as error:
        errors = [f"{COPIES} or {DIRECTION} is missing or wrong: {error!r}"]
    else:
        errors = Localizer(*((io, store) if output else (store, io)), durable=output).run(copies)
    for line in errors:
        # Where the progress goes, too: an engine keeps no order between two streams.
        print(f"error: {line}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
