"""Messy records, as hospitals have them: one kind for each patient who gets one.

None of them changes the latent truth, and none touches a patient whose record is clean. What each does to a
row of the cohort, if the reader follows the rules:

| kind | what is in the record | the cohort row |
|-|-|-|
| infusion_entered_in_error | a second, earlier infusion with status entered-in-error | unchanged |
| infusion_without_subject | a copy of the infusion that names no patient (invalid) | unchanged |
| impossible_date | an LDH on a day that no calendar has (invalid) | unchanged |
| newer_version | version 1 of the infusion has a wrong day, version 2 the right one | unchanged |
| no_value | an LDH on day 0 with a dataAbsentReason in place of a value | unchanged |
| lost_medication | a supportive drug whose Medication does not exist | unchanged |
| birth_year_only, birth_month_only | a birth date of lower precision | age shifts by at most half a year |
| death_without_date | deceasedBoolean, no day (only among the dead; rare) | death moves to the last contact |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

from rwe.sandbox.dialects import DIALECTS, DialectName, Resource, coding, concept
from rwe.sandbox.records import PatientRecord
from rwe.sandbox.scribe import Scribe

MessKind = Literal[
    "infusion_entered_in_error",
    "infusion_without_subject",
    "impossible_date",
    "newer_version",
    "no_value",
    "lost_medication",
    "birth_year_only",
    "birth_month_only",
    "death_without_date",
]
_WEIGHTS: dict[MessKind, float] = {
    "infusion_entered_in_error": 2,
    "infusion_without_subject": 1,
    "impossible_date": 2,
    "newer_version": 2,
    "no_value": 2,
    "lost_medication": 2,
    "birth_year_only": 1,
    "birth_month_only": 1,
    "death_without_date": 0.5,
}
#: Kinds that move a row of the cohort although every rule is followed.
SHIFTING: frozenset[MessKind] = frozenset({"birth_year_only", "birth_month_only", "death_without_date"})
#: Kinds that add a resource which is no valid R4.
INVALID: frozenset[MessKind] = frozenset({"infusion_without_subject", "impossible_date"})


def make_messy(record: PatientRecord, dialect_name: DialectName, *, share: float, seed: str) -> PatientRecord:
    """The record with one kind of mess, for a `share` of patients; else the record itself.

    A kind that the record has no room for (no infusion, no death) is replaced by `no_value`.
    """
    rng = Random(f"{seed}:{record.patient_id}:mess")
    if rng.random() >= share:
        return record
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    place = _find(record, kind)
    if place is None:
        kind, place = "no_value", 0
    resources = list(record.resources)
    resources[place] = copy.deepcopy(resources[place])
    scribe = Scribe(
        DIALECTS[dialect_name],
        rng,
        subject={"reference": f"Patient/{record.patient_id}"},
        index=record.index_date,
        last_day=0,
    )
    _CHANGES[kind](resources[place], scribe)
    # What was added goes first: an older version comes before the newer one.
    return replace(record, resources=(*scribe.resources, *resources), mess=kind)


def _find(record: PatientRecord, kind: MessKind) -> int | None:
    """Where the resource is that this kind of mess starts from: the infusion, or the patient."""
    for i, resource in enumerate(record.resources):
        if kind in _ABOUT_INFUSION:
            if resource["id"] == record.infusion_id:
                return i
        elif resource["resourceType"] == "Patient":
            return i if kind != "death_without_date" or "deceasedDateTime" in resource else None
    return None


def _copied(resource: Resource, scribe: Scribe, day: int) -> Resource:
    """A copy under a new id, on another day."""
    twin = {**copy.deepcopy(resource), **scribe.identity(day)}
    for name in ("effectiveDateTime", "performedDateTime"):
        if name in twin:
            twin[name] = scribe.moment(day)
    for name in ("effectivePeriod", "performedPeriod"):
        if name in twin:
            twin[name] = scribe.period(day, day)
    scribe.resources.append(twin)
    return twin


def _infusion_entered_in_error(infusion: Resource, scribe: Scribe) -> None:
    _copied(infusion, scribe, -scribe.rng.randrange(20, 60))["status"] = "entered-in-error"


def _infusion_without_subject(infusion: Resource, scribe: Scribe) -> None:
    del _copied(infusion, scribe, -scribe.rng.randrange(20, 60))["subject"]


def _impossible_date(_: Resource, scribe: Scribe) -> None:
    scribe.lab("ldh", 0, 9999)
    scribe.resources[-1]["effectiveDateTime"] = f"{scribe.date(0).year}-13-45"


def _newer_version(infusion: Resource, scribe: Scribe) -> None:
    _copied(infusion, scribe, -9)["id"] = infusion["id"]
    infusion["meta"] = {**scribe.identity(30)["meta"], "versionId": "2"}


def _no_value(_: Resource, scribe: Scribe) -> None:
    scribe.lab("ldh", 0, 0)
    del scribe.resources[-1]["valueQuantity"]
    system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
    scribe.resources[-1]["dataAbsentReason"] = concept(coding(system, "error", "Error"))


def _lost_medication(_: Resource, scribe: Scribe) -> None:
    nowhere = f"Medication/{scribe.rng.getrandbits(80):020x}"
    scribe.administration(0, {"medicationReference": {"reference": nowhere}})


def _birth_year_only(person: Resource, _: Scribe) -> None:
    person["birthDate"] = person["birthDate"][:4]


def _birth_month_only(person: Resource, _: Scribe) -> None:
    person["birthDate"] = person["birthDate"][:7]


def _death_without_date(person: Resource, _: Scribe) -> None:
    del person["deceasedDateTime"]
    person["deceasedBoolean"] = True


_ABOUT_INFUSION: frozenset[MessKind] = frozenset(
    {"infusion_entered_in_error", "infusion_without_subject", "newer_version"}
)
_CHANGES: dict[MessKind, Callable[[Resource, Scribe], None]] = {
    "infusion_entered_in_error": _infusion_entered_in_error,
    "infusion_without_subject": _infusion_without_subject,
    "impossible_date": _impossible_date,
    "newer_version": _newer_version,
    "no_value": _no_value,
    "lost_medication": _lost_medication,
    "birth_year_only": _birth_year_only,
    "birth_month_only": _birth_month_only,
    "death_without_date": _death_without_date,
}
