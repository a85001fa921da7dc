"""A study as rows of the tables `study.*`: the only way a protocol enters SQL.

Every table has `study` as its first column, so models work with one study, with several, and with none.
Days and windows are whole days relative to the index event; null is open or absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from rwe.codes import NDC, Code
from rwe.drug_names import drug_words, normalised_ndc
from rwe.study import (
    AgeCriterion,
    CalendarCovariate,
    EventCriterion,
    ObservationCovariate,
    PeriodCriterion,
    PlausibleRange,
    SexCovariate,
    StatusCovariate,
    Study,
    ValueCriterion,
)
from rwe.warehouse.models import describe_table

_TEXT, _INT, _FLOAT, _BOOL, _DAY = pa.string(), pa.int32(), pa.float64(), pa.bool_(), pa.date32()
_Row = tuple[Any, ...]

_STUDY = {"study": (_TEXT, "The study.")}
_WINDOW = {
    "from_day": (_INT, "First day of the window, from index, inclusive; null: open."),
    "to_day": (_INT, "Last day of the window, from index, inclusive; null: open."),
}

_PLAUSIBLE = {
    "plausible_low": (_FLOAT, "A check reports values below; in its unit, null: open."),
    "plausible_high": (_FLOAT, "A check reports values above; in its unit, null: open."),
}

#: Table → what one row is, and its columns: type and meaning.
STUDY_TABLES: dict[str, tuple[str, dict[str, tuple[pa.DataType, str]]]] = {
    "protocol": (
        "One row per study: the rules of its protocol.",
        {
            **_STUDY,
            "version": (_TEXT, "Version of the protocol, as its authors count."),
            "title": (_TEXT, "Title of the study."),
            "protocol_sha256": (_TEXT, "SHA-256 of the protocol: two of one hash ask the same."),
            "index_codelist": (_TEXT, "Code list of the index event."),
            "same_event_days": (
                _INT,
                "Records at most this many days after the first are the same index event.",
            ),
            "has_washout": (_BOOL, "Whether who had the exposure before index is excluded."),
            "washout_days": (
                _INT,
                "How far the washout reaches back from index; null: over the whole record.",
            ),
            "exposure_codelist": (_TEXT, "Code list of the exposure."),
            "gap_days": (_INT, "Records of the exposure at most this many days apart are one episode."),
            "start_without_day": (
                _TEXT,
                "A first record known only to the month or year: exclude the patient, or take latest_day.",
            ),
            "treated_name": (_TEXT, "Name of the strategy that starts the exposure."),
            "control_name": (_TEXT, "Name of the strategy that does not."),
            "grace_days": (_INT, "A start up to this day after index still follows the strategy, inclusive."),
            "unless_progressed": (_BOOL, "Whether a start on or after progression is salvage instead."),
            "status_codelist": (
                _TEXT,
                "Code list of the observations that assess disease status; null: none.",
            ),
            "responding_codelist": (_TEXT, "Code list of their values that mean a response."),
            "progressed_codelist": (_TEXT, "Code list of their values that mean progression or relapse."),
            "death_without_date": (
                _TEXT,
                "Who is dead on no known day: exclude, or taken to have died at last_contact.",
            ),
            "incomplete_death_date": (
                _TEXT,
                "A death known to the month or year: taken at its midpoint, or exclude.",
            ),
            "censoring_rule": (_TEXT, "The living are censored at last_activity or at data_cutoff."),
            "data_cutoff": (_DAY, "Day at which the data end, by the rule data_cutoff; else null."),
        },
    ),
    "codelist": (
        "One row per code of a code list.",
        {
            **_STUDY,
            "codelist": (_TEXT, "The code list."),
            "system": (_TEXT, "URI of the code system."),
            "code": (_TEXT, "The code."),
            "is_prefix": (_BOOL, "Whether it stands for all codes that begin with it."),
            "display": (_TEXT, "What the code means, as the list says."),
            "source": (_TEXT, "Where the list has it from."),
            "valid_from": (_DAY, "First day on which the code means this; null: open."),
            "valid_to": (_DAY, "Last day on which the code means this; null: open."),
        },
    ),
    "index_source": (
        "One row per resource type in which the index event is looked for.",
        {**_STUDY, "source": (_TEXT, "The FHIR type.")},
    ),
    "criterion": (
        "One row per eligibility criterion.",
        {
            **_STUDY,
            "position": (_INT, "Its place in the protocol, from 1."),
            "criterion": (_TEXT, "Its name."),
            "kind": (
                _TEXT,
                "age_at_index, condition, procedure, medication, observation or index_period.",
            ),
            "codelist": (_TEXT, "Code list of what is looked for; null where none is."),
            **_WINDOW,
            "unit": (_TEXT, "UCUM code; a value in another unit does not count. Null: any unit."),
            "must_be_present": (_BOOL, "Whether a record must be there (true) or must not (false)."),
            "min_value": (_FLOAT, "Lowest value or age in years that meets it, inclusive; null: open."),
            "max_value": (_FLOAT, "Highest value or age in years that meets it, inclusive; null: open."),
            "not_before": (_DAY, "First index day that meets it; null: open."),
            "not_after": (_DAY, "Last index day that meets it; null: open."),
            **_PLAUSIBLE,
        },
    ),
    "step": (
        "One row per step from the first recorded index event to the analysed cohort.",
        {
            **_STUDY,
            "step_number": (_INT, "Its place, from 1."),
            "step": (_TEXT, "Its name: a fixed rule, or that of a criterion."),
            "kind": (_TEXT, "The fixed rule, or criterion."),
            "criterion": (_TEXT, "The criterion; null for a fixed rule."),
        },
    ),
    "exposure_tier": (
        "One row per tier of evidence that counts as exposure.",
        {**_STUDY, "tier": (_TEXT, "administration, dispense, statement or request.")},
    ),
    "covariate": (
        "One row per covariate.",
        {
            **_STUDY,
            "position": (_INT, "Its place in the protocol, from 1."),
            "covariate": (_TEXT, "Its name."),
            "kind": (_TEXT, "age_at_index, sex, observation, years_since or disease_status."),
            "label": (_TEXT, "What reports call it."),
            "codelist": (_TEXT, "Code list of the observation; null for other kinds."),
            **_WINDOW,
            "unit": (_TEXT, "UCUM code; a value in another unit is missing. Null: any unit."),
            "transform": (_TEXT, "none; log: analyses take the natural logarithm; log1p: that of 1 + value."),
            "over_time": (_BOOL, "Whether it is followed after index, in every analysis that has it."),
            "before_first": (_FLOAT, "Value of who has none in the window, before transform. Null: missing."),
            "origin": (_DAY, "Day from which years_since counts."),
            "status": (_TEXT, "The disease status that it indicates: responding or progressed."),
            **_PLAUSIBLE,
        },
    ),
    "covariate_level": (
        "One row per level of a categorical covariate.",
        {
            **_STUDY,
            "covariate": (_TEXT, "The covariate."),
            "level": (_TEXT, "The level as recorded."),
            "value": (_FLOAT, "The number it stands for."),
        },
    ),
    "intercurrent_event": (
        "One row per intercurrent event.",
        {
            **_STUDY,
            "event": (_TEXT, "Its name."),
            "codelist": (_TEXT, "Its code list."),
            "handling": (
                _TEXT,
                "treatment_policy: follow-up goes on; composite: it counts as the outcome; "
                "censored_with_weights: follow-up ends, and who is left is weighted for it.",
            ),
        },
    ),
    "intercurrent_source": (
        "One row per kind of record in which an intercurrent event is looked for.",
        {
            **_STUDY,
            "event": (_TEXT, "The intercurrent event."),
            "source": (_TEXT, "medication, procedure or condition."),
        },
    ),
    "death_source": (
        "One row per source of deaths that counts.",
        {
            **_STUDY,
            "source": (_TEXT, "patient (the Patient record) or registry (an imported death registry)."),
            "position": (
                _INT,
                "Its place in the protocol, from 1: of two that disagree the first is believed.",
            ),
        },
    ),
    "toxicity": (
        "One row per adverse event that is graded by a laboratory value.",
        {
            **_STUDY,
            "toxicity": (_TEXT, "Its name."),
            "adverse_event": (
                _TEXT,
                "neutropenia, thrombocytopenia or anaemia: a scale of ref.toxicity_grade.",
            ),
            "codelist": (_TEXT, "Code list of the value."),
            "from_day": (_INT, "Rates are of the first event from this day after index on."),
        },
    ),
    "cart_copies": (
        "One row per study that follows the expansion of the infused cells.",
        {
            **_STUDY,
            "codelist": (_TEXT, "Code list of the copies of the transgene."),
            "unit": (_TEXT, "UCUM code; a value in a unit of another kind does not count."),
        },
    ),
    "drug_word": (
        "One row per word by which a text looks like a drug of a code list.",
        {
            **_STUDY,
            "codelist": (_TEXT, "The code list."),
            "word": (_TEXT, "In lower case: from what the list calls its codes."),
        },
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
        kinds = [kind for kind, _ in columns.values()]
        data = [pa.array([r[i] for r in rows[table]], type=kind) for i, kind in enumerate(kinds)]
        incoming = pa.Table.from_arrays(data, names=list(columns))
        connection.register("incoming_rows", incoming)
        connection.execute(f"create table study.{table} as select * from incoming_rows")  # noqa: S608
        connection.unregister("incoming_rows")
        meanings = {column: words for column, (_, words) in columns.items()}
        describe_table(connection, f"study.{table}", comment, meanings)


def _rows(study: Study) -> Iterator[tuple[str, _Row]]:
    p = study.protocol
    yield "protocol", _protocol_row(study)
    for name in p.codelist_names():
        for c in study.codes(name):
            yield (
                "codelist",
                (name, c.system, _as_staged(c), c.is_prefix, c.display, c.source, c.valid_from, c.valid_to),
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
    yield from _clinical_rows(study)
    for e in p.intercurrent_events:
        yield "intercurrent_event", (e.name, e.codelist, e.handling)
        for kind in e.sources:
            yield "intercurrent_source", (e.name, kind)


def _as_staged(code: Code) -> str:
    """A code as staging.medication_code has it."""
    return normalised_ndc(code.code) if code.system == NDC else code.code


def _clinical_rows(study: Study) -> Iterator[tuple[str, _Row]]:
    p = study.protocol
    for position, source in enumerate(p.outcome.death_sources, start=1):
        yield "death_source", (source, position)
    for t in p.toxicities:
        yield "toxicity", (t.name, t.adverse_event, t.codelist, t.from_day)
    if p.cart_copies:
        yield "cart_copies", (p.cart_copies.codelist, p.cart_copies.unit)
    for name in p.medication_codelists():
        for word in drug_words(c.display for c in study.codes(name)):
            yield "drug_word", (name, word)


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
        codelist = window = unit = must_be_present = low = high = not_before = not_after = plausible = None
        if isinstance(c, AgeCriterion):
            low, high = c.min_years, c.max_years
        elif isinstance(c, EventCriterion):
            codelist, window, must_be_present = c.codelist, c.window, c.must_be == "present"
        elif isinstance(c, ValueCriterion):
            codelist, window, unit, low, high = c.codelist, c.window, c.unit, c.min_value, c.max_value
            plausible = c.plausible
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
            *_bounds(plausible),
        )


def _bounds(plausible: PlausibleRange | None) -> tuple[float | None, float | None]:
    return (plausible.low, plausible.high) if plausible else (None, None)


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
        codelist = from_day = to_day = unit = transform = before = origin = status = plausible = None
        if isinstance(c, ObservationCovariate):
            codelist, unit, transform, plausible = c.codelist, c.unit, c.transform, c.plausible
            before = c.before_first
            from_day, to_day = c.window.from_day, c.window.to_day
        elif isinstance(c, CalendarCovariate):
            origin = c.origin
        elif isinstance(c, StatusCovariate):
            status = c.status
        elif isinstance(c, SexCovariate):
            for level, value in c.values.items():
                yield "covariate_level", (c.name, level, value)
        over_time = isinstance(c, StatusCovariate) or (isinstance(c, ObservationCovariate) and c.over_time)
        window = (from_day, to_day, unit, transform, over_time, before, origin, status, *_bounds(plausible))
        yield "covariate", (position, c.name, c.kind, c.label, codelist, *window)
