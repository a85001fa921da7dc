"""What is read of a resource: R4's own names, and nothing that is not named here.

The allow-list of the lake. No name, address, identifier, narrative or note is named here, so none can enter.
Both ways into the lake read these: `rows.py` line by line, `columns.py` as the columns DuckDB parses.
"""

# ruff: noqa: N815 - the fields have the names that FHIR gives them.

from __future__ import annotations

from typing import Annotated

import msgspec

#: R4, datatypes, integer: 32 bits with a sign.
Integer = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Element(msgspec.Struct, gc=False):
    """A tree has no cycles: the garbage collector need not look."""


class CodingIn(Element, gc=False):
    system: str | None = None
    version: str | None = None
    code: str | None = None
    display: str | None = None


class ConceptIn(Element, gc=False):
    coding: list[CodingIn] | None = None
    text: str | None = None


class ReferenceIn(Element, gc=False):
    """Its display is never read: it is free text, and names people ("DRUG for NAME")."""

    reference: str | None = None


class PeriodIn(Element, gc=False):
    start: str | None = None
    end: str | None = None


class QuantityIn(Element, gc=False):
    value: float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class RangeIn(Element, gc=False):
    low: QuantityIn | None = None
    high: QuantityIn | None = None


class RatioIn(Element, gc=False):
    numerator: QuantityIn | None = None
    denominator: QuantityIn | None = None


class PresentIn(Element, gc=False):
    """Of this only is read that it is there."""


class MetaIn(Element, gc=False):
    versionId: str | None = None
    lastUpdated: str | None = None
    security: list[CodingIn] | None = None
    tag: list[CodingIn] | None = None


class PartIn(Element, kw_only=True, gc=False):
    """A part of a resource that may say: do not read me as you would."""

    modifierExtension: list[PresentIn] | None = None


class ContainedIn(PartIn, kw_only=True, gc=False):
    resourceType: str | None = None
    id: str | None = None
    implicitRules: str | None = None
    code: msgspec.Raw = msgspec.Raw(b"null")


class ResourceIn(PartIn, kw_only=True, gc=False):
    resourceType: str
    id: str | None = None
    meta: MetaIn | None = None
    implicitRules: str | None = None


class LinkIn(PartIn, kw_only=True, gc=False):
    other: ReferenceIn | None = None
    type: str | None = None


class PatientIn(ResourceIn, kw_only=True, gc=False):
    active: bool | None = None
    link: list[LinkIn] | None = None
    gender: str | None = None
    birthDate: str | None = None
    deceasedBoolean: bool | None = None
    deceasedDateTime: str | None = None


class MedicatedIn(ResourceIn, kw_only=True, gc=False):
    """The four resources that say that a patient had a medication."""

    status: str | None = None
    subject: ReferenceIn | None = None
    medicationCodeableConcept: ConceptIn | None = None
    medicationReference: ReferenceIn | None = None
    contained: list[ContainedIn] | None = None


class AdministeredIn(PartIn, kw_only=True, gc=False):
    site: ConceptIn | None = None
    route: ConceptIn | None = None
    dose: QuantityIn | None = None
    rateRatio: RatioIn | None = None
    rateQuantity: QuantityIn | None = None


class MedicationAdministrationIn(MedicatedIn, kw_only=True, gc=False):
    statusReason: list[ConceptIn] | None = None
    category: ConceptIn | None = None
    context: ReferenceIn | None = None
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    reasonCode: list[ConceptIn] | None = None
    request: ReferenceIn | None = None
    dosage: AdministeredIn | None = None


class RepeatIn(Element, gc=False):
    frequency: Integer | None = None
    period: float | None = None
    periodUnit: str | None = None


class TimingIn(PartIn, kw_only=True, gc=False):
    repeat: RepeatIn | None = None


class DoseIn(Element, gc=False):
    doseQuantity: QuantityIn | None = None


class DosageIn(PartIn, kw_only=True, gc=False):
    """Its text and the instructions for the patient are never read."""

    timing: TimingIn | None = None
    route: ConceptIn | None = None
    doseAndRate: list[DoseIn] | None = None


class DispenseRequestIn(PartIn, kw_only=True, gc=False):
    validityPeriod: PeriodIn | None = None
    numberOfRepeatsAllowed: Integer | None = None
    quantity: QuantityIn | None = None
    expectedSupplyDuration: QuantityIn | None = None


class MedicationRequestIn(MedicatedIn, kw_only=True, gc=False):
    statusReason: ConceptIn | None = None
    intent: str | None = None
    category: list[ConceptIn] | None = None
    doNotPerform: bool | None = None
    reportedBoolean: bool | None = None
    reportedReference: ReferenceIn | None = None
    encounter: ReferenceIn | None = None
    authoredOn: str | None = None
    reasonCode: list[ConceptIn] | None = None
    dosageInstruction: list[DosageIn] | None = None
    dispenseRequest: DispenseRequestIn | None = None


class MedicationDispenseIn(MedicatedIn, kw_only=True, gc=False):
    statusReasonCodeableConcept: ConceptIn | None = None
    category: ConceptIn | None = None
    context: ReferenceIn | None = None
    authorizingPrescription: list[ReferenceIn] | None = None
    quantity: QuantityIn | None = None
    daysSupply: QuantityIn | None = None
    whenPrepared: str | None = None
    whenHandedOver: str | None = None
    dosageInstruction: list[DosageIn] | None = None


class MedicationStatementIn(MedicatedIn, kw_only=True, gc=False):
    statusReason: list[ConceptIn] | None = None
    category: ConceptIn | None = None
    context: ReferenceIn | None = None
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    dateAsserted: str | None = None
    reasonCode: list[ConceptIn] | None = None
    dosage: list[DosageIn] | None = None


