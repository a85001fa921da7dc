"""A result as a table of a terminal's width: as many columns and rows as fit, and how many more there are.

Where a result is too wide, a first column of one value is said once above it, then long texts go over
several lines, those of the widest column first; only what then does not fit is left out. Numbers, dates,
names of columns and words are not broken.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa

from rwe.adhoc.session import Rows
from rwe.wording import counted

_GAP = "  "
_NARROWEST = 12  # of a column of text
_LONGEST_WORD = 32  # that is never broken: pseudonyms have 32 characters
_MOST_LINES = 4  # of a cell
_COUNTED_AT_MOST = 1_000_000
NULL = "null"


@dataclass(frozen=True)
class Shown:
    """The lines of a table. `notes` say what of the result is not in it."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def table(rows: Rows, *, width: int = 80, most_rows: int = 40) -> Shown:
    """Lay out the first `most_rows` rows of a result in `width` columns of text.

    Numbers stand right, null is written `null`, texts longer than four lines are cut with …; control
    characters are shown, not sent. The rows that follow are counted, at most a million of them.
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


@dataclass(frozen=True)
class _Column:
    """A column as text. `widest`: its name or a cell, at most the terminal; `narrowest`: after shrinking."""

    name: str
    cells: tuple[str, ...]
    is_number: bool
    widest: int
    narrowest: int


def _lay_out(
    schema: pa.Schema, records: Sequence[Sequence[Any]], more: int, is_whole: bool, width: int
) -> Shown:
    columns = [_column(schema.field(i), [r[i] for r in records], width) for i in range(len(schema))]
    above, columns = _said_once(columns, width)
    fitting = _fitting([c.narrowest for c in columns], width)
    shown = columns[:fitting]
    sizes = _sizes(shown, width)
    lines = [
        *above,
        *_row([c.name for c in shown], shown, sizes),
        _GAP.join("-" * w for w in sizes),
        *chain.from_iterable(_row([c.cells[i] for c in shown], shown, sizes) for i in range(len(records))),
    ]
    notes = []
    if more:
        notes.append(
            f"{'' if is_whole else 'more than '}{counted(more, 'row')} more: --rows N shows more of them"
        )
    if hidden := [c.name for c in columns[fitting:]]:
        notes.append(f"{counted(len(hidden), 'column')} more: {', '.join(hidden)}")
    if not records:
        notes.append("no rows")
    return Shown(tuple(lines), tuple(notes))


def _column(field: pa.Field, values: Sequence[Any], width: int) -> _Column:
    name, cells = _printable(field.name), tuple(_cell(v) for v in values)
    widest = min(width, max(_width(text[: _MOST_LINES * width]) for text in (name, *cells)))
    narrowest = widest
    if pa.types.is_string(field.type) or pa.types.is_nested(field.type):
        words = chain.from_iterable(c.split() for c in cells)
        longest = min(_LONGEST_WORD, max(map(_width, words), default=0))
        narrowest = min(widest, max(_NARROWEST, _width(name), longest))
    return _Column(name, cells, _is_number(field.type), widest, narrowest)


def _said_once(columns: list[_Column], width: int) -> tuple[list[str], list[_Column]]:
    """Of a table that is too wide, a first column that says the same in each row: as a line above it."""
    first, rest = columns[0], columns[1:]
    is_wide = sum(c.widest for c in columns) + len(_GAP) * len(rest) > width
    if not rest or not is_wide or len(first.cells) < 2 or len(set(first.cells)) > 1:
        return [], columns
    return _wrapped(f"{first.name}: {first.cells[0]}", width), rest


def _sizes(columns: Sequence[_Column], width: int) -> list[int]:
    """How wide each column is drawn: as wide as it is, or the widest ones narrower until all fit."""
    sizes = [c.widest for c in columns]
    room = width - len(_GAP) * (len(columns) - 1)
    while sum(sizes) > room:
        loose = [i for i, c in enumerate(columns) if sizes[i] > c.narrowest]
        if not loose:  # one column alone may be wider than the terminal
            return [min(size, width) for size in sizes]
        sizes[max(loose, key=sizes.__getitem__)] -= 1
    return sizes


def _row(texts: Sequence[str], columns: Sequence[_Column], sizes: Sequence[int]) -> list[str]:
    cells = [_wrapped(text, size) for text, size in zip(texts, sizes, strict=True)]
    lines = []
    for parts in zip_longest(*cells, fillvalue=""):
        drawn = (_padded(t, w, c.is_number) for t, w, c in zip(parts, sizes, columns, strict=True))
        lines.append(_GAP.join(drawn).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """The text over several lines, broken between words where it can be, cut after the fourth."""
    lines: list[str] = []
    while (end := _end(text, width)) < len(text) and len(lines) < _MOST_LINES - 1:
        blank = text.rfind(" ", 0, end + 1)
        end = blank if blank > 0 else end
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text if end == len(text) else text[: _end(text, width - 1)] + "…"]


def _end(text: str, width: int) -> int:
    """How many characters fit; at least one."""
    used = 0
    for i, c in enumerate(text):
        used += _width(c)
        if used > width:
            return max(i, 1)
    return len(text)


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
    gap = " " * (width - _width(text))
    return gap + text if is_right else text + gap


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
