"""From what is read of a resource to its row in the lake, one resource after the other.

This way is careful: it says by rule and JSON path what is wrong. It is the reference for `columns.py`, which
takes what is in order faster, and gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rwe.lake import elements
from rwe.lake.dates import coarsen
from rwe.lake.elements import QuantityIn, ResourceIn
from rwe.lake.findings import Flag, RejectedError
from rwe.lake.medication_rows import (
    administration_row,
    dispense_row,
    medication_row,
    request_row,
    statement_row,
)
from rwe.lake.observation_rows import observation_row
from rwe.lake.reader import Mapping, PartReader, Row, date_columns
from rwe.lake.value_sets import (
    CLINICAL_STATUSES,
    CONSENT_SCOPES,
    ENCOUNTER_CLASSES,
    GENDERS,
    OTHER_SCOPE,
    PROVISION_TYPES,
    STATUSES,
    VERIFICATION_STATUSES,
)

__all__ = ["Flag", "Mapping", "RejectedError", "Row", "RowBuilder"]

#: Parts of a year of 365.25 days, by the units of an Age (R4, datatypes, Age).
YEARS_IN = {"a": 1.0, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25}


class RowBuilder:
    """Builds the rows of one resource after the other; `flags` are those of the resource built last."""

    def __init__(self, mapping: Mapping) -> None:
        self._reader = PartReader(mapping)

    @property
    def flags(self) -> list[Flag]:
        return self._reader.flags

    def build(self, resource: ResourceIn) -> Row:
        """The columns of the resource's type after the common ones. Raises RejectedError."""
        self._reader.flags = []
        return _BUILDERS[type(resource)](self._reader, resource)


def _patient(reader: PartReader, r: elements.PatientIn) -> Row:
    birth = reader.fhir_date(r.birthDate, "$.birthDate")
    kept = coarsen(birth, reader.mapping.birth_date) if birth else None
    for position, link in enumerate(r.link or ()):
        reader.refuse_modified(link, f"$.link[{position}]")
    return {
        "is_active": r.active,
        "gender": reader.coded(r.gender, GENDERS, "$.gender"),
        **date_columns("birth", kept),
        "deceased_boolean": r.deceasedBoolean,
        **reader.date("deceased", r.deceasedDateTime, "$.deceasedDateTime"),
        "replaced_by": _linked(reader, r, "replaced-by"),
        "replaces": _linked(reader, r, "replaces"),
    }


def _linked(reader: PartReader, r: elements.PatientIn, kind: str) -> list[str]:
    found = (reader.reference(x.other, "Patient") for x in r.link or () if x.type == kind)
    return sorted({pseudonym for pseudonym in found if pseudonym})


def _consent(reader: PartReader, r: elements.ConsentIn) -> Row:
    provision = r.provision or elements.ProvisionIn()
    reader.refuse_modified(provision, "$.provision")
    scope = reader.coded_concept(r.scope, CONSENT_SCOPES, "$.scope")
    has_scope = r.scope is not None and any(c.code for c in r.scope.coding or ())
    return {
        **reader.subject(r.patient, "patient"),
        "status": reader.coded(r.status, STATUSES["Consent"], "$.status"),
        "scope_code": scope or (OTHER_SCOPE if has_scope else None),
        "provision_type": reader.coded(provision.type, PROVISION_TYPES, "$.provision.type"),
        **reader.date("given", r.dateTime, "$.dateTime"),
        **reader.period(provision.period, "$.provision.period"),
    }


