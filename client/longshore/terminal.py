"""Text from elsewhere made safe to show on a terminal."""

from __future__ import annotations

import re

# C0 but for newline and tab, DEL, C1, and what turns the direction of writing or is invisible.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def clean(text: str) -> str:
    r"""`text` with everything that could steer a terminal written out.

    >>> clean('\x1b[2Jgone')
    '\\x1b[2Jgone'
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
