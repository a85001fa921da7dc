"""From what is read of a resource to its row in the lake: pseudonyms for ids, days for dates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from rwe.lake import schema
from rwe.lake.dates import DateShapeError, FhirDate, coarsen, read_fhir_date
from rwe.lake.pseudonyms import Pseudonymiser, reference_target

Row = dict[str, Any]


class RejectedError(Exception):
    """A resource does not enter the lake. Holds the rule and the JSON path, never a value."""

    def __init__(self, rule: str, json_path: str = "$") -> None:
        super().__init__(rule)
        self.rule, self.json_path = rule, json_path


@dataclass(frozen=True)
class Flag:
    """A resource enters the lake although it breaks a rule."""

    rule: str
    json_path: str


@dataclass(frozen=True)
class Mapping:
    """What turning a site's resources into rows depends on."""

    pseudonyms: Pseudonymiser
    zone: ZoneInfo
    birth_date: Literal["day", "month", "year"]


class RowBuilder:
    """Builds the rows of one resource after the other; `flags` are those of the resource built last."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self.flags: list[Flag] = []

    def build(self, resource: schema.ResourceIn) -> Row:
        """The columns of the resource's type after the common ones. Raises RejectedError."""
        self.flags = []
        return _BUILDERS[type(resource)](self, resource)

    def _date(self, name: str, text: str | None, json_path: str) -> Row:
        return _date_columns(name, self._read(text, json_path))

    def _read(self, text: str | None, json_path: str) -> FhirDate | None:
        if text is None:
            return None
        try:
            value = read_fhir_date(text, self._mapping.zone)
        except DateShapeError:
            raise RejectedError("date_shape", json_path) from None
        if not value.has_offset:
            self.flags.append(Flag("date_without_offset", json_path))
        return value

    def _span(
        self, moment: str | None, period: schema.PeriodIn | None, field: str, moment_type: str = "DateTime"
    ) -> Row:
        """start_* and end_* of a choice of moment or period; a moment starts and ends on one day."""
        if moment is not None:
            start = end = self._read(moment, f"$.{field}{moment_type}")
        elif period is not None:
            name = f"{field}period" if field.endswith(".") else f"{field}Period"
            start = self._read(period.start, f"$.{name}.start")
            end = self._read(period.end, f"$.{name}.end")
        else:
            start = end = None
        return _date_columns("start", start) | _date_columns("end", end)

    def _subject(self, subject: schema.ReferenceIn | None, field: str = "subject") -> Row:
        reference = subject.reference if subject else None
        if not reference:
            raise RejectedError("subject_missing", f"$.{field}.reference")
        patient_id = self._mapping.pseudonyms.of_reference(reference, "Patient")
        if patient_id is None:
            other_type = reference_target(reference) is not None
            rule = "subject_not_patient" if other_type else "subject_unresolvable"
            raise RejectedError(rule, f"$.{field}.reference")
        return {"patient_id": patient_id}

    def _medication(self, r: schema.MedicatedIn) -> Row:
        if r.medicationCodeableConcept is not None:
            concept = r.medicationCodeableConcept
            return _medication_columns("concept", None, concept.text, concept)
        pointer = r.medicationReference
        if pointer is None:
            return _medication_columns("none", None, None, None)
        if pointer.reference and pointer.reference.startswith("#"):
            contained = self._contained_medication(r, pointer.reference[1:])
            if contained is None:
                return _medication_columns("unresolvable", None, pointer.display, None)
            return _medication_columns("contained", None, contained.text or pointer.display, contained)
        target = self._mapping.pseudonyms.of_reference(pointer.reference, "Medication")
        source = "reference" if target else "unresolvable"
        return _medication_columns(source, target, pointer.display, None)

    @staticmethod
    def _contained_medication(r: schema.MedicatedIn, name: str) -> schema.ConceptIn | None:
        for position, inner in enumerate(r.contained or ()):
            if inner.id == name and inner.resourceType == "Medication":
                try:
                    return msgspec.json.decode(inner.code, type=schema.ConceptIn | None)
                except msgspec.DecodeError:
                    raise RejectedError("wrong_type", f"$.contained[{position}].code") from None
        return None

    def _patient(self, r: schema.PatientIn) -> Row:
        birth = self._read(r.birthDate, "$.birthDate")
        kept = coarsen(birth, self._mapping.birth_date) if birth else None
        return {
            "gender": r.gender,
            **_date_columns("birth", kept),
            "deceased_boolean": r.deceasedBoolean,
            **self._date("deceased", r.deceasedDateTime, "$.deceasedDateTime"),
            "replaced_by": self._linked(r, "replaced-by"),
            "replaces": self._linked(r, "replaces"),
        }

    def _linked(self, r: schema.PatientIn, kind: str) -> list[str]:
        others = (x.other.reference for x in r.link or () if x.type == kind and x.other)
        found = (self._mapping.pseudonyms.of_reference(o, "Patient") for o in others)
        return sorted({pseudonym for pseudonym in found if pseudonym})

    def _consent(self, r: schema.ConsentIn) -> Row:
        provision = r.provision or schema.ProvisionIn()
        return {
            **self._subject(r.patient, "patient"),
            "status": r.status,
            "scope_code": _first_code(r.scope),
            "provision_type": provision.type,
            **self._date("given", r.dateTime, "$.dateTime"),
            **self._span(None, provision.period, "provision."),
        }

    def _administration(self, r: schema.MedicationAdministrationIn) -> Row:
        dose = r.dosage.dose if r.dosage else None
        return {
            **self._subject(r.subject),
            "status": r.status,
            **self._medication(r),
            **self._span(r.effectiveDateTime, r.effectivePeriod, "effective"),
            "dose_value": dose.value if dose else None,
            "dose_unit": (dose.code or dose.unit) if dose else None,
        }

    def _request(self, r: schema.MedicationRequestIn) -> Row:
        return {
            **self._subject(r.subject),
            "status": r.status,
            **self._medication(r),
            "intent": r.intent,
            "is_do_not_perform": bool(r.doNotPerform),
            "is_reported": bool(r.reportedBoolean) or r.reportedReference is not None,
            **self._date("authored", r.authoredOn, "$.authoredOn"),
        }

    def _dispense(self, r: schema.MedicationDispenseIn) -> Row:
        return {
            **self._subject(r.subject),
            "status": r.status,
            **self._medication(r),
            **self._date("prepared", r.whenPrepared, "$.whenPrepared"),
            **self._date("handed_over", r.whenHandedOver, "$.whenHandedOver"),
        }

    def _statement(self, r: schema.MedicationStatementIn) -> Row:
        return {
            **self._subject(r.subject),
            "status": r.status,
            **self._medication(r),
            **self._span(r.effectiveDateTime, r.effectivePeriod, "effective"),
            **self._date("asserted", r.dateAsserted, "$.dateAsserted"),
        }

    def _medication_resource(self, r: schema.MedicationIn) -> Row:
        text = r.code.text if r.code else None
        return {"status": r.status, "medication_text": text, "codings": _codings(r.code)}

    def _observation(self, r: schema.ObservationIn) -> Row:
        if r.effectiveInstant is not None:
            span = self._span(r.effectiveInstant, None, "effective", "Instant")
            moment = r.effectiveInstant
        else:
            span = self._span(r.effectiveDateTime, r.effectivePeriod, "effective")
            moment = r.effectiveDateTime or (r.effectivePeriod.start if r.effectivePeriod else None) or ""
        at = read_fhir_date(moment, self._mapping.zone).at if moment else None
        quantity = r.valueQuantity or schema.QuantityIn()
        number = quantity.value if r.valueQuantity else r.valueInteger
        return {
            **self._subject(r.subject),
            "status": r.status,
            "codings": _codings(r.code),
            **{k.replace("start_", "effective_"): v for k, v in span.items() if k.startswith("start_")},
            "effective_at": at.replace(tzinfo=None) if at else None,
            "value_number": number,
            "value_comparator": quantity.comparator,
            "value_unit": quantity.unit,
            "value_unit_code": quantity.code,
            "value_boolean": r.valueBoolean,
            "value_codings": _codings(r.valueCodeableConcept),
        }

    def _condition(self, r: schema.ConditionIn) -> Row:
        if r.onsetDateTime is None and r.onsetPeriod is not None:
            onset = self._date("onset", r.onsetPeriod.start, "$.onsetPeriod.start")
        else:
            onset = self._date("onset", r.onsetDateTime, "$.onsetDateTime")
        return {
            **self._subject(r.subject),
            "clinical_status": _first_code(r.clinicalStatus),
            "verification_status": _first_code(r.verificationStatus),
            "codings": _codings(r.code),
            **onset,
            **self._date("recorded", r.recordedDate, "$.recordedDate"),
        }

    def _procedure(self, r: schema.ProcedureIn) -> Row:
        return {
            **self._subject(r.subject),
            "status": r.status,
            "codings": _codings(r.code),
            **self._span(r.performedDateTime, r.performedPeriod, "performed"),
        }

    def _encounter(self, r: schema.EncounterIn) -> Row:
        period = r.period or schema.PeriodIn()
        return {
            **self._subject(r.subject),
            "status": r.status,
            "class_code": r.kind.code if r.kind else None,
            **self._date("start", period.start, "$.period.start"),
            **self._date("end", period.end, "$.period.end"),
        }


