"""Makes Longshore's own images from the machine itself: no registry, no network, in a few seconds.

Both names are one root file system: bash, the usual Unix programs, this Python with its standard
library, and the localizer. `longshore/task` is what tasks without an image run in;
`longshore/localizer` runs their input and output containers.

    python -m longshore_workerd.images      makes what is missing or out of date
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longshore_workerd import localizer

TASK_IMAGE = "longshore/task:latest"
LOCALIZER_IMAGE = "longshore/localizer:latest"

_MADE_FROM = "longshore.made-from"

# Lists of names, as words.
_NEEDED = "bash cat cp env grep ln ls mkdir mv rm sed sort tar"
_WELCOME = (
    "arch awk b2sum base32 base64 basename basenc bunzip2 bzip2 chgrp chmod chown chroot cksum cmp comm "
    "csplit cut date dd df diff diff3 dir dircolors dirname du echo egrep expand expr factor false fgrep "
    "find fmt fold free getconf getent getopt groups gunzip gzip head hostid hostname iconv id install join "
    "kill link locale logname md5sum mkfifo mknod mktemp more nice nl nohup nproc numfmt od paste patch "
    "pathchk pinky pr printenv printf ps ptx pwd readlink realpath rev rmdir runcon sdiff seq sha1sum "
    "sha224sum sha256sum sha384sum sha512sum shred shuf sleep split stat stdbuf stty sum sync tac tail tee "
    "test time timeout touch tput tr true truncate tsort tty uname unexpand uniq unlink unxz users vdir wc "
    "which who whoami xargs xz xzcat yes zcat zdiff zgrep zless zmore"
)
# What programs open by themselves, or what binary wheels expect to find.
_LIBRARIES = (
    "libc.so.6 libdl.so.2 libgcc_s.so.1 libm.so.6 libnss_dns.so.2 libnss_files.so.2 libpthread.so.0 "
    "libresolv.so.2 librt.so.1 libstdc++.so.6 libutil.so.1"
)
_SKIPPED_FOLDERS = (
    "dist-packages ensurepip idlelib lib2to3 pydoc_data site-packages test tests tkinter turtledemo"
)
_SKIPPED_FILES = re.compile(
    r".*\.opt-[12]\.pyc|.*\.a|.*_tkinter.*|turtle.*|_test.*\.so|xxlimited.*|_xx.*\.so"
)

_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class ImagesNotMade(Exception):
    """The machine lacks what the images are made from."""


def is_own(image: str) -> bool:
    """Whether this module makes it."""
    return image.removesuffix(":latest") + ":latest" in (TASK_IMAGE, LOCALIZER_IMAGE)


def ensure(engine: Any) -> bool:
    """Both images are in the engine (a docker.APIClient) and up to date. True when they were made.

    ImagesNotMade when this machine lacks a program; what the engine raises comes through.
    """
    made_from = _fingerprint()
    if all(_label(engine, image) == made_from for image in (TASK_IMAGE, LOCALIZER_IMAGE)):
        return False
    changes = [
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        f"LABEL {_MADE_FROM}={made_from}",
        'CMD ["bash"]',
    ]
    if _CERTIFICATES.exists():
        changes.append(f"ENV SSL_CERT_FILE={_CERTIFICATES}")
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        try:
            _write_root(file)
            file.flush()
        except (OSError, subprocess.SubprocessError) as error:
            raise ImagesNotMade(f"cannot make {TASK_IMAGE} from this machine: {error}") from error
        repository, _, tag = TASK_IMAGE.partition(":")
        engine.import_image_from_file(file.name, repository=repository, tag=tag, changes=changes)
    repository, _, tag = LOCALIZER_IMAGE.partition(":")
    engine.tag(TASK_IMAGE, repository, tag)
    return True


def _label(engine: Any, image: str) -> str:
    """What it was made from; empty when it is not there."""
    for found in engine.images(image):
        return str((found.get("Labels") or {}).get(_MADE_FROM, ""))
    return ""


def _programs() -> dict[str, Path]:
    """The programs of this machine that go into the images, by name."""
    found = {}
    for name in sorted({*_NEEDED.split(), *_WELCOME.split()}):
        if where := shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"):
            found[name] = Path(where).resolve()
        elif name in _NEEDED.split():
            raise ImagesNotMade(f"cannot make {TASK_IMAGE} from this machine: it has no {name}")
    return found


def _python() -> Path:
    """The interpreter itself, not the link of a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _fingerprint() -> str:
    """Changes when an image made now would differ: programs, interpreter, localizer or this file."""
    digest = hashlib.sha256(sys.version.encode() + platform.platform().encode())
    for source in (__file__, localizer.__file__):
        digest.update(Path(source).read_bytes())
    for path in (*_programs().values(), _python(), Path(sysconfig.get_path("stdlib")), _CERTIFICATES):
        if path.exists():
            found = path.stat()
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write_root(file: Any) -> None:
    """The root file system as a tar."""
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local", "usr/local/bin"):
            _add_folder(tar, name)
        for name in ("etc", "etc/ssl", "etc/ssl/certs", "var", "run", "home", "mnt", "opt", "srv"):
            _add_folder(tar, name)
        _add_folder(tar, "root", 0o700)
        _add_folder(tar, "tmp", 0o1777)
        _add_folder(tar, "var/tmp", 0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            _add_link(tar, name, f"usr/{name}")

        python = _python()
        binaries = [python]
        placed: dict[Path, str] = {}
        for name, path in _programs().items():
            if path in placed:  # one program of many names
                _add_link(tar, f"usr/bin/{name}", placed[path])
            else:
                placed[path] = name
                binaries.append(path)
                _add_file(tar, path, f"usr/bin/{name}")
        _add_link(tar, "usr/bin/sh", "bash")

        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        _add_file(tar, python, f"usr/bin/{version}")
        for name in ("python3", "python"):
            _add_link(tar, f"usr/bin/{name}", version)
        for path, name in _standard_library(version):
            _add_file(tar, path, name)
            if ".so" in path.suffixes:
                binaries.append(path)
        for name, path in sorted(_libraries(binaries).items()):
            _add_file(tar, path, name)

        program = b"#!/usr/bin/python3 -IS\n" + Path(localizer.__file__).read_bytes()
        _add_bytes(tar, f"usr/bin/{localizer.COMMAND}", program, 0o755)
        for name, text in _ETC.items():
            _add_bytes(tar, name, text.encode(), 0o644)
        if _CERTIFICATES.exists():
            _add_file(tar, _CERTIFICATES, str(_CERTIFICATES).lstrip("/"))
        for folder in sorted(Path("/usr/lib/locale").glob("C.*")):  # older C libraries have no own C.UTF-8
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                _add_file(tar, path, str(path).lstrip("/"))


def _standard_library(version: str) -> Iterator[tuple[Path, str]]:
    """Its files and their names in the image: where an interpreter in /usr/bin looks for it."""
    top = sysconfig.get_path("stdlib")
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(
            each
            for each in folders
            if each not in _SKIPPED_FOLDERS.split() and not each.startswith("config-")
        )
        for each in sorted(files):
            if not _SKIPPED_FILES.fullmatch(each):
                path = Path(folder, each)
                yield path, f"usr/{sys.platlibdir}/{version}/{path.relative_to(top)}"


def _libraries(binaries: list[Path]) -> dict[str, Path]:
    """The shared libraries that these load, the dynamic linker among them, by name in the image."""
    found: set[Path] = set()
    for i in range(0, len(binaries), 50):
        # It fails for scripts and for what is linked statically, which load nothing.
        listing = subprocess.run(
            ["ldd", *map(str, binaries[i : i + 50])], capture_output=True, text=True, timeout=60, check=False
        ).stdout
        found |= {Path(each) for each in re.findall(r"(/\S+\.so\S*)(?= \(0x)", listing)}
    folders = {path.parent for path in found if path.name == "libc.so.6"}
    found |= {folder / name for folder in folders for name in _LIBRARIES.split() if (folder / name).exists()}
    return {_library_name(path): path for path in found}


def _library_name(path: Path) -> str:
    """Where the dynamic linker finds it without being told."""
    if path.parts[1] in ("lib", "lib64"):
        return f"usr{path}"
    if path.parts[1:3] in (("usr", "lib"), ("usr", "lib64")):
        return str(path).lstrip("/")
    return f"usr/lib/{path.name}"


def _add(tar: tarfile.TarFile, entry: tarfile.TarInfo, content: io.BufferedIOBase | None = None) -> None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    tar.addfile(entry, content)


def _add_file(tar: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as file:
        entry = tar.gettarinfo(arcname=name, fileobj=file)
        entry.type = tarfile.REGTYPE  # also where the machine has one file under two names
        entry.size = os.fstat(file.fileno()).st_size
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        _add(tar, entry, file)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    _add(tar, entry, io.BytesIO(content))


def _add_folder(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    _add(tar, entry)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    _add(tar, entry)


def _because(error: BaseException | None) -> str:
    """What the system said of the connection, which lies below what several libraries say of it."""
    while error:
        if isinstance(error, OSError) and error.strerror:
            return f": {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""


def main() -> int:
    """Says what it did; 1 and the reason when there is no engine or nothing to make them from."""
    import docker

    try:
        engine = docker.APIClient(**docker.utils.kwargs_from_env())
    except docker.errors.DockerException as error:
        where = os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"
        print(f"error: no Docker engine answers at {where}{_because(error)}", file=sys.stderr)
        return 1
    try:
        made = ensure(engine)
    except (ImagesNotMade, docker.errors.DockerException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{TASK_IMAGE}, {LOCALIZER_IMAGE}: {'made' if made else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
