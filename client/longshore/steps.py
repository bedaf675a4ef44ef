"""PURE. Runs coroutines without an event loop: those that block and never wait for one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

Value = TypeVar("Value")


def finish(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """What the coroutine returns; it must not wait for an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    coroutine.close()
    raise AssertionError(f"{coroutine!r} waits for an event loop")


def iterate(source: AsyncGenerator[Value, None]) -> Iterator[Value]:
    """What the generator yields; neither must it wait for an event loop."""

    async def following() -> Value:
        return await anext(source)

    try:
        while True:
            try:
                value = finish(following())
            except StopAsyncIteration:
                return
            yield value
    finally:
        finish(source.aclose())
