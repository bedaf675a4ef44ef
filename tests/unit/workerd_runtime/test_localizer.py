"""The localizer moves what it is told, says what it cannot, and is not led outside."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_workerd import containers, localizer
from longshore_workerd.localizer import CopyRefused, Localizer, Tree


class Places:
    """A store and an /io beside a secret that is in neither."""

    def __init__(self, folder: Path) -> None:
        self.store, self.io, self.outside = folder / "store", folder / "io", folder / "outside"
        for each in (self.store, self.io, self.outside):
            each.mkdir()
        (self.outside / "secret").write_text("secret")

    def _run(self, direction: str, copies: list[tuple[str, str]]) -> list[str]:
        store = Tree((str(self.store),), str(self.store))
        io = Tree(("/io", str(self.io)), str(self.io))
        source, destination = (store, io) if direction == "input" else (io, store)
        return Localizer(source, destination, durable=direction == "output").run(copies)

    def input(self, source: str, destination: str) -> list[str]:
        return self._run("input", [(f"{self.store}/{source}", destination)])

    def output(self, source: str, destination: str) -> list[str]:
        return self._run("output", [(source, f"{self.store}/{destination}")])

    def write(self, name: str, content: bytes = b"x", *, io: bool = False) -> Path:
        path = (self.io if io else self.store) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name", ["a b", "(1)'\"$HOME", "häß 🚢", "-rf", "*", "new\nline", "a\\b", ".hidden", "x" * 255]
)
def test_any_name_is_a_name(places: Places, name: str) -> None:
    places.write(name, b"cargo")
    assert places.input(name, "/io/here") == []
    assert places.output("/io/here", f"back/{name}") == []
    assert (places.store / "back" / name).read_bytes() == b"cargo"


def test_a_large_file_arrives_whole_with_its_permissions(places: Places) -> None:
    content = os.urandom(5_000_001)
    places.write("tool", content).chmod(0o750)
    assert places.input("tool", "/io/tool") == []
    assert (places.io / "tool").read_bytes() == content
    assert stat.S_IMODE((places.io / "tool").stat().st_mode) == 0o754, "readable to any user of the job"


def test_a_directory_is_copied_whole(places: Places) -> None:
    places.write("d/one", b"1")
    places.write("d/deep/.two", b"2")
    (places.store / "d" / "empty").mkdir()
    assert places.input("d", "/io/copy") == []
    assert files(places.io) == {"copy/one": b"1", "copy/deep/.two": b"2"}
    assert (places.io / "copy" / "empty").is_dir()


def test_a_destination_that_ends_in_a_slash_is_a_directory(places: Places) -> None:
    places.write("d/f", b"1")
    assert places.input("d/f", "/io/into/") == []
    assert places.input("d", "/io/into/") == []
    assert files(places.io) == {"into/f": b"1", "into/d/f": b"1"}


def test_wildcards_copy_what_matches_into_a_directory(places: Places) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/3.txt", "b/3.log", "b/.4.txt"):
        places.write(name, name.encode())
    assert places.input("[ab]/?.txt", "/io/all") == []
    assert files(places.io) == {f"all/{n[2:]}": n.encode() for n in ("a/1.txt", "a/2.txt", "b/3.txt")}


def test_a_name_that_looks_like_a_pattern_means_itself_when_it_exists(places: Places) -> None:
    places.write("[1].txt", b"itself")
    places.write("1.txt", b"other")
    assert places.input("[1].txt", "/io/f") == []
    assert (places.io / "f").read_bytes() == b"itself"


def test_a_folder_that_looks_like_a_pattern_means_itself_around_a_wildcard(places: Places) -> None:
    places.write("run [1]/a.txt", b"itself")
    places.write("run 1/b.txt", b"other")
    assert places.input("run [1]/*.txt", "/io/all") == []
    assert files(places.io) == {"all/a.txt": b"itself"}
    (error,) = places.input("run [1]/missing", "/io/f")
    assert error.endswith("run [1]/missing does not exist")


def test_matches_of_one_name_are_refused(places: Places) -> None:
    places.write("a/f")
    places.write("b/f")
    (error,) = places.input("*/f", "/io/all")
    assert "a/f" in error
    assert "b/f" in error
    assert files(places.io) == {}


def test_every_missing_source_is_named(places: Places) -> None:
    places.write("there")
    copies = [(f"{places.store}/{n}", f"/io/{n}") for n in ("no 1", "there", "no/2", "there/no3")]
    errors = places._run("input", copies)
    assert [e.endswith("does not exist") for e in errors] == [True] * 3
    assert "no 1" in errors[0]
    assert files(places.io) == {"there": b"x"}
    assert places.input("no*", "/io/x") == [f"{places.store}/no* matches nothing"]


def test_a_special_file_is_refused_and_not_opened(places: Places) -> None:
    os.mkfifo(places.io / "pipe")
    (places.io / "d").mkdir()
    os.mkfifo(places.io / "d" / "pipe")
    assert "a FIFO" in places.output("/io/pipe", "x")[0]
    assert "a FIFO" in places.output("/io/d", "x")[0]


def test_a_file_does_not_replace_a_directory(places: Places) -> None:
    places.write("f", io=True)
    (places.store / "d").mkdir()
    assert places.output("/io/f", "d") == [f"{places.store}/d is a directory"]


def test_a_file_is_replaced_in_one_step(places: Places) -> None:
    """Whoever has the old one open keeps it whole."""
    places.write("f", b"old")
    places.write("new", b"new", io=True)
    with (places.store / "f").open() as old:
        assert places.output("/io/new", "f") == []
        assert old.read() == "old"
    assert (places.store / "f").read_bytes() == b"new"


# Nothing leads outside.


@pytest.mark.parametrize(
    "link", ["../outside/secret", "{outside}/secret", "/etc/passwd", "d/../../outside/secret", "/io/../x"]
)
def test_a_link_that_a_job_planted_does_not_lead_out(places: Places, link: str) -> None:
    (places.io / "d").mkdir()
    (places.io / "result").symlink_to(link.format(outside=places.outside))
    (error,) = places.output("/io/result", "stolen")
    assert "link that leads out" in error
    assert not (places.store / "stolen").exists()


def test_a_directory_that_is_a_link_out_is_not_entered(places: Places) -> None:
    (places.io / "d").symlink_to("../outside")
    for source in ("/io/d/secret", "/io/d", "/io/*/secret", "/io/d/*"):
        (error,) = places.output(source, "stolen/")
        assert "link that leads out" in error
    assert "secret" not in str(files(places.store))


def test_an_input_is_not_written_through_a_link_out(places: Places) -> None:
    places.write("f", b"evil")
    (places.io / "d").symlink_to(places.outside)
    (places.io / "l").symlink_to("../outside/secret")
    assert "leads out" in places.input("f", "/io/d/secret")[0]
    assert "leads out" in places.input("f", "/io/l")[0]
    assert (places.outside / "secret").read_text() == "secret"


def test_links_inside_are_followed(places: Places) -> None:
    places.write("v1/data", b"cargo", io=True)
    (places.io / "latest").symlink_to("v1")
    (places.io / "absolute").symlink_to("/io/v1/data")
    (places.io / "v1" / "up").symlink_to("../v1/./data")
    assert places.output("/io/latest/data", "a") == []
    assert places.output("/io/absolute", "b") == []
    assert places.output("/io/v1/up", "c") == []
    assert files(places.store) == dict.fromkeys("abc", b"cargo")


def test_links_in_circles_are_refused(places: Places) -> None:
    (places.io / "a").symlink_to("b")
    (places.io / "b").symlink_to("a")
    (places.io / "d").mkdir()
    (places.io / "d" / "self").symlink_to("../d")
    assert "too many symbolic links" in places.output("/io/a", "x")[0]
    assert "link to a directory around it" in places.output("/io/d", "x")[0]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("../outside/secret", "/io/x"),
        ("f", "/io/../outside/new"),
        ("f", "/elsewhere"),
        ("f", "io/x"),
        ("f", "/iox"),
        ("f\0", "/io/x"),
        ("f", "/io/x\0"),
    ],
)
def test_paths_outside_are_refused(places: Places, source: str, destination: str) -> None:
    places.write("f")
    (error,) = places.input(source, destination)
    assert any(words in error for words in ("without '..'", "is not below", "NUL"))
    assert files(places.io) == {}
    assert files(places.outside) == {"secret": b"secret"}


NAMES = st.sampled_from(["a", "b", "..", ".", "", "l", "d", "io", "outside", "secret", "*", "ü"])


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("maze"))


@given(
    links=st.dictionaries(
        st.sampled_from(["a", "b", "d/l", "d/a"]), st.tuples(st.booleans(), st.lists(NAMES, max_size=5))
    ),
    source=st.lists(NAMES, max_size=5),
)
def test_whatever_links_and_paths_say_the_secret_stays(
    maze: Places, links: dict[str, tuple[bool, list[str]]], source: list[str]
) -> None:
    clear(maze.io)
    clear(maze.store)
    (maze.io / "d").mkdir()
    for name, (absolute, target) in links.items():
        (maze.io / name).symlink_to(("/io/" if absolute else "") + "/".join(target) or "x")
    maze.output("/io/" + "/".join(source), "out/")
    assert b"secret" not in files(maze.store).values()
    assert files(maze.outside) == {"secret": b"secret"}


def clear(folder: Path) -> None:
    for path, names, names_of_files in os.walk(folder, topdown=False):
        for name in names_of_files:
            os.unlink(os.path.join(path, name))
        for name in names:
            inner = os.path.join(path, name)
            os.unlink(inner) if os.path.islink(inner) else os.rmdir(inner)


# A full disk, a sudden end, another user.


@pytest.fixture
def small_store(places: Places) -> Iterator[Places]:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system takes root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(places.store)], check=True)
    yield places
    subprocess.run(["umount", str(places.store)], check=True)


def test_a_full_store_is_said_once_and_leaves_nothing(small_store: Places) -> None:
    for n in range(20):
        small_store.write(f"d/{n}", os.urandom(300_000), io=True)
    errors = small_store.output("/io/d", "d")
    assert len(errors) == 1
    assert errors[0].startswith(f"no space left in the store folder {small_store.store}/d: ")
    whole = files(small_store.store)
    assert all(content == (small_store.io / name).read_bytes() for name, content in whole.items())
    assert not any(".longshore" in name for name in whole)


def test_a_sudden_end_leaves_nothing_half_written_under_a_final_name(places: Places) -> None:
    content = os.urandom(8_000_000)
    for n in range(8):
        places.write(f"d/{n}", content, io=True)
    environment = {
        localizer.DIRECTION: "output",
        **containers.told([("/io/d", f"{places.store}/d")]),
        localizer.IO: str(places.io),
    }
    for kill_after in range(1, 8, 2):
        command = [sys.executable, localizer.__file__]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(kill_after):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        names = [path for path in (places.store / "d").iterdir() if path.name.isdigit()]
        assert len(names) >= kill_after
        assert all(path.read_bytes() == content for path in names)


@pytest.mark.skipif(os.getuid() != 0, reason="taking another identity takes root")
def test_roots_localizer_reads_and_writes_the_store_as_its_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for path in tmp_path.parents:
        if path.stat().st_uid == 0 and path != Path("/") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o005)
    places = Places(tmp_path)
    os.chown(places.store, 1234, 1235)
    os.chmod(places.io, 0o700)
    places.write("root only").chmod(0o600)
    os.chown(places.write("of the group"), 0, 77)
    (places.store / "of the group").chmod(0o640)
    places.write("made", b"cargo", io=True).chmod(0o600)

    def run(direction: str, source: str, destination: str) -> subprocess.CompletedProcess[str]:
        environment = {
            localizer.DIRECTION: direction,
            **containers.told([(source, destination)]),
            localizer.IO: str(places.io),
            localizer.OWNER: "1234:1235,77",
        }
        return subprocess.run(
            [sys.executable, "-I", localizer.__file__],
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )

    denied = run("input", f"{places.store}/root only", "/io/x")
    assert (denied.returncode, "Permission denied" in denied.stdout) == (1, True)
    assert run("input", f"{places.store}/of the group", "/io/y").returncode == 0
    assert (places.io / "y").stat().st_uid == 0, "in /io it is root"
    assert run("output", "/io/made", f"{places.store}/new/result").returncode == 0
    for path in (places.store / "new", places.store / "new" / "result"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
    denied = run("output", "/io/made", f"{places.outside}/result")
    assert (denied.returncode, "Permission denied" in denied.stdout) == (1, True)


def test_wrong_instructions_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert localizer.main({}) == 1
    assert localizer.main({localizer.COPIES: "[]", localizer.DIRECTION: "input"}) == 1
    nothing = containers.told([])
    assert localizer.main({**nothing, localizer.DIRECTION: "sideways"}) == 1
    for owner in ("me", "1:", ":1", "1", "1:2,x", "1:2:3", "²:1"):
        assert localizer.main({**nothing, localizer.DIRECTION: "input", localizer.OWNER: owner}) == 1
        assert f"{owner!r}: write it as uid:gid" in capsys.readouterr().out


@pytest.mark.parametrize("n", [0, 1, 20_000])
def test_however_many_copies_there_are_they_can_be_told(n: int) -> None:
    copies = [(f"/io/{os.urandom(16).hex()} ä\n{i}", f"/store/{i}") for i in range(n)]
    told = containers.told(copies)
    assert localizer.decode(told) == copies
    assert all(len(f"{name}={value}") < 131_072 for name, value in told.items())
    if n > 1:
        subprocess.run(["true"], env=told, check=True)
        del told["LONGSHORE_COPIES_1"]
        with pytest.raises(ValueError):
            localizer.decode(told)


def test_it_imports_little_since_it_starts_twice_for_many_a_job() -> None:
    seen = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", localizer.__file__],
        env={**containers.told([]), localizer.DIRECTION: "input"},
        check=True,
        capture_output=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in seen.stderr.splitlines()}
    slow = {"re", "json", "typing", "enum", "dataclasses", "inspect", "logging", "ctypes", "hashlib"}
    assert "zlib" in imported and not imported & slow


def test_what_went_wrong_comes_last_on_the_stream_of_all_else(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.write("there")
    names = ("missing", "there")
    told = {
        localizer.DIRECTION: "input",
        **containers.told((f"{places.store}/{name}", f"/io/{name}") for name in names),
        localizer.IO: str(places.io),
        localizer.STORE: str(places.store),
    }
    assert localizer.main(told) == 1
    said = capsys.readouterr()
    copied, wrong = said.out.splitlines()
    assert copied.endswith("-> /io/there: 1 bytes")
    assert (wrong, said.err) == (f"error: {places.store}/missing does not exist", "")


def test_a_prefix_is_where_the_stores_root_is(tmp_path: Path) -> None:
    """As in a container: the machine is at /host, and its absolute links mean places of the machine."""
    (tmp_path / "host" / "data").mkdir(parents=True)
    (tmp_path / "host" / "data" / "f").write_text("cargo")
    (tmp_path / "host" / "link").symlink_to("/data")
    (tmp_path / "io").mkdir()
    told = {
        localizer.DIRECTION: "input",
        **containers.told([("/link/f", "/io/f")]),
        localizer.IO: str(tmp_path / "io"),
        localizer.STORE_PREFIX: str(tmp_path / "host"),
    }
    assert localizer.main(told) == 0
    assert (tmp_path / "io" / "f").read_text() == "cargo"


def test_a_control_character_does_not_reach_the_terminal() -> None:
    assert localizer.shown("/a b/ü") == "/a b/ü"
    assert localizer.shown("/a\x1b[2J") == "'/a\\x1b[2J'"


def test_a_copy_that_differs_is_tried_again_and_then_refused(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that writes other bytes than it was given must not pass."""
    places.write("f", b"cargo")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(localizer, "_clone", lambda *_: 0)
    writes = []

    def wrong(fd: int, data: bytes) -> int:
        writes.append(data)
        return real(fd, b"crago"[: len(data)])

    real = os.write
    monkeypatch.setattr(os, "write", wrong)
    errors = places.input("f", "/io/f")
    monkeypatch.undo()
    assert len(writes) == 3
    assert errors[0].endswith("what was written is not what was read")
    assert files(places.io) == {}


def test_the_owner_is_only_taken_where_it_can_be() -> None:
    with pytest.raises(CopyRefused, match="uid:gid"):
        localizer.Owner.parse("root")
    assert localizer.Owner.parse("") is None
    assert localizer.Owner.parse("0:0") is None
