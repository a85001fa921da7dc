"""What the columns of the private build hold, as far as it decides what of them is published.

Dates and moments need no entry: under `anchored` they move with their patient, unless they are named here.
A VARCHAR column of `staging` or `cohort` must be named: one that is not is treated as free text, and a test
fails until someone has said what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: key: a pseudonym or another key made by us. closed: one of a closed set, or a name out of settings or
#: protocol. text: words as a hospital wrote them. code: a code, its system in the column `system`, if any.
#: system: the URI of a code system.
#: calendar: it tells when, and stays out under `anchored`.
TextKind = Literal["key", "closed", "text", "code", "system", "calendar"]

_NAMES: dict[TextKind, str] = {
    "key": """
        condition_id encounter_id event_id medication_resource_id observation_id patient_id procedure_id
        survivor_id
    """,
    "closed": """
        adverse_event birth_precision canonical_unit class_code clinical_status codelist covariate criterion
        death_precision deceased_precision dose_canonical_unit end_basis end_precision end_reason event
        gender handling kind medication_source name precision purpose resource_type site source start_kind
        status step strategy study tier toxicity value_comparator value_kind verification_status
    """,
    "code": "absent_reason code interpretation",
    "system": "system",
    "text": "copies_unit display dose_unit recorded_unit text unit value_text value_unit",
    "calendar": "run version",
}
TEXT_KINDS: dict[str, TextKind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

#: Where a name means something else in one table than elsewhere.
TEXT_KINDS_OF: dict[tuple[str, str], TextKind] = {}

#: Dates that tell when something was fetched, or an exact age: they stay out under `anchored`. Moments do
#: because their time of day in UTC changes with summer time.
CALENDAR_DATES = frozenset(
    {
        "landed_day",
        "ongoing_until_date",
        "birth_day",
        "birth_date",
        "birth_first_day",
        "birth_last_day",
        "observed_at",
        "issued_at",
    }
)
#: Dates of birth, which tell that somebody is older than the oldest age that is shown.
BIRTH_DATES = frozenset({"birth_day", "birth_date", "birth_first_day", "birth_last_day"})
#: Ages in years: whole under `anchored`, top-coded where that is asked for.
AGES = frozenset({"age_years", "onset_age_years"})
#: Under `anchored` it is shown only where enough patients share it.
INDEX_YEAR = "index_year"

#: First and last possible day. Where they differ they are a month or a year, and would tell by how much a
#: patient was moved. So they show only beside a day: table → the column that is null where it is not known.
BOUNDS: dict[str, str] = {
    "staging.condition": "onset_day",
    "staging.medication_event": "start_day",
    "staging.observation": "observed_day",
    "staging.procedure": "start_day",
    "cohort.codelist_match": "event_date",
}


@dataclass(frozen=True)
class Owner:
    """The rows of a table without patient_id belong to rows of another: `key` is `owner_key` there."""

    key: str
    table: str
    owner_key: str


OWNERS: dict[str, Owner] = {
    "staging.condition_code": Owner("condition_id", "staging.condition", "condition_id"),
    "staging.medication_code": Owner("event_id", "staging.medication_event", "event_id"),
    "staging.medication_text": Owner("event_id", "staging.medication_event", "event_id"),
    "staging.observation_code": Owner("observation_id", "staging.observation", "observation_id"),
    "staging.observation_value": Owner("observation_id", "staging.observation", "observation_id"),
    "staging.procedure_code": Owner("procedure_id", "staging.procedure", "procedure_id"),
}
#: Tables of `staging` and `cohort` in which no row is about one patient.
OF_NOBODY = frozenset({"cohort.attrition"})

#: Cohort tables whose days rest on dates known to the day only.
SURE = frozenset(
    {
        "cohort.baseline",
        "cohort.cart_copies",
        "cohort.codelist_match",
        "cohort.copies_by_day",
        "cohort.demographic",
        "cohort.eligibility",
        "cohort.index_event",
        "cohort.intercurrent_event",
        "cohort.last_contact",
        "cohort.measured_value",
        "cohort.observed_value",
        "cohort.response",
        "cohort.toxicity",
    }
)
#: Cohort tables of one row a patient: where a day may rest on a month or a year, all days are null. In the
#: tables that are in neither set, the rows of such a patient stay out.
BLANKED = frozenset({"cohort.death", "cohort.follow_up", "cohort.survival"})


def text_kind(table: str, column: str) -> TextKind | None:
    """What a VARCHAR column holds; None where nobody has said so."""
    return TEXT_KINDS_OF.get((table, column)) or TEXT_KINDS.get(column)


def is_bound(column: str) -> bool:
    """Whether a date is the first or last possible day of something."""
    return column.endswith(("first_day", "last_day"))


def is_day_number(column: str, kind: str) -> bool:
    """Whether a column counts days from index."""
    return kind in {"INTEGER", "BIGINT", "DOUBLE"} and (column == "day" or column.endswith(("_day", "_days")))
