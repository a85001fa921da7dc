"""The rows of the four resources that say that a patient had a medication, and of Medication itself."""

from __future__ import annotations

import msgspec

from rwe.lake.elements import (
    AdministeredIn,
    CodingIn,
    ConceptIn,
    DispenseRequestIn,
    DosageIn,
    MedicatedIn,
    MedicationAdministrationIn,
    MedicationDispenseIn,
    MedicationIn,
    MedicationRequestIn,
    MedicationStatementIn,
    PeriodIn,
    QuantityIn,
    RatioIn,
    ReferenceIn,
    RepeatIn,
    TimingIn,
)
from rwe.lake.findings import RejectedError
from rwe.lake.reader import PartReader, Row, quotient
from rwe.lake.value_sets import INTENTS, PERIOD_UNITS, STATUSES

#: Days in the units of a duration. UCUM 1.9, table 5: a month is a twelfth of a Julian year of 365.25 days.
DAYS_IN = {
    "min": 1 / 1440,
    "h": 1 / 24,
    "d": 1.0,
    "wk": 7.0,
    "mo": 30.4375,
    "a": 365.25,
    "day": 1.0,
    "days": 1.0,
}


def administration_row(reader: PartReader, r: MedicationAdministrationIn) -> Row:
    """The columns of a MedicationAdministration after the common ones. Raises RejectedError."""
    dosage = r.dosage or AdministeredIn()
    reader.refuse_modified(dosage, "$.dosage")
    return {
        **_status(reader, r),
        **_medication(reader, r),
        "category_codings": reader.codings(r.category, "$.category"),
        "reason_codings": reader.all_codings(r.reasonCode, "$.reasonCode"),
        "status_reason_codings": reader.all_codings(r.statusReason, "$.statusReason"),
        "route_codings": reader.codings(dosage.route, "$.dosage.route"),
        "encounter_id": reader.reference(r.context, "Encounter"),
        **reader.span(r.effectiveDateTime, r.effectivePeriod, "$.effective"),
        **_dose(reader, dosage.dose, "$.dosage.dose"),
        **_rate(reader, dosage),
        "body_site_codings": reader.codings(dosage.site, "$.dosage.site"),
        "request_id": reader.reference(r.request, "MedicationRequest"),
    }


def request_row(reader: PartReader, r: MedicationRequestIn) -> Row:
    """The columns of a MedicationRequest after the common ones. Raises RejectedError."""
    supply = r.dispenseRequest or DispenseRequestIn()
    reader.refuse_modified(supply, "$.dispenseRequest")
    valid = supply.validityPeriod or PeriodIn()
    path = "$.dispenseRequest"
    return {
        **_status(reader, r),
        **_medication(reader, r),
        "category_codings": reader.all_codings(r.category, "$.category"),
        "reason_codings": reader.all_codings(r.reasonCode, "$.reasonCode"),
        "status_reason_codings": reader.codings(r.statusReason, "$.statusReason"),
        "encounter_id": reader.reference(r.encounter, "Encounter"),
        "intent": reader.coded(r.intent, INTENTS, "$.intent"),
        "is_do_not_perform": bool(r.doNotPerform),
        "is_reported": bool(r.reportedBoolean) or r.reportedReference is not None,
        **reader.date("authored", r.authoredOn, "$.authoredOn"),
        **_dosage(reader, r.dosageInstruction, "$.dosageInstruction"),
        **reader.further_date("valid_from", valid.start, f"{path}.validityPeriod.start"),
        **reader.further_date("valid_to", valid.end, f"{path}.validityPeriod.end"),
        "refills": supply.numberOfRepeatsAllowed,
        **_supply(reader, supply.quantity, supply.expectedSupplyDuration, f"{path}.quantity"),
    }


def dispense_row(reader: PartReader, r: MedicationDispenseIn) -> Row:
    """The columns of a MedicationDispense after the common ones. Raises RejectedError."""
    orders = [reader.reference(x, "MedicationRequest") for x in r.authorizingPrescription or ()]
    reason = r.statusReasonCodeableConcept
    return {
        **_status(reader, r),
        **_medication(reader, r),
        "category_codings": reader.codings(r.category, "$.category"),
        "reason_codings": [],
        "status_reason_codings": reader.codings(reason, "$.statusReasonCodeableConcept"),
        "encounter_id": reader.reference(r.context, "Encounter"),
        **reader.date("prepared", r.whenPrepared, "$.whenPrepared"),
        **reader.date("handed_over", r.whenHandedOver, "$.whenHandedOver"),
        **_dosage(reader, r.dosageInstruction, "$.dosageInstruction"),
        **_supply(reader, r.quantity, r.daysSupply, "$.quantity"),
        "request_id": next((x for x in orders if x), None),
    }


def statement_row(reader: PartReader, r: MedicationStatementIn) -> Row:
    """The columns of a MedicationStatement after the common ones. Raises RejectedError."""
    return {
        **_status(reader, r),
        **_medication(reader, r),
        "category_codings": reader.codings(r.category, "$.category"),
        "reason_codings": reader.all_codings(r.reasonCode, "$.reasonCode"),
        "status_reason_codings": reader.all_codings(r.statusReason, "$.statusReason"),
        "encounter_id": reader.reference(r.context, "Encounter"),
        **reader.span(r.effectiveDateTime, r.effectivePeriod, "$.effective"),
        **reader.date("asserted", r.dateAsserted, "$.dateAsserted"),
        **_dosage(reader, r.dosage, "$.dosage"),
    }


