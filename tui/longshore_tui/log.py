"""PURE. A piece of a log of any size, in lines; and a line's bytes as harmless text with its colours."""

from __future__ import annotations

import codecs
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from longshore.terminal import clean

MOST_BYTES = 4 << 20
"""Of a log that are held at a time."""
LONGEST_LINE = 8192

Run = tuple[str, str]
"""A text and its style, in the words of rich."""


class LogWindow:
    """The bytes `start` to `end` of a log that has at least `size`, without gaps; at most `MOST_BYTES`.

    Lines are those of what is held: a long one may have been cut in two where a piece ended.
    """

    def __init__(self) -> None:
        self.start = 0
        self.size = 0
        self._bytes = bytearray()
        self._starts = array("Q", [0])

    @property
    def end(self) -> int:
        return self.start + len(self._bytes)

    @property
    def is_whole(self) -> bool:
        """All that is known to be there is held."""
        return not self.start and self.end >= self.size

    @property
    def n_lines(self) -> int:
        return len(self._starts) - (self._starts[-1] == self.end)

    def offset(self, line: int) -> int:
        """Of the first byte of a line; the end, for the line after the last."""
        return self._starts[line] if line < len(self._starts) else self.end

    def line_at(self, offset: int) -> int | None:
        """The line with this byte, if it is held."""
        if not self.start <= offset < self.end:
            return None
        return bisect_right(self._starts, offset) - 1

    def line(self, line: int) -> bytes:
        """Without what ends it."""
        begin = self._starts[line] - self.start
        if line + 1 < len(self._starts):
            return bytes(self._bytes[begin : self._starts[line + 1] - self.start]).removesuffix(b"\n")
        return bytes(self._bytes[begin:]).removesuffix(b"\n")

    def append(self, offset: int, data: bytes, *, may_drop: bool) -> int:
        """The log has `data` at `offset`; the number of lines that gave way at the beginning.

        What does not join on, or is too much, replaces what is held if it `may_drop` that; otherwise it
        is not held, only its size is noted.
        """
        before = self.size
        self.size = max(self.size, offset + len(data))
        if offset + len(data) <= self.end and self._bytes:
            return 0
        if offset > self.end or (not self._bytes and not self.start):
            if may_drop or not before:
                self.replace(offset, data)
            return 0
        data = data[self.end - offset :]
        if len(self._bytes) + len(data) > MOST_BYTES and not may_drop:
            return 0
        self._starts.extend(_starts(data, self.end))
        self._bytes += data
        return self._drop_first()

    def extend(self, offset: int, data: bytes) -> int:
        """The next piece, because someone scrolls there; the number of lines that gave way for it."""
        if offset != self.end:
            return 0
        self._starts.extend(_starts(data, self.end))
        self._bytes += data
        self.size = max(self.size, self.end)
        return self._drop_first()

    def prepend(self, offset: int, data: bytes) -> int:
        """The piece before, because someone scrolls there; how many lines further down the others are."""
        if offset + len(data) != self.start:
            return 0
        offset, data = _from_a_line(offset, data)
        starts = array("Q", [offset])
        starts.extend(_starts(data, offset))
        old = self._starts
        if starts[-1] == self.start:
            starts.pop()
        elif len(starts) > 1:
            old = old[1:]  # What was held began within this piece's last line.
        added = len(starts) + len(old) - len(self._starts)
        self._starts = starts + old
        self._bytes[:0] = data
        self.start = offset
        last = bisect_right(self._starts, offset + MOST_BYTES) - 1
        if self.end - offset > MOST_BYTES and last:
            del self._bytes[self._starts[last] - offset :]
            del self._starts[last + 1 :]
        return added

    def replace(self, offset: int, data: bytes) -> None:
        """Hold this piece, and nothing else."""
        self.size = max(self.size, offset + len(data))
        self.start, data = _from_a_line(offset, data)
        self._bytes = bytearray(data)
        self._starts = array("Q", [self.start])
        self._starts.extend(_starts(data, self.start))
        self._drop_first()

    def find(self, text: str) -> list[int]:
        """The lines that hold `text`, in any case."""
        if not text:
            return []
        found: list[int] = []
        for match in re.finditer(re.escape(text.encode()), self._bytes, re.IGNORECASE):
            line = bisect_right(self._starts, self.start + match.start()) - 1
            if not found or found[-1] != line:
                found.append(line)
        return found

    def _drop_first(self) -> int:
        """Make room: a quarter more than must be, so that it is not done for every piece."""
        if len(self._bytes) <= MOST_BYTES:
            return 0
        wanted = self.end - MOST_BYTES * 3 // 4
        n = bisect_left(self._starts, wanted)
        if n == len(self._starts) or self._starts[n] == self.end:
            # One line that is longer than all that is held.
            self._bytes = self._bytes[wanted - self.start :]
            self.start = wanted
            n_before = len(self._starts)
            self._starts = array("Q", [wanted, *(s for s in self._starts if s > wanted)])
            return n_before - len(self._starts)
        del self._bytes[: self._starts[n] - self.start]
        self.start = self._starts[n]
        del self._starts[:n]
        return n


