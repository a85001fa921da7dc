"""From what is read of a resource to its row in the lake: pseudonyms for ids, days for dates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from rwe.lake import schema, terms
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
            raise RejectedError(self._why_no_patient(reference), f"$.{field}.reference")
        return {"patient_id": patient_id}

    def _why_no_patient(self, reference: str) -> str:
        target = reference_target(reference)
        if target is None:
            return "subject_unresolvable"
        elsewhere = target[0] == "Patient" and self._mapping.pseudonyms.is_elsewhere(reference)
        return "subject_of_other_server" if elsewhere else "subject_not_patient"

    def _coded(self, code: str | None, known: frozenset[str], json_path: str) -> str | None:
        """A code of a value set that R4 requires; another is left out and flagged."""
        if code is None or code in known:
            return code
        self.flags.append(Flag("unknown_code", json_path))
        return None

    def _status(self, r: Any) -> Row:
        return {"status": self._coded(r.status, schema.STATUSES[r.resourceType], "$.status")}

    def _coded_concept(
        self, concept: schema.ConceptIn | None, known: frozenset[str], json_path: str
    ) -> str | None:
        """The first code of a concept that is of the value set: a hospital may add codes of its own."""
        codes = [c.code for c in (concept.coding or ()) if c.code] if concept else []
        found = next((c for c in codes if c in known), None)
        if codes and found is None:
            self.flags.append(Flag("unknown_code", f"{json_path}.coding"))
        return found

    def _codings(self, concept: schema.ConceptIn | None, json_path: str) -> list[schema.CodingIn]:
        """The codings of a concept, without systems and codes that have not the shape of one."""
        kept, misshapen = [], set()
        for c in (concept.coding or ()) if concept else ():
            system, code = c.system, c.code
            if system is not None and not terms.is_system(system):
                system = None
                misshapen.add("system")
            if code is not None and not terms.is_code(code):
                code = None
                misshapen.add("code")
            kept.append(schema.CodingIn(system, c.version, code, c.display))
        self.flags += [Flag(f"{part}_shape", f"{json_path}.coding.{part}") for part in sorted(misshapen)]
        return kept

    def _units(self, quantity: schema.QuantityIn, json_path: str) -> tuple[str | None, str | None]:
        """The unit as written, where it is one word, and the code of UCUM."""
        unit = quantity.unit if terms.is_unit(quantity.unit) else None
        code = quantity.code if terms.is_ucum(quantity.system, quantity.code) else None
        if (quantity.unit or quantity.code) and not (unit or code):
            self.flags.append(Flag("unit_shape", json_path))
        return unit, code

    def _medication(self, r: schema.MedicatedIn) -> Row:
        if r.medicationCodeableConcept is not None:
            return self._of_concept("concept", r.medicationCodeableConcept, "$.medicationCodeableConcept")
        pointer = r.medicationReference
        if pointer is None:
            return _medication_columns("none")
        if pointer.reference and pointer.reference.startswith("#"):
            return self._contained_medication(r, pointer.reference[1:])
        target = self._mapping.pseudonyms.of_reference(pointer.reference, "Medication")
        return _medication_columns("reference" if target else "unresolvable", target)

    def _of_concept(self, source: str, concept: schema.ConceptIn, json_path: str) -> Row:
        return _medication_columns(source, text=concept.text, codings=self._codings(concept, json_path))

    def _contained_medication(self, r: schema.MedicatedIn, name: str) -> Row:
        for position, inner in enumerate(r.contained or ()):
            if inner.id != name or inner.resourceType != "Medication":
                continue
            place = f"$.contained[{position}]"
            _refuse_modified(inner, place)
            if inner.implicitRules is not None:
                raise RejectedError("implicit_rules", f"{place}.implicitRules")
            try:
                concept = msgspec.json.decode(inner.code, type=schema.ConceptIn | None)
            except msgspec.DecodeError:
                raise RejectedError("wrong_type", f"{place}.code") from None
            if concept is not None:
                return self._of_concept("contained", concept, f"{place}.code")
            break
        return _medication_columns("unresolvable")

    def _patient(self, r: schema.PatientIn) -> Row:
        birth = self._read(r.birthDate, "$.birthDate")
        kept = coarsen(birth, self._mapping.birth_date) if birth else None
        return {
            "gender": self._coded(r.gender, schema.GENDERS, "$.gender"),
            **_date_columns("birth", kept),
            "deceased_boolean": r.deceasedBoolean,
            **self._date("deceased", r.deceasedDateTime, "$.deceasedDateTime"),
            "replaced_by": self._linked(r, "replaced-by"),
            "replaces": self._linked(r, "replaces"),
        }

    def _linked(self, r: schema.PatientIn, kind: str) -> list[str]:
        for position, link in enumerate(r.link or ()):
            _refuse_modified(link, f"$.link[{position}]")
        others = (x.other.reference for x in r.link or () if x.type == kind and x.other)
        found = (self._mapping.pseudonyms.of_reference(o, "Patient") for o in others)
        return sorted({pseudonym for pseudonym in found if pseudonym})

    def _consent(self, r: schema.ConsentIn) -> Row:
        provision = r.provision or schema.ProvisionIn()
        _refuse_modified(provision, "$.provision")
        scope = self._coded_concept(r.scope, schema.CONSENT_SCOPES, "$.scope")
        has_scope = r.scope is not None and any(c.code for c in r.scope.coding or ())
        return {
            **self._subject(r.patient, "patient"),
            **self._status(r),
            "scope_code": scope or (schema.OTHER_SCOPE if has_scope else None),
            "provision_type": self._coded(provision.type, schema.PROVISION_TYPES, "$.provision.type"),
            **self._date("given", r.dateTime, "$.dateTime"),
            **self._span(None, provision.period, "provision."),
        }

    def _administration(self, r: schema.MedicationAdministrationIn) -> Row:
        dosage = r.dosage or schema.AdministeredIn()
        _refuse_modified(dosage, "$.dosage")
        dose = dosage.dose or schema.QuantityIn()
        unit, unit_code = self._units(dose, "$.dosage.dose")
        return {
            **self._subject(r.subject),
            **self._status(r),
            **self._medication(r),
            **self._span(r.effectiveDateTime, r.effectivePeriod, "effective"),
            "dose_value": dose.value,
            "dose_unit": unit_code or unit,
        }

    def _request(self, r: schema.MedicationRequestIn) -> Row:
        return {
            **self._subject(r.subject),
            **self._status(r),
            **self._medication(r),
            "intent": self._coded(r.intent, schema.INTENTS, "$.intent"),
            "is_do_not_perform": bool(r.doNotPerform),
            "is_reported": bool(r.reportedBoolean) or r.reportedReference is not None,
            **self._date("authored", r.authoredOn, "$.authoredOn"),
        }

    def _dispense(self, r: schema.MedicationDispenseIn) -> Row:
        return {
            **self._subject(r.subject),
            **self._status(r),
            **self._medication(r),
            **self._date("prepared", r.whenPrepared, "$.whenPrepared"),
            **self._date("handed_over", r.whenHandedOver, "$.whenHandedOver"),
        }

    def _statement(self, r: schema.MedicationStatementIn) -> Row:
        return {
            **self._subject(r.subject),
            **self._status(r),
            **self._medication(r),
            **self._span(r.effectiveDateTime, r.effectivePeriod, "effective"),
            **self._date("asserted", r.dateAsserted, "$.dateAsserted"),
        }

    def _medication_resource(self, r: schema.MedicationIn) -> Row:
        text = r.code.text if r.code else None
        return {**self._status(r), "medication_text": text, "codings": self._codings(r.code, "$.code")}

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
        unit, unit_code = self._units(quantity, "$.valueQuantity")
        comparator = self._coded(quantity.comparator, schema.COMPARATORS, "$.valueQuantity.comparator")
        # A bound of which it is not known which way it goes is no number.
        unknown_bound = quantity.comparator is not None and comparator is None
        return {
            **self._subject(r.subject),
            **self._status(r),
            "codings": self._codings(r.code, "$.code"),
            **{k.replace("start_", "effective_"): v for k, v in span.items() if k.startswith("start_")},
            "effective_at": at.replace(tzinfo=None) if at else None,
            "value_number": None if unknown_bound else number,
            "value_comparator": comparator,
            "value_unit": unit,
            "value_unit_code": unit_code,
            "value_boolean": r.valueBoolean,
            "value_codings": self._codings(r.valueCodeableConcept, "$.valueCodeableConcept"),
        }

    def _condition(self, r: schema.ConditionIn) -> Row:
        if r.onsetDateTime is None and r.onsetPeriod is not None:
            onset = self._date("onset", r.onsetPeriod.start, "$.onsetPeriod.start")
        else:
            onset = self._date("onset", r.onsetDateTime, "$.onsetDateTime")
        return {
            **self._subject(r.subject),
            "clinical_status": self._coded_concept(
                r.clinicalStatus, schema.CLINICAL_STATUSES, "$.clinicalStatus"
            ),
            "verification_status": self._coded_concept(
                r.verificationStatus, schema.VERIFICATION_STATUSES, "$.verificationStatus"
            ),
            "codings": self._codings(r.code, "$.code"),
            **onset,
            **self._date("recorded", r.recordedDate, "$.recordedDate"),
        }

    def _procedure(self, r: schema.ProcedureIn) -> Row:
        return {
            **self._subject(r.subject),
            **self._status(r),
            "codings": self._codings(r.code, "$.code"),
            **self._span(r.performedDateTime, r.performedPeriod, "performed"),
        }

    def _encounter(self, r: schema.EncounterIn) -> Row:
        period = r.period or schema.PeriodIn()
        return {
            **self._subject(r.subject),
            **self._status(r),
            "class_code": self._coded(
                r.kind.code if r.kind else None, schema.ENCOUNTER_CLASSES, "$.class.code"
            ),
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
    source: str,
    resource_id: str | None = None,
    *,
    text: str | None = None,
    codings: list[schema.CodingIn] | None = None,
) -> Row:
    return {
        "medication_source": source,
        "medication_resource_id": resource_id,
        "medication_text": text,
        "codings": codings or [],
    }


def _refuse_modified(part: schema.PartIn, json_path: str) -> None:
    if part.modifierExtension:
        raise RejectedError("modifier_extension", f"{json_path}.modifierExtension")
