"""Text from elsewhere made safe to show on a terminal."""

from __future__ import annotations

import re

# C0 but for newline and tab, DEL, C1, what turns the direction of writing or is invisible, and halves of
# characters, which nothing can write.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    r"""`text` with everything that could steer a terminal written out.

    >>> clean('\x1b[2Jgone')
    '\\x1b[2Jgone'
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""Cleaned, with line ends and tabs spelled too: what is to be one line stays one.

    >>> one_line('a\tb')
    'a\\tb'
    """
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")
