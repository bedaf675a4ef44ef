"""A batch in a notebook: static HTML of what was last seen of it, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .progress import cells, counts
from .status import BatchStatus
from .terminal import clean

_COLOURS = {
    "succeeded": "#2fbf9b",
    "failed": "#ff7f50",
    "cancelled": "#e6c229",
    "running": "#56b4e9",
    "waiting": "#c8cdd2",
}
_BAR_CELLS = 200


def batch_line(status: BatchStatus, left: str = "") -> str:
    """One line: number, state, bar, counts, cost, time that is left."""
    return (
        f"<code>#{status.id}</code> <b>{escape(status.state)}</b> {_bar(status)} "
        f"<code>{escape(counts(status))} {escape(left)}</code>"
    )


def batch_html(status: BatchStatus, age_s: float, failures: Sequence[str], *, kept: bool) -> str:
    """All of it: how it stood `age_s` seconds ago, `failures` in words, and commands where it is `kept`."""
    name = f" {escape(clean(status.name))}" if status.name else ""
    completeness = "complete" if status.complete else "unfinished"
    parts = [
        f"<div><b>Batch {status.id}{name}</b>: {escape(status.state)}, {completeness}</div>",
        f"<div>{_bar(status)} <code>{escape(counts(status))}</code></div>",
    ]
    if failures:
        lines = escape(clean("\n".join(failures)))
        parts.append(f"<pre>{lines}</pre>")
    if kept:
        parts.append(f"<div><code>longshore ui {status.id}</code></div>")
    if not status.complete:
        parts.append(f"<div><small>as of {_age(age_s)} ago; batch.status() asks again</small></div>")
    return f'<div style="line-height:1.6">{"".join(parts)}</div>'


def _bar(status: BatchStatus) -> str:
    shares = cells(status, _BAR_CELLS)
    spans = "".join(
        f'<span title="{what}" style="display:inline-block;height:0.8em;'
        f'width:{100 * n / _BAR_CELLS:g}%;background:{_COLOURS[what]}"></span>'
        for what, n in shares.items()
        if n
    )
    box = "display:inline-block;width:14em;white-space:nowrap;font-size:1em;line-height:0.8em"
    return f'<span style="{box}">{spans}</span>'


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
