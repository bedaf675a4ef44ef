"""Waiting until nothing runs any more, where nothing new starts; telling what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click

from .output import say

T = TypeVar("T")

EVERY_S = 1.0

wait_option = click.option("--wait", is_flag=True, help="Until nothing runs there; says what is left.")


def say_what_is_left(look: Callable[[], tuple[T, int]]) -> T:
    """What ``look`` finds when it says that nothing runs any more; each number that it says on the way."""
    told: int | None = None
    while True:
        found, left = look()
        if left != told:
            say(f"{left:,} still running" if left else "nothing runs there any more")
            told = left
        if not left:
            return found
        time.sleep(EVERY_S)
