"""Which texts and codes enough patients share. The others may be words about one of them, and stay out."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from rwe.codes import Code, InvalidCodeError, checked_systems

#: A date within a text would bring the calendar back.
_DATED = r"\d{4}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|(19|20)\d{2}"
_YEAR, _MONTH, _DAY = r"(19|20)\d{2}", r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
#: A date within a code of a system that cannot be checked, as in `1950-03-01`, `01031950`, `LOT-220301` and
#: `LOT2022A`. Narrower than `_DATED`: one in ten numbers of eight digits holds `19` or `20` and two more.
_DATED_CODE = "|".join(
    [
        rf"{_YEAR}{_MONTH}{_DAY}",
        rf"{_DAY}{_MONTH}{_YEAR}",
        r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}",
        rf"(^|\D)({_YEAR}{_MONTH}?|{_MONTH}{_YEAR}|\d{{2}}{_MONTH}{_DAY}|{_DAY}{_MONTH}\d{{2}})(\D|$)",
    ]
)
#: Tables whose (system, code) somebody wrote down without looking at one patient: they are published as well.
_NAMING = ("study.codelist", "ref.code_map")


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
    or a site's code map names, or that everybody knows."""
    share_texts(texts)
    for table in _NAMING:
        texts.connection.execute(
            f"insert into {texts.name} select distinct system from {texts.source}.{table}"  # noqa: S608
        )
    texts.connection.executemany(
        f"insert into {texts.name} values (?)",  # noqa: S608
        [[system] for system in sorted(checked_systems())],
    )


def share_codes(texts: Texts, *, no_dates: bool = False) -> None:
    """Make the table (system, code) of codes that are shown: those that their system's own rule admits, that
    a study or a site's code map names, or that enough patients share, if asked without what is dated.

    A code of a system without a rule may be anything: the number of a patient, a name, a day of birth.
    """
    value = f't."{texts.column}"'
    found = texts.connection.execute(
        f"""
        select
            coalesce(t.system, '') as system,
            {value} as code,
            count(distinct {texts.patient}) >= {texts.min_cell}
                and not ({str(no_dates).lower()} and regexp_matches({value}, '{_DATED_CODE}')) as is_shared
        from {texts.origin} where {value} is not null group by 1, 2
        """  # noqa: S608
    ).fetchall()
    naming = " union ".join(f"select system, code from {texts.source}.{table}" for table in _NAMING)  # noqa: S608
    named = set(texts.connection.execute(naming).fetchall())
    shown = [
        (system, code)
        for system, code, is_shared in found
        if is_shared or (system, code) in named or _is_surely_a_code(system, code)
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
    """By its system's own rule; a system without one vouches for nothing."""
    if system not in checked_systems():
        return False
    try:
        Code(system, code)
    except InvalidCodeError:
        return False
    return True
