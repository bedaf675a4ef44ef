"""What a worker must remember besides its attempts: who it is, whom it obeys, how long it may believe,
and what runs its containers.

Four small files of the state folder, each replaced as a whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """Given by the controller when the worker was activated, once and for all."""

    worker_id: str
    worker_token: str


class Memory:
    """Raises OSError when the state folder cannot be written, ValueError when a file makes no sense."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def identity(self) -> Identity | None:
        """None: this worker was never activated."""
        text = self._read("identity.json")
        try:
            return None if text is None else Identity(**json.loads(text))
        except (TypeError, ValueError) as error:
            path = self._folder / "identity.json"
            raise ValueError(
                f"{path} is not a worker's identity ({error}): remove it to activate anew"
            ) from error

    def remember_identity(self, identity: Identity) -> None:
        self._replace("identity.json", json.dumps(asdict(identity)), durable=True)

    def runtime(self) -> str | None:
        """Which one has run the containers so far; None: nothing was run yet."""
        return self._read("runtime")

    def remember_runtime(self, name: str) -> None:
        self._replace("runtime", name, durable=True)

    def epoch(self) -> int:
        """The highest controller epoch that was obeyed; 0 = none."""
        return int(self._read("epoch") or 0)

    def remember_epoch(self, epoch: int) -> None:
        self._replace("epoch", str(epoch), durable=True)

    def lease_until_ms(self, boot_id: str) -> int:
        """Until when the assignments may be believed, by this boot's clock; 0 = no longer."""
        text = self._read("lease") or ""
        boot, _, until = text.partition(" ")
        return int(until) if boot == boot_id and until.isdigit() else 0

    def remember_lease(self, boot_id: str, until_ms: int) -> None:
        """Not durable: it means nothing after a reboot."""
        self._replace("lease", f"{boot_id} {until_ms}", durable=False)

    def _read(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text()
        except FileNotFoundError:
            return None

    def _replace(self, name: str, text: str, *, durable: bool) -> None:
        new = self._folder / (name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(new, self._folder / name)
        if durable:
            sync_folder(self._folder)


def sync_folder(folder: Path) -> None:
    """The names in the folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