def medication_row(reader: PartReader, r: MedicationIn) -> Row:
    """The columns of a Medication after the common ones. Raises RejectedError."""
    for position, ingredient in enumerate(r.ingredient or ()):
        reader.refuse_modified(ingredient, f"$.ingredient[{position}]")
    concepts = [i.itemCodeableConcept for i in r.ingredient or () if i.itemCodeableConcept]
    return {
        "status": reader.coded(r.status, STATUSES["Medication"], "$.status"),
        "medication_text": r.code.text if r.code else None,
        "codings": reader.codings(r.code, "$.code"),
        "form_codings": reader.codings(r.form, "$.form"),
        "ingredient_codings": reader.all_codings(concepts, "$.ingredient.itemCodeableConcept"),
    }


def _status(reader: PartReader, r: MedicatedIn) -> Row:
    known = STATUSES[r.resourceType]
    return {**reader.subject(r.subject), "status": reader.coded(r.status, known, "$.status")}


def _medication(reader: PartReader, r: MedicatedIn) -> Row:
    if r.medicationCodeableConcept is not None:
        path = "$.medicationCodeableConcept"
        return _of_concept(reader, "concept", r.medicationCodeableConcept, path)
    pointer = r.medicationReference
    if pointer is None:
        return _medication_columns("none")
    if pointer.reference and pointer.reference.startswith("#"):
        return _contained(reader, r, pointer)
    target = reader.reference(pointer, "Medication")
    return _medication_columns("reference" if target else "unresolvable", target)


def _contained(reader: PartReader, r: MedicatedIn, pointer: ReferenceIn) -> Row:
    name = (pointer.reference or "")[1:]
    for position, inner in enumerate(r.contained or ()):
        if inner.id != name or inner.resourceType != "Medication":
            continue
        place = f"$.contained[{position}]"
        reader.refuse_modified(inner, place)
        if inner.implicitRules is not None:
            reader.note("implicit_rules", f"{place}.implicitRules")
        try:
            concept = msgspec.json.decode(inner.code, type=ConceptIn | None)
        except msgspec.DecodeError:
            raise RejectedError("wrong_type", f"{place}.code") from None
        if concept is not None:
            return _of_concept(reader, "contained", concept, f"{place}.code")
        break
    return _medication_columns("unresolvable")


def _of_concept(reader: PartReader, source: str, concept: ConceptIn, path: str) -> Row:
    return _medication_columns(source, text=concept.text, codings=reader.codings(concept, path))


def _medication_columns(
    source: str,
    resource_id: str | None = None,
    *,
    text: str | None = None,
    codings: list[CodingIn] | None = None,
) -> Row:
    return {
        "medication_source": source,
        "medication_resource_id": resource_id,
        "medication_text": text,
        "codings": codings or [],
    }


def _dose(reader: PartReader, dose: QuantityIn | None, path: str) -> Row:
    found = dose or QuantityIn()
    unit, code = reader.units(found, path)
    return {"dose_value": found.value, "dose_unit": code or unit, "dose_unit_code": code}


def _rate(reader: PartReader, dosage: AdministeredIn) -> Row:
    """A rate is a quantity (`10 mL/h`) or a ratio (`10 mL` by `1 h`)."""
    if dosage.rateQuantity is not None or dosage.rateRatio is None:
        return reader.quantity("rate", dosage.rateQuantity, "$.dosage.rateQuantity")
    ratio: RatioIn = dosage.rateRatio
    above, below = ratio.numerator or QuantityIn(), ratio.denominator or QuantityIn()
    units = [reader.units(above, "$.dosage.rateRatio.numerator")]
    units.append(reader.units(below, "$.dosage.rateRatio.denominator"))
    by = below.value if below.value is not None else 1.0
    value = above.value / by if above.value is not None and by else None
    return {"rate_value": value, "rate_unit": quotient(*(code or unit for unit, code in units))}


def _dosage(reader: PartReader, dosages: list[DosageIn] | None, path: str) -> Row:
    """Route, dose and how often, of the first instruction: where there are several, the others refine it."""
    for position, dosage in enumerate(dosages or ()):
        reader.refuse_modified(dosage, f"{path}[{position}]")
        reader.refuse_modified(dosage.timing, f"{path}[{position}].timing")
    first = dosages[0] if dosages else DosageIn()
    doses = [d.doseQuantity for d in first.doseAndRate or () if d.doseQuantity is not None]
    repeat = (first.timing or TimingIn()).repeat or RepeatIn()
    unit = reader.coded(repeat.periodUnit, PERIOD_UNITS, f"{path}[0].timing.repeat.periodUnit")
    return {
        "route_codings": reader.codings(first.route, f"{path}[0].route"),
        **_dose(reader, doses[0] if doses else None, f"{path}[0].doseAndRate.doseQuantity"),
        "frequency": None if repeat.frequency is None else float(repeat.frequency),
        "period": repeat.period,
        "period_unit": unit,
    }


def _supply(reader: PartReader, quantity: QuantityIn | None, duration: QuantityIn | None, path: str) -> Row:
    return {**reader.quantity("quantity", quantity, path), "supply_days": days(duration)}


def days(duration: QuantityIn | None) -> float | None:
    """A duration in days; without a unit it is taken for days, in an unknown one it is none."""
    if duration is None or duration.value is None or duration.comparator is not None:
        return None
    name = duration.code or duration.unit
    factor = DAYS_IN.get(name.lower()) if name else 1.0
    return None if factor is None else duration.value * factor