class IngredientIn(PartIn, kw_only=True, gc=False):
    itemCodeableConcept: ConceptIn | None = None


class MedicationIn(ResourceIn, kw_only=True, gc=False):
    status: str | None = None
    code: ConceptIn | None = None
    form: ConceptIn | None = None
    ingredient: list[IngredientIn] | None = None


class ValueIn(PartIn, kw_only=True, gc=False):
    """The choices of value[x]. Of a time and of sampled data is read only that they are there."""

    valueQuantity: QuantityIn | None = None
    valueCodeableConcept: ConceptIn | None = None
    valueString: str | None = None
    valueBoolean: bool | None = None
    valueInteger: Integer | None = None
    valueRange: RangeIn | None = None
    valueRatio: RatioIn | None = None
    valueSampledData: PresentIn | None = None
    valueTime: str | None = None
    valueDateTime: str | None = None
    valuePeriod: PeriodIn | None = None
    dataAbsentReason: ConceptIn | None = None


class ComponentIn(ValueIn, kw_only=True, gc=False):
    code: ConceptIn | None = None


class ReferenceRangeIn(PartIn, kw_only=True, gc=False):
    low: QuantityIn | None = None
    high: QuantityIn | None = None
    type: ConceptIn | None = None


class ObservationIn(ResourceIn, kw_only=True, gc=False):
    """With the choices of value[x] as `ValueIn` has them: structs of msgspec have one base."""

    status: str | None = None
    category: list[ConceptIn] | None = None
    code: ConceptIn | None = None
    subject: ReferenceIn | None = None
    encounter: ReferenceIn | None = None
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    effectiveInstant: str | None = None
    issued: str | None = None
    interpretation: list[ConceptIn] | None = None
    bodySite: ConceptIn | None = None
    method: ConceptIn | None = None
    valueQuantity: QuantityIn | None = None
    valueCodeableConcept: ConceptIn | None = None
    valueString: str | None = None
    valueBoolean: bool | None = None
    valueInteger: Integer | None = None
    valueRange: RangeIn | None = None
    valueRatio: RatioIn | None = None
    valueSampledData: PresentIn | None = None
    valueTime: str | None = None
    valueDateTime: str | None = None
    valuePeriod: PeriodIn | None = None
    dataAbsentReason: ConceptIn | None = None
    referenceRange: list[ReferenceRangeIn] | None = None
    component: list[ComponentIn] | None = None


class StageIn(PartIn, kw_only=True, gc=False):
    summary: ConceptIn | None = None


class ConditionIn(ResourceIn, kw_only=True, gc=False):
    subject: ReferenceIn | None = None
    encounter: ReferenceIn | None = None
    clinicalStatus: ConceptIn | None = None
    verificationStatus: ConceptIn | None = None
    category: list[ConceptIn] | None = None
    severity: ConceptIn | None = None
    code: ConceptIn | None = None
    bodySite: list[ConceptIn] | None = None
    onsetDateTime: str | None = None
    onsetAge: QuantityIn | None = None
    onsetPeriod: PeriodIn | None = None
    abatementDateTime: str | None = None
    abatementPeriod: PeriodIn | None = None
    recordedDate: str | None = None
    stage: list[StageIn] | None = None


class ProcedureIn(ResourceIn, kw_only=True, gc=False):
    status: str | None = None
    category: ConceptIn | None = None
    code: ConceptIn | None = None
    subject: ReferenceIn | None = None
    encounter: ReferenceIn | None = None
    performedDateTime: str | None = None
    performedPeriod: PeriodIn | None = None
    reasonCode: list[ConceptIn] | None = None
    bodySite: list[ConceptIn] | None = None
    outcome: ConceptIn | None = None
    complication: list[ConceptIn] | None = None


class HospitalizationIn(PartIn, kw_only=True, gc=False):
    dischargeDisposition: ConceptIn | None = None


class EncounterIn(ResourceIn, kw_only=True, gc=False):
    status: str | None = None
    # R4 names it `class`, which Python keeps for itself.
    kind: CodingIn | None = msgspec.field(default=None, name="class")
    type: list[ConceptIn] | None = None
    subject: ReferenceIn | None = None
    period: PeriodIn | None = None
    reasonCode: list[ConceptIn] | None = None
    hospitalization: HospitalizationIn | None = None
    partOf: ReferenceIn | None = None


class ProvisionIn(PartIn, kw_only=True, gc=False):
    type: str | None = None
    period: PeriodIn | None = None


class ConsentIn(ResourceIn, kw_only=True, gc=False):
    status: str | None = None
    patient: ReferenceIn | None = None
    scope: ConceptIn | None = None
    dateTime: str | None = None
    provision: ProvisionIn | None = None


class TombstoneIn(msgspec.Struct):
    """A landed line that says that a resource is gone; `deletedAt` null: it was there before, and is not."""

    resourceType: str
    id: str
    deletedAt: str | None = None
    source: str | None = None


RESOURCES: dict[str, type[ResourceIn]] = {
    "Patient": PatientIn,
    "MedicationAdministration": MedicationAdministrationIn,
    "MedicationRequest": MedicationRequestIn,
    "MedicationDispense": MedicationDispenseIn,
    "MedicationStatement": MedicationStatementIn,
    "Medication": MedicationIn,
    "Observation": ObservationIn,
    "Condition": ConditionIn,
    "Procedure": ProcedureIn,
    "Encounter": EncounterIn,
    "Consent": ConsentIn,
}