_BUILDERS: dict[type[schema.ResourceIn], Callable[[RowBuilder, Any], Row]] = {
    schema.PatientIn: RowBuilder._patient,
    schema.MedicationAdministrationIn: RowBuilder._administration,
    schema.MedicationRequestIn: RowBuilder._request,
    schema.MedicationDispenseIn: RowBuilder._dispense,
    schema.MedicationStatementIn: RowBuilder._statement,
    schema.MedicationIn: RowBuilder._medication_resource,
    schema.ObservationIn: RowBuilder._observation,
    schema.ConditionIn: RowBuilder._condition,
    schema.ProcedureIn: RowBuilder._procedure,
    schema.EncounterIn: RowBuilder._encounter,
    schema.ConsentIn: RowBuilder._consent,
}


def _date_columns(name: str, value: FhirDate | None) -> Row:
    return {
        f"{name}_day": value.day if value else None,
        f"{name}_precision": value.precision if value else None,
        f"{name}_first_day": value.first_day if value else None,
        f"{name}_last_day": value.last_day if value else None,
    }


def _medication_columns(
    source: str, resource_id: str | None, text: str | None, concept: schema.ConceptIn | None
) -> Row:
    return {
        "medication_source": source,
        "medication_resource_id": resource_id,
        "medication_text": text,
        "codings": _codings(concept),
    }


def _codings(concept: schema.ConceptIn | None) -> list[schema.CodingIn]:
    return [c for c in (concept.coding or ()) if c is not None] if concept else []


def _first_code(concept: schema.ConceptIn | None) -> str | None:
    return next((c.code for c in _codings(concept) if c.code), None)