def _condition(reader: PartReader, r: elements.ConditionIn) -> Row:
    onset, abatement = r.onsetPeriod or elements.PeriodIn(), r.abatementPeriod or elements.PeriodIn()
    for position, stage in enumerate(r.stage or ()):
        reader.refuse_modified(stage, f"$.stage[{position}]")
    is_onset_day, is_abatement_day = r.onsetDateTime is not None, r.abatementDateTime is not None
    return {
        **reader.subject(r.subject),
        "clinical_status": reader.coded_concept(r.clinicalStatus, CLINICAL_STATUSES, "$.clinicalStatus"),
        "verification_status": reader.coded_concept(
            r.verificationStatus, VERIFICATION_STATUSES, "$.verificationStatus"
        ),
        "codings": reader.codings(r.code, "$.code"),
        "category_codings": reader.all_codings(r.category, "$.category"),
        "severity_codings": reader.codings(r.severity, "$.severity"),
        "stage_codings": reader.all_codings(
            [s.summary for s in r.stage or () if s.summary is not None], "$.stage.summary"
        ),
        "body_site_codings": reader.all_codings(r.bodySite, "$.bodySite"),
        **reader.date(
            "onset",
            r.onsetDateTime if is_onset_day else onset.start,
            "$.onsetDateTime" if is_onset_day else "$.onsetPeriod.start",
        ),
        "onset_age_years": years(r.onsetAge),
        **reader.further_date(
            "abatement",
            r.abatementDateTime if is_abatement_day else abatement.end,
            "$.abatementDateTime" if is_abatement_day else "$.abatementPeriod.end",
        ),
        **reader.date("recorded", r.recordedDate, "$.recordedDate"),
        "encounter_id": reader.reference(r.encounter, "Encounter"),
    }


def years(age: QuantityIn | None) -> float | None:
    """An age in years; one with a comparator or another unit is none."""
    if age is None or age.value is None or age.comparator is not None:
        return None
    factor = YEARS_IN.get(age.code or "")
    return None if factor is None else age.value * factor


def _procedure(reader: PartReader, r: elements.ProcedureIn) -> Row:
    return {
        **reader.subject(r.subject),
        "status": reader.coded(r.status, STATUSES["Procedure"], "$.status"),
        "codings": reader.codings(r.code, "$.code"),
        "category_codings": reader.codings(r.category, "$.category"),
        "reason_codings": reader.all_codings(r.reasonCode, "$.reasonCode"),
        "body_site_codings": reader.all_codings(r.bodySite, "$.bodySite"),
        "outcome_codings": reader.codings(r.outcome, "$.outcome"),
        "complication_codings": reader.all_codings(r.complication, "$.complication"),
        **reader.span(r.performedDateTime, r.performedPeriod, "$.performed"),
        "encounter_id": reader.reference(r.encounter, "Encounter"),
    }


def _encounter(reader: PartReader, r: elements.EncounterIn) -> Row:
    stay = r.hospitalization or elements.HospitalizationIn()
    reader.refuse_modified(stay, "$.hospitalization")
    kind = r.kind.code if r.kind else None
    return {
        **reader.subject(r.subject),
        "status": reader.coded(r.status, STATUSES["Encounter"], "$.status"),
        "class_code": reader.coded(kind, ENCOUNTER_CLASSES, "$.class.code"),
        "type_codings": reader.all_codings(r.type, "$.type"),
        "reason_codings": reader.all_codings(r.reasonCode, "$.reasonCode"),
        "discharge_codings": reader.codings(
            stay.dischargeDisposition, "$.hospitalization.dischargeDisposition"
        ),
        **reader.period(r.period, "$.period"),
        "part_of_id": reader.reference(r.partOf, "Encounter"),
    }


_BUILDERS: dict[type[ResourceIn], Callable[[PartReader, Any], Row]] = {
    elements.PatientIn: _patient,
    elements.MedicationAdministrationIn: administration_row,
    elements.MedicationRequestIn: request_row,
    elements.MedicationDispenseIn: dispense_row,
    elements.MedicationStatementIn: statement_row,
    elements.MedicationIn: medication_row,
    elements.ObservationIn: observation_row,
    elements.ConditionIn: _condition,
    elements.ProcedureIn: _procedure,
    elements.EncounterIn: _encounter,
    elements.ConsentIn: _consent,
}
