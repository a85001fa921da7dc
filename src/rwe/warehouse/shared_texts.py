"""Which texts and codes enough patients share. The others may be words about one of them, and stay out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from rwe.codes import Code, InvalidCodeError, checked_systems

#: What a code of a system looks like whose codes cannot be checked: short, without a blank, with a digit, or
#: an abbreviation. `CRP`, `LAB-0815` and `lok:4711` do; a name does not.
_LIKE_A_CODE = re.compile(r"(?=[^ ]*\d)[A-Za-z0-9._:/^*+#-]{1,24}|[A-Z0-9-]{1,8}")
#: A date within a text would bring the calendar back.
_DATED = r"\d{4}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|(19|20)\d{2}"


@dataclass(frozen=True)
class Texts:
    """A column whose values are shared or not. `origin` is what to select from, with the table as `t`;
    `patient` tells patients; `name` is the temporary table that holds what is shared; `source` the private
    database, attached."""

    connection: duckdb.DuckDBPyConnection
    source: str
    name: str
    origin: str
    column: str
    patient: str
    min_cell: int


def share_texts(texts: Texts, *, no_dates: bool = False) -> None:
    """Make the table (value) of what at least `min_cell` patients share, if asked without what is dated."""
    value = f't."{texts.column}"'
    dates = f" and not regexp_matches({value}, '{_DATED}')" if no_dates else ""
    texts.connection.execute(
        f"""
        create or replace temp table {texts.name} as
        select {value} as value from {texts.origin} where {value} is not null{dates}
        group by 1 having count(distinct {texts.patient}) >= {texts.min_cell}
        """  # noqa: S608
    )


def share_systems(texts: Texts) -> None:
    """Make the table (value) of code systems that are shown: those that enough patients share, that a study
    names, or that everybody knows."""
    share_texts(texts)
    texts.connection.execute(
        f"insert into {texts.name} select distinct system from {texts.source}.study.codelist"  # noqa: S608
    )
    texts.connection.executemany(
        f"insert into {texts.name} values (?)",  # noqa: S608
        [[system] for system in sorted(checked_systems())],
    )


def share_codes(texts: Texts) -> None:
    """Make the table (system, code) of codes that are shown: those that enough patients share, that a study
    names, or that are surely codes."""
    value = f't."{texts.column}"'
    found = texts.connection.execute(
        f"""
        select coalesce(t.system, '') as system, {value} as code, count(distinct {texts.patient}) as n
        from {texts.origin} where {value} is not null group by 1, 2
        """  # noqa: S608
    ).fetchall()
    named = set(
        texts.connection.execute(f"select system, code from {texts.source}.study.codelist").fetchall()  # noqa: S608
    )
    shown = [
        (system, code)
        for system, code, n in found
        if n >= texts.min_cell or (system, code) in named or _is_surely_a_code(system, code)
    ]
    incoming = pa.table(
        {
            "system": pa.array([s for s, _ in shown], pa.string()),
            "code": pa.array([c for _, c in shown], pa.string()),
        }
    )
    texts.connection.register("incoming_codes", incoming)
    texts.connection.execute(f"create or replace temp table {texts.name} as from incoming_codes")
    texts.connection.unregister("incoming_codes")


def _is_surely_a_code(system: str, code: str) -> bool:
    """By its system's own rule, else by its looks."""
    if system not in checked_systems():
        return _LIKE_A_CODE.fullmatch(code) is not None
    try:
        Code(system, code)
    except InvalidCodeError:
        return False
    return True
