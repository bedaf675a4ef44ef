"""The processes of `longshore up`: none is lost, none is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from longshore.cli import children
from longshore.cli.children import Child, Ended, next_signal, signals_waited_for
from longshore.cli.embedded import occupied
from longshore.errors import Conflict

FOREVER = "import signal; print('here', flush=True); signal.pause()"
OBSTINATE = "import signal; signal.signal(15, signal.SIG_IGN); print('here', flush=True); signal.pause()"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    with signals_waited_for():
        yield


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    with occupied(tmp_path / "service") as lock:
        yield lock


def child(folder: Path, lock: int, program: str) -> Child:
    (folder / "program_of_a_test.py").write_text(program)
    child = Child("child", "program_of_a_test", folder / "child.log", lock)
    child.start([], {**os.environ, "PYTHONPATH": str(folder)})
    return child


def until_ended(child: Child) -> int:
    while (code := child.exit_code()) is None:
        next_signal(10)
    return code


def until_logged(child: Child, text: str) -> None:
    while text not in child.log.read_text():
        assert child.exit_code() is None
        next_signal(0.01)


def test_a_child_that_is_killed_is_started_again(tmp_path: Path, lock: int) -> None:
    it = child(tmp_path, lock, "import os, signal; print(os.getpid(), flush=True); signal.pause()")
    until_logged(it, "\n")
    os.kill(int(it.log.read_text()), signal.SIGKILL)
    assert until_ended(it) == -signal.SIGKILL
    while (pause := it.tend()) is not None:
        next_signal(pause)
    while it.log.read_text().count("\n") < 2:
        next_signal(0.01)
    it.stop(10)


def test_a_child_that_ends_again_and_again_is_started_less_and_less_often(tmp_path: Path, lock: int) -> None:
    it = child(tmp_path, lock, "")
    pauses = []
    for _ in range(2):
        until_ended(it)
        pauses.append(it.tend() or 0)
        while (pause := it.tend()) is not None:
            next_signal(pause)
    it.stop(10)
    assert pauses[0] < pauses[1]


def test_a_child_is_asked_to_end(tmp_path: Path, lock: int) -> None:
    it = child(tmp_path, lock, FOREVER)
    until_logged(it, "here")
    it.stop(10)
    assert it.exit_code() == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path, lock: int) -> None:
    it = child(tmp_path, lock, OBSTINATE)
    until_logged(it, "here")
    it.stop(0.1)
    assert it.exit_code() == -signal.SIGKILL


def test_who_asks_a_second_time_waits_no_longer(tmp_path: Path, lock: int) -> None:
    it = child(tmp_path, lock, OBSTINATE)
    until_logged(it, "here")
    # To this thread, since a test's process may have others.
    again = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    again.start()
    it.stop(within_s=60)
    again.join()
    assert it.exit_code() == -signal.SIGKILL


def test_the_last_words_are_those_of_the_last_start(tmp_path: Path, lock: int) -> None:
    until_ended(child(tmp_path, lock, "print('before')"))
    it = child(tmp_path, lock, "import sys; print('now'); sys.exit(3)")
    assert until_ended(it) == 3
    assert it.last_words().strip() == "now"


def test_a_log_does_not_grow_without_bound_while_its_process_runs(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_LOG_BYTES", 10)
    go_on = tmp_path / "go on"
    it = child(
        tmp_path,
        lock,
        "import os, time\nprint('the first words', flush=True)\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\nprint('the last', flush=True)",
    )
    until_logged(it, "words")
    assert it.tend() is None
    go_on.touch()
    assert until_ended(it) == 0
    assert it.log.read_text() == "the last\n"
    assert (tmp_path / "child.old.log").read_text() == "the first words\n"
    assert it.last_words() == "  the last"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_end_is_told_where_it_is_waited_for(signum: signal.Signals) -> None:
    signal.raise_signal(signum)
    with pytest.raises(Ended):
        next_signal(10)


def test_a_folder_has_one_service_at_a_time(tmp_path: Path, lock: int) -> None:
    refused = pytest.raises(Conflict, match=f"runs in .* already, as process {os.getpid()}")
    with refused, occupied(tmp_path / "service"):
        pass


def test_what_a_killed_service_said_of_itself_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "service.json"
    file.write_text("{}")
    with occupied(tmp_path):
        assert not file.exists()


def test_children_of_a_killed_service_end_and_the_next_waits_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"""
import os, signal
from pathlib import Path
from longshore.cli.children import Child, signals_waited_for
from longshore.cli.embedded import occupied
folder = Path({str(tmp_path)!r})
with signals_waited_for(), occupied(folder) as lock:
    (folder / "slow.py").write_text(
        "import signal, time\\n"
        "def end(*_): time.sleep(0.5); print('ended', flush=True); raise SystemExit\\n"
        "signal.signal(15, end); print('here', flush=True); signal.pause()\\n")
    child = Child("child", "slow", folder / "child.log", lock)
    child.start([], {{**os.environ, "PYTHONPATH": str(folder)}})
    while "here" not in child.log.read_text(): pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with occupied(tmp_path):
        assert "ended" in (tmp_path / "child.log").read_text()
    assert "still ending" in capsys.readouterr().err


def test_what_a_child_starts_does_not_keep_the_folder(tmp_path: Path) -> None:
    with occupied(tmp_path / "service") as lock:
        program = (
            "import subprocess; print(subprocess.Popen(['sleep', '60'], close_fds=False).pid, flush=True)"
        )
        it = child(tmp_path, lock, program)
        until_ended(it)
    try:
        with (tmp_path / "service" / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(int(it.log.read_text()), signal.SIGKILL)