def _starts(data: bytes, offset: int) -> Iterator[int]:
    """Where lines begin after the line ends of `data`, which lies at `offset`."""
    at = data.find(b"\n")
    while at >= 0:
        yield offset + at + 1
        at = data.find(b"\n", at + 1)


def _from_a_line(offset: int, data: bytes) -> tuple[int, bytes]:
    """Without the rest of a line at the beginning of a piece from the middle of a log."""
    end = data.find(b"\n") + 1
    return (offset + end, data[end:]) if offset and 0 < end < len(data) else (offset, data)


# A line.

_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)(?P<sgr>[0-9;:]*)m"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]*[0-~]?"
)
_ON = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse", 9: "strike"}
_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",), 29: ("strike",)}


def runs(raw: bytes) -> list[Run]:
    r"""A line as text that is harmless, with its colours; other control sequences are left out.

    Of a line that was written over with carriage returns the last version stays; of a very long one its
    beginning.

    >>> runs(b'\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b[2Jplain')
    [('red', 'color(1)'), (' plain', '')]
    """
    raw = raw.rstrip(b"\r")
    raw = raw[raw.rfind(b"\r") + 1 :]
    whole = len(raw)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(raw[:LONGEST_LINE], final=whole <= LONGEST_LINE)
    found: list[Run] = []
    width = 0

    def add(piece: str, style: str) -> None:
        nonlocal width
        safe = clean(piece.replace("\n", ""))
        if "\t" in safe:
            safe = (" " * (width % 8) + safe).expandtabs(8)[width % 8 :]
        if not safe:
            return
        width += len(safe)
        if found and found[-1][1] == style:
            found[-1] = (found[-1][0] + safe, style)
        else:
            found.append((safe, style))

    at = 0
    look: dict[str, str] = {}
    for match in _SEQUENCE.finditer(text):
        add(text[at : match.start()], _style(look))
        at = match.end()
        if match["sgr"] is not None:
            _turn(look, match["sgr"])
    add(text[at:], _style(look))
    if whole > LONGEST_LINE:
        add(f" …(+{whole - LONGEST_LINE:,} bytes)", "dim")
    return found


def text_of(line: Sequence[Run]) -> str:
    return "".join(text for text, _ in line)


def _style(look: dict[str, str]) -> str:
    words = [word for word in look if word not in ("fg", "bg")]
    words += [look["fg"]] if "fg" in look else []
    words += [f"on {look['bg']}"] if "bg" in look else []
    return " ".join(words)


def _turn(look: dict[str, str], parameters: str) -> None:
    """What an SGR sequence does to the look of what follows."""
    codes = [min(int(code), 999) if code else 0 for code in re.split("[;:]", parameters[:200])]
    while codes:
        code = codes.pop(0)
        if code == 0:
            look.clear()
        elif code in _ON:
            look[_ON[code]] = ""
        elif code in _OFF:
            for word in _OFF[code]:
                look.pop(word, None)
        elif code in (39, 49):
            look.pop("fg" if code == 39 else "bg", None)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            look["fg"] = f"color({code - 30 if code < 40 else code - 82})"
        elif 40 <= code <= 47 or 100 <= code <= 107:
            look["bg"] = f"color({code - 40 if code < 50 else code - 92})"
        elif code in (38, 48):
            colour = _colour(codes)
            if colour:
                look["fg" if code == 38 else "bg"] = colour


def _colour(codes: list[int]) -> str:
    """Take a colour of 256 or of 16 million from the front."""
    kind = codes.pop(0) if codes else 0
    if kind == 5 and codes:
        number = codes.pop(0)
        return f"color({number})" if number < 256 else ""
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(codes.pop(0), 255) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    return ""
