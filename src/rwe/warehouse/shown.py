"""The published database, made from the private build table by table and column by column.

What each column holds is declared in `rwe.warehouse.columns`; what of it is shown follows `published:` of
the settings. Under `anchored` all dates of a patient are moved by the same number of days, so that the first
index event of any study is 2000-01-01, and what would tell by how many days stays out. `meta.withheld` counts
what is not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb

from rwe.warehouse import columns as declared
from rwe.warehouse.shared_texts import Texts, share_codes, share_systems, share_texts

ANCHOR_DAY = "2000-01-01"
_GOVERNED = ("staging", "cohort")
_MOMENTS = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE"})


@dataclass(frozen=True)
class Rules:
    """What of the private build is shown: `published:` of the settings."""

    dates: Literal["exact", "anchored"] = "exact"
    min_cell: int = 5
    top_code_age: int | None = None

    @property
    def is_anchored(self) -> bool:
        return self.dates == "anchored"


@dataclass(frozen=True)
class Withheld:
    """How much of a column is not shown, by which rule; of whole rows where `column_name` is None."""

    table_schema: str
    table_name: str
    column_name: str | None
    rule: str
    n: int


@dataclass(frozen=True)
class Shown:
    """How one table is published: select items, what is joined to it, which rows stay."""

    items: list[str]
    joins: list[str]
    conditions: list[str]
    rules: dict[str, str]


@dataclass(frozen=True)
class Pair:
    """The attached databases: rows come from `source` and go to `target`."""

    connection: duckdb.DuckDBPyConnection
    source: str
    target: str


def show_patients(pair: Pair, rules: Rules) -> list[Withheld]:
    """Make staging.* and cohort.* of the published database from those of the private one.

    Returns what was withheld, in order of table and column. Raises duckdb.Error.
    """
    tables = _tables(pair)
    _create_helpers(pair, rules)
    withheld: list[Withheld] = []
    for schema in _GOVERNED:
        pair.connection.execute(f"create schema if not exists {pair.target}.{schema}")
    # Owners first: rows that belong to rows which stay out stay out too.
    for table in sorted(tables, key=lambda t: (t in declared.OWNERS, t)):
        shown = _how(pair, table, tables[table], rules)
        where = f" where {' and '.join(f'({c})' for c in shown.conditions)}" if shown.conditions else ""
        order = " order by all" if rules.is_anchored else ""
        pair.connection.execute(
            f"create table {pair.target}.{table} as select {', '.join(shown.items)}"  # noqa: S608
            f" from {pair.source}.{table} as t {' '.join(shown.joins)}{where}{order}"
        )
        withheld += _count_withheld(pair, table, shown)
    return sorted(withheld, key=lambda w: (w.table_schema, w.table_name, w.column_name or "", w.rule))


def _tables(pair: Pair) -> dict[str, dict[str, str]]:
    found = pair.connection.execute(
        "select schema_name || '.' || table_name, column_name, data_type from duckdb_columns()"
        " where database_name = ? and list_contains(?, schema_name) order by 1, column_index",
        [pair.source, list(_GOVERNED)],
    ).fetchall()
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        tables.setdefault(table, {})[column] = kind
    return tables


def _create_helpers(pair: Pair, rules: Rules) -> None:
    """Who is moved by how many days, whose days rest on a month or a year, who is older than is shown."""
    oldest = rules.top_code_age if rules.top_code_age is not None else _NOBODY
    values = {"source": pair.source, "day": ANCHOR_DAY, "oldest": oldest, "min_cell": rules.min_cell}
    for name, query in _HELPERS.items():
        pair.connection.execute(f"create or replace temp table {name} as {query.format(**values)}")


_NOBODY = 1_000  # years
_HELPERS = {
    "moved": """
        select
            patient_id,
            cast(date_diff('day', min(index_date), date '{day}') as integer) as by_days
        from {source}.cohort.index_event where index_date is not null group by patient_id
    """,
    "vague": """
        select study, patient_id from {source}.cohort.death where precision in ('month', 'year')
        union
        select m.study, m.patient_id
        from {source}.cohort.codelist_match as m
        join {source}.study.protocol as p on m.study = p.study
        where
            m.event_date is null and m.first_day is not null
            and m.codelist in (p.index_codelist, p.exposure_codelist, p.status_codelist)
    """,
    "too_old": """
        select distinct patient_id from {source}.staging.patient
        where date_diff('day', birth_first_day, coalesce(deceased_last_day, landed_day)) / 365.25 > {oldest}
    """,
    "common_year": """
        select study, site, year(index_date) as index_year from {source}.cohort.index_event
        where index_date is not null
        group by study, site, year(index_date) having count(distinct patient_id) >= {min_cell}
    """,
}


def _how(pair: Pair, table: str, columns: dict[str, str], rules: Rules) -> Shown:
    shown = Shown([], [], [], {})
    if "patient_id" in columns:
        shown.joins.append("left join moved on t.patient_id = moved.patient_id")
        shown.joins.append("left join too_old on t.patient_id = too_old.patient_id")
        if "study" in columns:
            same = "t.study = vague.study and t.patient_id = vague.patient_id"
            shown.joins.append(f"left join vague on {same}")
    if rules.is_anchored:
        _choose_rows(shown, pair.target, table, columns)
    for column, kind in columns.items():
        if (table, column) == ("cohort.baseline", "value"):
            item, rule = _baseline_value(shown, pair.source, rules)
        elif kind == "VARCHAR":
            item, rule = _text(pair, table, columns, column, rules)
        elif kind == "DATE" or kind in _MOMENTS:
            item, rule = _date(table, columns, column, rules)
        else:
            item, rule = _number(table, column, kind, rules)
        shown.items.append(f'{item} as "{column}"')
        if rule:
            shown.rules[column] = rule
    return shown


def _number(table: str, column: str, kind: str, rules: Rules) -> tuple[str, str]:
    plain = f't."{column}"'
    if column in declared.AGES:
        return _age(table, column, rules)
    if rules.is_anchored and column == declared.INDEX_YEAR:
        return _INDEX_YEAR, "min_cell"
    if rules.is_anchored and table in declared.BLANKED and declared.is_day_number(column, kind):
        return f"case when vague.patient_id is null then {plain} end", "anchored"
    return plain, ""


def _choose_rows(shown: Shown, target: str, table: str, columns: dict[str, str]) -> None:
    """Under anchored: rows with a date of patients who have no anchor stay out, and so do rows whose days
    rest on a month or a year."""
    owner = declared.OWNERS.get(table)
    if owner:
        shown.conditions.append(f"t.{owner.key} in (select {owner.owner_key} from {target}.{owner.table})")  # noqa: S608
    moving = [
        c for c, k in columns.items() if (k == "DATE" or k in _MOMENTS) and c not in declared.CALENDAR_DATES
    ]
    if "patient_id" in columns and moving:
        undated = " and ".join(f't."{c}" is null' for c in moving)
        shown.conditions.append(f"moved.by_days is not null or ({undated})")
    is_derived = table.startswith("cohort.") and {"study", "patient_id"} <= columns.keys()
    if is_derived and table not in declared.SURE | declared.BLANKED:
        shown.conditions.append("vague.patient_id is null")


def _date(table: str, columns: dict[str, str], column: str, rules: Rules) -> tuple[str, str]:
    plain, has_patient = f't."{column}"', "patient_id" in columns
    if not rules.is_anchored:
        if rules.top_code_age is not None and column in declared.BIRTH_DATES and has_patient:
            return f"case when too_old.patient_id is null then {plain} end", "top_code_age"
        return plain, ""
    nothing = f"cast(null as {columns[column]})"
    if column in declared.CALENDAR_DATES or not has_patient:
        return nothing, "anchored"
    if columns[column] == "DATE":
        moved = f"{plain} + moved.by_days"
    else:  # the time of day would tell summer from winter
        moved = f"cast(cast({plain} as date) + moved.by_days as {columns[column]})"
    known: str | None = None
    if declared.is_bound(column):
        named = column.replace("first_day", "day").replace("last_day", "day")
        day = named if named in columns else declared.BOUNDS.get(table)
        if day is None:
            return nothing, "anchored"
        known = f't."{day}" is not null'
    elif table in declared.BLANKED and column != "index_date":
        known = "vague.patient_id is null"
    return (f"case when {known} then {moved} end" if known else moved), "anchored"


_INDEX_YEAR = (
    "case when (t.study, t.site, t.index_year) in (select study, site, index_year from common_year)"
    " then t.index_year end"
)


def _age(table: str, column: str, rules: Rules) -> tuple[str, str]:
    item = f't."{column}"'
    if not rules.is_anchored and rules.top_code_age is None:
        return item, ""
    if rules.is_anchored:
        item = _whole_age("t") if table == "cohort.demographic" else f"floor({item})"
    if rules.top_code_age is not None:
        item = f"least({item}, {rules.top_code_age})"
    return item, "anchored" if rules.is_anchored else "top_code_age"


def _whole_age(table: str) -> str:
    """Whole years. From a year or month of birth they are counted by calendar years: the day on which one is
    a year older would be the middle of a year, and tell on which side of it the index day lies."""
    return (
        f"case when {table}.is_birth_date_approximate"
        f" then cast(year({table}.index_date) - year({table}.birth_date) as double)"
        f" else floor({table}.age_years) end"
    )


def _baseline_value(shown: Shown, source: str, rules: Rules) -> tuple[str, str]:
    """Ages as in cohort.demographic. Years since a day of the calendar stay out under anchored."""
    if not rules.is_anchored and rules.top_code_age is None:
        return 't."value"', ""
    shown.joins.append(
        f"join {source}.study.covariate as c on t.study = c.study and t.covariate = c.covariate"
    )
    shown.joins.append(
        f"left join {source}.cohort.demographic as d on t.study = d.study and t.patient_id = d.patient_id"
    )
    age = _whole_age("d") if rules.is_anchored else "d.age_years"
    if rules.top_code_age is not None:
        age = f"least({age}, {rules.top_code_age})"
    if rules.is_anchored:
        shown.conditions.append("c.kind <> 'years_since'")
    known = "t.\"value\" is not null and c.kind = 'age_at_index'"
    return f'case when {known} then {age} else t."value" end', (
        "anchored" if rules.is_anchored else "top_code_age"
    )


def _text(pair: Pair, table: str, columns: dict[str, str], column: str, rules: Rules) -> tuple[str, str]:
    plain, kind = f't."{column}"', declared.text_kind(table, column)
    if kind in {"key", "closed"}:
        return plain, ""
    if kind == "calendar":
        return ("cast(null as varchar)", "anchored") if rules.is_anchored else (plain, "")
    name = f"shared_{table.replace('.', '_')}_{column}"
    patient, origin = "t.patient_id", f"{pair.source}.{table} as t"
    owner = declared.OWNERS.get(table)
    if owner:
        patient = "o.patient_id"
        origin += f" join {pair.source}.{owner.table} as o on t.{owner.key} = o.{owner.owner_key}"
    elif "patient_id" not in columns:
        return "cast(null as varchar)", "min_cell"
    texts = Texts(pair.connection, pair.source, name, origin, column, patient, rules.min_cell)
    if kind == "code" and "system" in columns:
        share_codes(texts, no_dates=rules.is_anchored)
        both = f"(coalesce(t.system, ''), {plain})"
        return f"case when {both} in (from {name}) then {plain} end", "min_cell"
    if kind == "system":
        share_systems(texts)
    else:
        share_texts(texts, no_dates=rules.is_anchored and column == "value_text")
    return f"case when {plain} in (from {name}) then {plain} end", "min_cell"


def _count_withheld(pair: Pair, table: str, shown: Shown) -> list[Withheld]:
    """Values of rows that stay out are counted with the values that do."""
    counted = ", ".join(["count(*)", *(f'count("{c}")' for c in shown.rules)])
    before, after = (
        pair.connection.execute(f"select {counted} from {side}.{table}").fetchall()[0]  # noqa: S608
        for side in (pair.source, pair.target)
    )
    rules: Sequence[tuple[str | None, str]] = [(None, "anchored"), *shown.rules.items()]
    schema, name = table.split(".")
    return [
        Withheld(schema, name, column, rule, b - a)
        for (column, rule), b, a in zip(rules, before, after, strict=True)
        if b != a
    ]
