"""Windows: what a person sees of a long list, kept true by the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from .checks import check_text
from .errors import UsageError
from .steps import iterate

if TYPE_CHECKING:
    from .calls import Asking

View = TypeVar("View")


class AnyWindow(Generic[View]):
    """Rows `first` to `first + n - 1` of a list, whole at first, then what changed of them.

    Whoever iterates over it is told at most four times a second, and every few seconds with an empty
    view when nothing changes; after the service was away, whole again. It goes on until `close`.
    """

    def __init__(self, asking: Asking[View], *, of_batches: bool) -> None:
        self._asking = asking
        self._of_batches = of_batches

    def show(
        self,
        *,
        query: str | None = None,
        first: int | None = None,
        n: int | None = None,
        anchor: int | None = None,
    ) -> None:
        """Move the window, or filter; what is None stays. The next whole view answers it.

        `anchor`, of a list of batches: positions count from the batch of this id; 0 is the newest now.

        >>> window = client.watch_jobs(1)
        >>> window.show(first=1, n=1)
        >>> [status.name for status in next(iter(window)).rows]
        ['fail']
        >>> window.close()
        """
        if anchor is not None and not self._of_batches:
            raise UsageError(f"a list of jobs has no anchor: {anchor!r}")
        if query is not None:
            check_text("query", query)
        self._asking.ask(query=query, first=first, n=n, anchor_batch_id=anchor)

    def close(self) -> None:
        """End it: iterating over it ends. May be called again.

        >>> window = client.watch_batches()
        >>> window.close()
        >>> list(window)
        []
        """
        self._asking.close()


class Window(AnyWindow[View]):
    """Rows `first` to `first + n - 1` of a list, whole at first, then what changed of them.

    Iterate over it in one thread; `show` and `close` may be called in any. One is told at most four
    times a second, and every few seconds with an empty view when nothing changes; after the service
    was away, whole again. It goes on until `close`.
    """

    def __iter__(self) -> Iterator[View]:
        return iterate(self._asking.answers())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
