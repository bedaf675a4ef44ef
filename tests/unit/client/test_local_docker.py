"""Tasks with an image on a LocalBackend: real containers of this machine's engine."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import longshore as hp
import pytest
from docker import DockerClient
from longshore.local import attempt
from longshore.local.files import remove_tree
from longshore_workerd import images
from registry import empty_registry

pytestmark = pytest.mark.docker


@pytest.fixture
def image(docker_client: DockerClient) -> str:
    """bash, coreutils and python."""
    images.ensure(docker_client.api)
    return images.TASK_IMAGE


@pytest.fixture
def backend(tmp_path: Path, docker_client: DockerClient) -> Iterator[hp.LocalBackend]:
    yield hp.LocalBackend(tmp_path / "tmp (ü)", cores=4)
    assert not list((tmp_path / "tmp (ü)").iterdir())
    mine = {"label": f"longshore.local={os.getpid()}"}
    assert not docker_client.containers.list(all=True, filters=mine)


def run(pipeline: hp.Pipeline, **options: Any) -> hp.Batch:
    batch = pipeline.run(**{"progress": False, "check": False, **options})
    assert isinstance(batch, hp.Batch)
    return batch


def ended(batch: hp.Batch) -> dict[str, tuple[str, int | None, str]]:
    seen = [job.last_status for job in batch.jobs()]
    return {job.name: (job.state, job.exit_code, job.reason) for job in seen if job}


def test_files_flow_between_containers_and_the_users_shell(
    backend: hp.LocalBackend, image: str, tmp_path: Path
) -> None:
    mine = tmp_path / "it's (mine).txt"
    mine.write_text("mine\n")
    p = hp.Pipeline(backend=backend)
    boxed, shell, again = p.new_task().image(image), p.new_task(), p.new_task().image(image).cpu(0.5)
    boxed.command(f"ls {tmp_path} || cat {p.read_input(mine)} > {boxed.x}")
    boxed.command(
        f"mkdir -p {boxed.tree}/d; umask 077; id -u > {boxed.tree}/d/uid; ln -s /io/x {boxed.tree}/l"
    )
    shell.command(f"cat {boxed.x} {boxed.tree}/d/uid {boxed.tree}/l > {shell.all}")
    again.env("IN", f"{shell.all}").command(f'cat "$IN" > {again.out}; echo $LONGSHORE_CPU $HOSTNAME >&2')
    p.write_output(again.out, tmp_path / "out")
    batch = run(p, check=True)
    assert (tmp_path / "out").read_text() == "mine\n0\nmine\n"
    assert batch.job(3).log().text().startswith("0.5 ")


def test_each_way_to_end_has_its_state_code_and_reason(
    backend: hp.LocalBackend, image: str, docker_client: DockerClient
) -> None:
    docker_client.api.import_image_from_data(_tar("nothing"), repository="longshore-test/empty", tag="1")
    too_much = "python3 -c \"x = b'x' * 600_000_000\""
    p = hp.Pipeline(backend=backend, default_image=image, default_cpu=0.1)
    p.new_task(name="fails").command("echo said; exit 3")
    p.new_task(name="too much").command(too_much)
    p.new_task(name="killed").command("kill -9 $$")
    p.new_task(name="too long").timeout(0.5).command("sleep 60")
    p.new_task(name="silent").timeout(0.5).command("exec >&- 2>&-; sleep 60")
    p.new_task(name="no bash").image("longshore-test/empty:1").command("true")
    with empty_registry() as registry:
        p.new_task(name="gone").image(f"{registry}/gone/image:1").retries(1)
        p.new_task(name="secret").image(f"{registry}/secret/image:1")
        p.new_task(name="unreachable").image("127.0.0.1:9/nobody/listens:1")
        p.new_task(name="bad name").image("Not/Lower")
        batch = run(p)
    ends = ended(batch)
    assert ends["fails"] == ("Failure", 3, "")
    assert ends["too much"] == ("Error", 137, "out of memory: it used more than its 375,000,000 bytes")
    assert ends["killed"] == ("Failure", 137, "")
    assert ends["too long"] == ends["silent"] == ("Error", 143, "timed out: it ran longer than 0.5 s")
    assert ends["no bash"][::2] == ("Error", "cannot start: exec bash failed: No such file or directory")
    for name, words in {
        "gone": "does not exist, here or in its registry",
        "secret": "may not be pulled: the registry refused access",
        "unreachable": "cannot be pulled: its registry does not answer",
        "bad name": "is not the name of an image",
    }.items():
        state, code, reason = ends[name]
        assert (state, code) == ("Error", None) and words in reason
    assert batch.job(1).log().text() == "said\n"
    assert batch.job(7).status().containers["main"].error_kind == "image not found"
    docker_client.images.remove("longshore-test/empty:1")


def test_a_cancel_ends_containers(backend: hp.LocalBackend, image: str) -> None:
    p = hp.Pipeline(backend=backend, default_image=image)
    p.new_task(name="runs").command("echo begun; trap 'echo asked; exit 0' TERM; while :; do sleep 0.1; done")
    batch = run(p, wait=False)
    chunks = batch.job(1).log(follow=True).chunks(timeout=60)
    assert next(chunks).data == b"begun\n"
    batch.cancel()
    assert batch.wait(timeout=60).state == "cancelled"
    assert ended(batch) == {"runs": ("Cancelled", None, "batch cancelled")}
    assert "asked" in batch.job(1).log().text()


def test_what_the_user_may_not_remove_is_removed_by_a_container(
    backend: hp.LocalBackend, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def refuse_once(folder: str) -> None:
        """As to somebody who is not root, whose image's commands are."""
        if folder.endswith(".io") and not refused:
            refused.append(folder)
            raise PermissionError(13, "Permission denied")
        if folder.endswith(".io"):
            assert not os.listdir(folder)
        remove_tree(folder)

    monkeypatch.setattr(attempt, "remove_tree", refuse_once)
    p = hp.Pipeline(backend=backend)
    t = p.new_task().image(image)
    t.command(f"mkdir -p {t.deep}/er; touch {t.deep}/er/x /io/.hidden")
    run(p, check=True)
    assert refused


def _tar(name: str) -> bytes:
    """An archive of one empty file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return content.getvalue()
