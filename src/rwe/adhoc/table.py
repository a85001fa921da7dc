"""A result as a table of a terminal's width: as many columns and rows as fit, and how many more there are."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from rwe.adhoc.session import Rows
from rwe.wording import counted

_GAP = "  "
_WIDEST = 32
_COUNTED_AT_MOST = 1_000_000
NULL = "null"


@dataclass(frozen=True)
class Shown:
    """The lines of a table. `notes` say what of the result is not in it."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def table(rows: Rows, *, width: int = 80, most_rows: int = 40) -> Shown:
    """Lay out the first `most_rows` rows of a result in `width` columns of text.

    Numbers stand right, null is written `null`, texts wider than 32 are cut with …; control characters are
    shown, not sent. The rows that follow are counted, at most a million of them.
    """
    records: list[list[Any]] = []
    more, is_whole = 0, True
    for batch in rows.batches:
        room = most_rows - len(records)
        records += [list(r) for r in zip(*(c.to_pylist() for c in batch.slice(0, room).columns), strict=True)]
        more += max(0, batch.num_rows - room)
        if more > _COUNTED_AT_MOST:
            is_whole = False
            break
    return _lay_out(rows.schema, records, more, is_whole, width)


def text_lines(rows: Rows) -> tuple[str, ...]:
    """The last column as it is, for EXPLAIN: DuckDB has drawn it already."""
    return tuple(
        line
        for batch in rows.batches
        for value in batch.columns[-1].to_pylist()
        for line in str(value).rstrip("\n").splitlines()
    )


def _lay_out(
    schema: pa.Schema, records: Sequence[Sequence[Any]], more: int, is_whole: bool, width: int
) -> Shown:
    cells = [[_cell(v) for v in record] for record in records]
    names = [_printable(name) for name in schema.names]
    widths = [
        min(_WIDEST, max([_width(name), *(_width(row[i]) for row in cells)])) for i, name in enumerate(names)
    ]
    fitting = _fitting(widths, width)
    right = [_is_number(kind) for kind in schema.types[:fitting]]
    sizes = [min(w, width) for w in widths[:fitting]]

    def line(texts: Sequence[str]) -> str:
        parts = (_padded(t, w, r) for t, w, r in zip(texts[:fitting], sizes, right, strict=True))
        return _GAP.join(parts).rstrip()

    lines = [line(names), _GAP.join("-" * w for w in sizes), *(line(row) for row in cells)]
    notes = []
    if more:
        notes.append(
            f"{'' if is_whole else 'more than '}{counted(more, 'row')} more: --rows N shows more of them"
        )
    if names[fitting:]:
        hidden = ", ".join(names[fitting:])
        notes.append(f"{counted(len(names) - fitting, 'column')} more: {hidden}")
    if not records:
        notes.append("no rows")
    return Shown(tuple(lines), tuple(notes))


def _fitting(widths: Sequence[int], width: int) -> int:
    """How many columns fit; at least one."""
    used = 0
    for i, w in enumerate(widths):
        used += w + (len(_GAP) if i else 0)
        if used > width:
            return max(i, 1)
    return len(widths)


def _cell(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.1f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return _printable(str(value))


def _printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _padded(text: str, width: int, is_right: bool) -> str:
    while _width(text) > width:
        text = text[:-2] + "…"
    gap = " " * (width - _width(text))
    return gap + text if is_right else text + gap


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
