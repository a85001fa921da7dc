"""A study as rows of the tables `study.*`: the only way a protocol enters SQL.

Every table has `study` as its first column, so models work with one study, with several, and with none.
Days and windows are whole days relative to the index event; null is open or absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from rwe.study import (
    AgeCriterion,
    CalendarCovariate,
    EventCriterion,
    ObservationCovariate,
    PeriodCriterion,
    SexCovariate,
    StatusCovariate,
    Study,
    ValueCriterion,
)

_TEXT, _INT, _FLOAT, _BOOL, _DAY = pa.string(), pa.int32(), pa.float64(), pa.bool_(), pa.date32()
_Row = tuple[Any, ...]

#: Table → what one row is, and its columns.
STUDY_TABLES: dict[str, tuple[str, dict[str, pa.DataType]]] = {
    "protocol": (
        "One row a study: the rules of its protocol.",
        {
            "study": _TEXT,
            "version": _TEXT,
            "title": _TEXT,
            "protocol_sha256": _TEXT,
            "index_codelist": _TEXT,
            "same_event_days": _INT,
            "has_washout": _BOOL,
            "washout_days": _INT,
            "exposure_codelist": _TEXT,
            "gap_days": _INT,
            "start_without_day": _TEXT,
            "treated_name": _TEXT,
            "control_name": _TEXT,
            "grace_days": _INT,
            "unless_progressed": _BOOL,
            "status_codelist": _TEXT,
            "responding_codelist": _TEXT,
            "progressed_codelist": _TEXT,
            "death_without_date": _TEXT,
            "incomplete_death_date": _TEXT,
            "censoring_rule": _TEXT,
            "data_cutoff": _DAY,
        },
    ),
    "codelist": (
        "One row a code of a code list. is_prefix stands for all codes that begin with it.",
        {
            "study": _TEXT,
            "codelist": _TEXT,
            "system": _TEXT,
            "code": _TEXT,
            "is_prefix": _BOOL,
            "display": _TEXT,
            "source": _TEXT,
            "valid_from": _DAY,
            "valid_to": _DAY,
        },
    ),
    "index_source": (
        "One row a resource type in which the index event is looked for.",
        {"study": _TEXT, "source": _TEXT},
    ),
    "criterion": (
        "One row an eligibility criterion, in the protocol's order.",
        {
            "study": _TEXT,
            "position": _INT,
            "criterion": _TEXT,
            "kind": _TEXT,
            "codelist": _TEXT,
            "from_day": _INT,
            "to_day": _INT,
            "unit": _TEXT,
            "must_be_present": _BOOL,
            "min_value": _FLOAT,
            "max_value": _FLOAT,
            "not_before": _DAY,
            "not_after": _DAY,
        },
    ),
    "step": (
        "One row a step from the first recorded index event to the analysed cohort, in order.",
        {"study": _TEXT, "step_number": _INT, "step": _TEXT, "kind": _TEXT, "criterion": _TEXT},
    ),
    "exposure_tier": (
        "One row a tier of evidence that counts as exposure.",
        {"study": _TEXT, "tier": _TEXT},
    ),
    "covariate": (
        "One row a covariate.",
        {
            "study": _TEXT,
            "position": _INT,
            "covariate": _TEXT,
            "kind": _TEXT,
            "label": _TEXT,
            "codelist": _TEXT,
            "from_day": _INT,
            "to_day": _INT,
            "unit": _TEXT,
            "transform": _TEXT,
            "origin": _DAY,
            "status": _TEXT,
        },
    ),
    "covariate_level": (
        "One row a level of a categorical covariate and the number it stands for.",
        {"study": _TEXT, "covariate": _TEXT, "level": _TEXT, "value": _FLOAT},
    ),
    "intercurrent_event": (
        "One row an intercurrent event and how it is handled.",
        {"study": _TEXT, "event": _TEXT, "codelist": _TEXT, "handling": _TEXT},
    ),
    "intercurrent_source": (
        "One row a kind of record in which an intercurrent event is looked for.",
        {"study": _TEXT, "event": _TEXT, "source": _TEXT},
    ),
}


def insert_studies(connection: duckdb.DuckDBPyConnection, studies: Sequence[Study]) -> None:
    """Create the schema `study` and its tables, and fill them with the studies given."""
    connection.execute("create schema study")
    rows: dict[str, list[_Row]] = {table: [] for table in STUDY_TABLES}
    for s in studies:
        for table, row in _rows(s):
            rows[table].append((s.name, *row))
    for table, (comment, columns) in STUDY_TABLES.items():
        data = [pa.array([r[i] for r in rows[table]], type=t) for i, t in enumerate(columns.values())]
        incoming = pa.Table.from_arrays(data, names=list(columns))
        connection.register("incoming_rows", incoming)
        connection.execute(f"create table study.{table} as select * from incoming_rows")  # noqa: S608
        connection.unregister("incoming_rows")
        connection.execute(f"comment on table study.{table} is '{comment.replace(chr(39), chr(39) * 2)}'")


def _rows(study: Study) -> Iterator[tuple[str, _Row]]:
    p = study.protocol
    yield "protocol", _protocol_row(study)
    for name in p.codelist_names():
        for c in study.codes(name):
            yield (
                "codelist",
                (name, c.system, c.code, c.is_prefix, c.display, c.source, c.valid_from, c.valid_to),
            )
    for source in p.index_event.sources:
        yield "index_source", (source,)
    for tier in p.exposure.tiers:
        yield "exposure_tier", (tier,)
    for row in _criterion_rows(study):
        yield "criterion", row
    for number, step in enumerate(_steps(study), start=1):
        yield "step", (number, *step)
    yield from _covariate_rows(study)
    for e in p.intercurrent_events:
        yield "intercurrent_event", (e.name, e.codelist, e.handling)
        for kind in e.sources:
            yield "intercurrent_source", (e.name, kind)


def _protocol_row(study: Study) -> _Row:
    p, status = study.protocol, study.protocol.disease_status
    return (
        p.version,
        p.title,
        study.protocol_sha256,
        p.index_event.codelist,
        p.index_event.same_event_days,
        p.new_user_washout is not None,
        p.new_user_washout.days if p.new_user_washout else None,
        p.exposure.codelist,
        p.exposure.gap_days,
        p.exposure.start_without_day,
        p.strategies.treated.name,
        p.strategies.control.name,
        p.strategies.treated.grace_days,
        p.strategies.treated.unless_progressed,
        status.codelist if status else None,
        status.responding if status else None,
        status.progressed if status else None,
        p.outcome.death_without_date,
        p.outcome.incomplete_death_date,
        p.censoring.rule,
        p.censoring.data_cutoff,
    )


def _criterion_rows(study: Study) -> Iterator[_Row]:
    for position, c in enumerate(study.protocol.eligibility, start=1):
        codelist = window = unit = must_be_present = low = high = not_before = not_after = None
        if isinstance(c, AgeCriterion):
            low, high = c.min_years, c.max_years
        elif isinstance(c, EventCriterion):
            codelist, window, must_be_present = c.codelist, c.window, c.must_be == "present"
        elif isinstance(c, ValueCriterion):
            codelist, window, unit, low, high = c.codelist, c.window, c.unit, c.min_value, c.max_value
        elif isinstance(c, PeriodCriterion):
            not_before, not_after = c.not_before, c.not_after
        from_day, to_day = (window.from_day, window.to_day) if window else (None, None)
        yield (
            position,
            c.name,
            c.kind,
            codelist,
            from_day,
            to_day,
            unit,
            must_be_present,
            low,
            high,
            not_before,
            not_after,
        )


def _steps(study: Study) -> Iterator[tuple[str, str, str | None]]:
    """(step, kind, criterion): how patients with a recorded index event become the analysed cohort."""
    p = study.protocol
    yield "index_event", "index_event", None
    yield "index_day_known", "index_day_known", None
    yield "patient_known", "patient_known", None
    if p.censoring.rule == "data_cutoff":
        yield "index_before_cutoff", "index_before_cutoff", None
    for c in p.eligibility:
        yield c.name, "criterion", c.name
    if p.new_user_washout:
        yield "new_user", "new_user", None
    if p.exposure.start_without_day == "exclude":
        yield "start_day_known", "start_day_known", None
    yield "death_not_before_index", "death_not_before_index", None
    if "exclude" in {p.outcome.death_without_date, p.outcome.incomplete_death_date}:
        yield "death_day_known", "death_day_known", None
    yield "analysed", "analysed", None


def _covariate_rows(study: Study) -> Iterator[tuple[str, _Row]]:
    for position, c in enumerate(study.protocol.covariates, start=1):
        codelist = from_day = to_day = unit = transform = origin = status = None
        if isinstance(c, ObservationCovariate):
            codelist, unit, transform = c.codelist, c.unit, c.transform
            from_day, to_day = c.window.from_day, c.window.to_day
        elif isinstance(c, CalendarCovariate):
            origin = c.origin
        elif isinstance(c, StatusCovariate):
            status = c.status
        elif isinstance(c, SexCovariate):
            for level, value in c.values.items():
                yield "covariate_level", (c.name, level, value)
        yield (
            "covariate",
            (position, c.name, c.kind, c.label, codelist, from_day, to_day, unit, transform, origin, status),
        )
