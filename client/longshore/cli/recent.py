"""Batches that were seen lately, for completion in a shell, which must not ask a service."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..discovery import find_service
from ..errors import BatchError
from ..profiles import cache_folder

if TYPE_CHECKING:
    from ..status import BatchStatus

_KEPT = 50
_SERVICES = 5


def seen() -> list[tuple[int, str]]:
    """Numbers and names at the service that is talked to here, the newest first."""
    try:
        return list(_read().get(find_service().endpoint, {}).items())
    except BatchError:
        return []


def remember(endpoint: str, batches: Iterable[BatchStatus]) -> None:
    """These are there. A cache that cannot be written does not matter."""
    known = _read()
    here = known.get(endpoint, {}) | {batch.id: batch.name for batch in batches}
    _write(known, endpoint, here)


def forget(endpoint: str, batch_ids: Iterable[int]) -> None:
    """These are no longer there."""
    known, gone = _read(), set(batch_ids)
    here = {batch_id: name for batch_id, name in known.get(endpoint, {}).items() if batch_id not in gone}
    _write(known, endpoint, here)


def _read() -> dict[str, dict[int, str]]:
    """By endpoint, the service used last at the end; nothing when nothing is known."""
    try:
        content = json.loads(_file().read_text())
        return {
            str(endpoint): {int(batch_id): str(name) for batch_id, name in batches}
            for endpoint, batches in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(known: dict[str, dict[int, str]], endpoint: str, here: dict[int, str]) -> None:
    newest = sorted(here.items(), reverse=True)[:_KEPT]
    if known.get(endpoint) == dict(newest):
        return
    others = [(each, list(batches.items())) for each, batches in known.items() if each != endpoint]
    content = dict([*others, (endpoint, newest)][-_SERVICES:])
    with suppress(OSError):
        file = _file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(content))
        temporary.replace(file)


def _file() -> Path:
    return cache_folder() / "recent.json"
