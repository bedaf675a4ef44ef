"""Batches that were seen lately, for completion in a shell, which must not ask a service."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..profiles import cache_folder

if TYPE_CHECKING:
    from ..status import BatchStatus

_KEPT = 50


def seen() -> list[tuple[int, str]]:
    """Numbers and names, the newest first; nothing when nothing is known."""
    try:
        return [(int(batch_id), str(name)) for batch_id, name in json.loads(_file().read_text())]
    except (OSError, ValueError, TypeError):
        return []


def remember(batches: Iterable[BatchStatus]) -> None:
    """These are there. A cache that cannot be written does not matter."""
    _write(dict(seen()) | {batch.id: batch.name for batch in batches})


def forget(batch_ids: Iterable[int]) -> None:
    """These are no longer there."""
    gone = set(batch_ids)
    _write({batch_id: name for batch_id, name in seen() if batch_id not in gone})


def _write(known: dict[int, str]) -> None:
    newest = sorted(known.items(), reverse=True)[:_KEPT]
    if newest == seen():
        return
    with suppress(OSError):
        file = _file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(newest))
        temporary.replace(file)


def _file() -> Path:
    return cache_folder() / "recent.json"
