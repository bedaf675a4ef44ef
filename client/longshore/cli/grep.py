"""Those lines of a stream of bytes that match, with lines around them, as `grep` prints them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

_LONGEST = 1 << 20
"""A line that is longer is looked at in pieces: a log without line ends must not be held whole."""


def grep(chunks: Iterable[bytes], pattern: re.Pattern[bytes], context: int) -> Iterator[bytes]:
    r"""Lines that match, each as soon as it is complete, with `context` lines before and after.

    Between lines that do not follow each other stands ``--``, if there is a context.

    >>> b''.join(grep([b'a\nb', b'1\nc\nd\n'], re.compile(b'1'), 0))
    b'b1\n'
    """
    before: deque[bytes] = deque(maxlen=context)
    after = 0
    left_out = printed = False
    for line in _lines(chunks):
        if pattern.search(line.rstrip(b"\r\n")):
            if left_out and printed and context:
                yield b"--\n"
            yield from before
            before.clear()
            yield line
            after, left_out, printed = context, False, True
        elif after:
            after -= 1
            yield line
        else:
            left_out = left_out or len(before) == before.maxlen
            before.append(line)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Each with its end; the last one may have none."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > _LONGEST:
            yield rest
            rest = b""
    if rest:
        yield rest
