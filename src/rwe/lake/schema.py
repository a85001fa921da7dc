"""What enters the lake: the allow-list, type by type.

First what is read of a resource (`…In`, FHIR R4 names; whatever is not named here is never looked at), then
the columns it becomes (`LAKE_TABLES`). No name, address, identifier, narrative or note is named here, so none
can enter. `rows.py` turns the one into the other. What is coded by a value set that R4 requires enters only
as one of its codes. Texts and displays of concepts stay in the lake: no table that is published holds them.
"""

# ruff: noqa: N815 - the fields have the names that FHIR gives them.

from __future__ import annotations

import re

import msgspec

#: Rises when a column or its meaning changes: runs brought in under another number are brought in again.
LAKE_VERSION = 4

#: From the oldest version of a resource to the latest.
VERSION_ORDER = ("updated_at", "version_number", "landed_at", "run", "line")


class CodingIn(msgspec.Struct):
    system: str | None = None
    version: str | None = None
    code: str | None = None
    display: str | None = None


class ConceptIn(msgspec.Struct):
    coding: list[CodingIn] | None = None
    text: str | None = None


class ReferenceIn(msgspec.Struct):
    """Its display is never read: it is free text, and names people ("DRUG for NAME")."""

    reference: str | None = None


class PeriodIn(msgspec.Struct):
    start: str | None = None
    end: str | None = None


class QuantityIn(msgspec.Struct):
    value: float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class MetaIn(msgspec.Struct):
    versionId: str | None = None
    lastUpdated: str | None = None
    security: list[CodingIn] | None = None
    tag: list[CodingIn] | None = None


class PartIn(msgspec.Struct, kw_only=True):
    """A part of a resource that may say: do not read me as you would."""

    modifierExtension: list[msgspec.Raw] | None = None


class ContainedIn(PartIn, kw_only=True):
    resourceType: str | None = None
    id: str | None = None
    implicitRules: str | None = None
    code: msgspec.Raw = msgspec.Raw(b"null")


class ResourceIn(PartIn, kw_only=True):
    resourceType: str
    id: str | None = None
    meta: MetaIn | None = None
    implicitRules: str | None = None


class LinkIn(PartIn, kw_only=True):
    other: ReferenceIn | None = None
    type: str | None = None


class PatientIn(ResourceIn, kw_only=True):
    link: list[LinkIn] | None = None
    gender: str | None = None
    birthDate: str | None = None
    deceasedBoolean: bool | None = None
    deceasedDateTime: str | None = None


class MedicatedIn(ResourceIn, kw_only=True):
    """The four resources that say that a patient had a medication."""

    status: str | None = None
    subject: ReferenceIn | None = None
    medicationCodeableConcept: ConceptIn | None = None
    medicationReference: ReferenceIn | None = None
    contained: list[ContainedIn] | None = None


class AdministeredIn(PartIn, kw_only=True):
    dose: QuantityIn | None = None


class MedicationAdministrationIn(MedicatedIn, kw_only=True):
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    dosage: AdministeredIn | None = None


class MedicationRequestIn(MedicatedIn, kw_only=True):
    intent: str | None = None
    doNotPerform: bool | None = None
    reportedBoolean: bool | None = None
    reportedReference: ReferenceIn | None = None
    authoredOn: str | None = None


class MedicationDispenseIn(MedicatedIn, kw_only=True):
    whenPrepared: str | None = None
    whenHandedOver: str | None = None


class MedicationStatementIn(MedicatedIn, kw_only=True):
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    dateAsserted: str | None = None


class MedicationIn(ResourceIn, kw_only=True):
    status: str | None = None
    code: ConceptIn | None = None


class ObservationIn(ResourceIn, kw_only=True):
    status: str | None = None
    subject: ReferenceIn | None = None
    code: ConceptIn | None = None
    effectiveDateTime: str | None = None
    effectivePeriod: PeriodIn | None = None
    effectiveInstant: str | None = None
    valueQuantity: QuantityIn | None = None
    valueInteger: int | None = None
    valueBoolean: bool | None = None
    valueCodeableConcept: ConceptIn | None = None


class ConditionIn(ResourceIn, kw_only=True):
    subject: ReferenceIn | None = None
    clinicalStatus: ConceptIn | None = None
    verificationStatus: ConceptIn | None = None
    code: ConceptIn | None = None
    onsetDateTime: str | None = None
    onsetPeriod: PeriodIn | None = None
    recordedDate: str | None = None


class ProcedureIn(ResourceIn, kw_only=True):
    status: str | None = None
    subject: ReferenceIn | None = None
    code: ConceptIn | None = None
    performedDateTime: str | None = None
    performedPeriod: PeriodIn | None = None


class EncounterIn(ResourceIn, kw_only=True):
    status: str | None = None
    subject: ReferenceIn | None = None
    period: PeriodIn | None = None
    # R4 names it `class`, which Python keeps for itself.
    kind: CodingIn | None = msgspec.field(default=None, name="class")


class ProvisionIn(PartIn, kw_only=True):
    type: str | None = None
    period: PeriodIn | None = None


class ConsentIn(ResourceIn, kw_only=True):
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


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: The statuses that R4 requires, by type. https://hl7.org/fhir/R4/valueset-NAME.html, NAME as noted.
STATUSES: dict[str, frozenset[str]] = {
    "MedicationAdministration": _codes(  # medication-admin-status
        "in-progress not-done on-hold completed entered-in-error stopped unknown"
    ),
    "MedicationRequest": _codes(  # medicationrequest-status
        "active on-hold cancelled completed entered-in-error stopped draft unknown"
    ),
    "MedicationDispense": _codes(  # medicationdispense-status
        "preparation in-progress cancelled on-hold completed entered-in-error stopped declined unknown"
    ),
    "MedicationStatement": _codes(  # medication-statement-status
        "active completed entered-in-error intended stopped on-hold unknown not-taken"
    ),
    "Medication": _codes("active inactive entered-in-error"),  # medication-status
    "Observation": _codes(  # observation-status
        "registered preliminary final amended corrected cancelled entered-in-error unknown"
    ),
    "Procedure": _codes(  # event-status
        "preparation in-progress not-done on-hold stopped completed entered-in-error unknown"
    ),
    "Encounter": _codes(  # encounter-status
        "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown"
    ),
    "Consent": _codes(  # consent-state-codes
        "draft proposed active rejected inactive entered-in-error"
    ),
}
GENDERS = _codes("male female other unknown")  # administrative-gender
INTENTS = _codes(  # medicationrequest-intent
    "proposal plan order original-order reflex-order filler-order instance-order option"
)
COMPARATORS = _codes("< <= >= >")  # quantity-comparator
CLINICAL_STATUSES = _codes("active recurrence relapse inactive remission resolved")  # condition-clinical
VERIFICATION_STATUSES = _codes(  # condition-ver-status
    "unconfirmed provisional differential confirmed refuted entered-in-error"
)
ENCOUNTER_CLASSES = _codes("AMB EMER FLD HH IMP ACUTE NONAC OBSENC PRENC SS VR")  # v3-ActEncounterCode
CONSENT_SCOPES = _codes("adr research patient-privacy treatment")  # consent-scope
PROVISION_TYPES = _codes("deny permit")  # consent-provision-type
#: In place of a scope of another code system: such a Consent is not one to research, and has a scope.
OTHER_SCOPE = "other"

_CODINGS = "STRUCT(system VARCHAR, version VARCHAR, code VARCHAR, display VARCHAR)[]"


def _date(name: str) -> dict[str, str]:
    return {
        f"{name}_day": "DATE",
        f"{name}_precision": "VARCHAR",
        f"{name}_first_day": "DATE",
        f"{name}_last_day": "DATE",
    }


#: Every lake table begins with these. `landed_at` (UTC) is the start of the run; `updated_at` (UTC) is
#: meta.lastUpdated, else `landed_at`; `version_number` is the versionId where it is a number, else -1;
#: `landed_day` is the site's day on which the run finished: what is dated later has not happened.
_COMMON = {
    "resource_id": "VARCHAR",
    "site": "VARCHAR",
    "run": "VARCHAR",
    "line": "BIGINT",
    "updated_at": "TIMESTAMP",
    "version_number": "BIGINT",
    "landed_at": "TIMESTAMP",
    "landed_day": "DATE",
    "content_hash": "VARCHAR",
    # The resource bears a modifierExtension, and the rule `modifier_extension` is set to `flag`.
    "has_modifier_extension": "BOOLEAN",
}
_OF_PATIENT = {"patient_id": "VARCHAR", "status": "VARCHAR"}
_MEDICATED = {
    **_OF_PATIENT,
    "medication_source": "VARCHAR",  # concept, contained, reference, unresolvable or none
    "medication_resource_id": "VARCHAR",
    "medication_text": "VARCHAR",
    "codings": _CODINGS,
    "category_codings": _CODINGS,
    "reason_codings": _CODINGS,
    "status_reason_codings": _CODINGS,
    "route_codings": _CODINGS,
    "encounter_id": "VARCHAR",
}
_DOSE = {"dose_value": "DOUBLE", "dose_unit": "VARCHAR", "dose_unit_code": "VARCHAR"}
_REPEAT = {"frequency": "DOUBLE", "period": "DOUBLE", "period_unit": "VARCHAR"}  # `frequency` times a period
_SUPPLY = {"quantity_value": "DOUBLE", "quantity_unit": "VARCHAR", "supply_days": "DOUBLE"}

#: The value of an observation or of one of its components. `value_kind` names the choice of value[x]
#: (Quantity, CodeableConcept, …). Of a string enter a number with its comparator and unit, or a text that the
#: site's list permits (`value_text`), nothing else. A range or a ratio has its unit in `value_unit`.
_VALUE = {
    "value_kind": "VARCHAR",
    "value_number": "DOUBLE",
    "value_comparator": "VARCHAR",
    "value_unit": "VARCHAR",  # as written, where it is one word
    "value_unit_code": "VARCHAR",  # of UCUM
    "value_boolean": "BOOLEAN",
    "value_codings": _CODINGS,
    "value_text": "VARCHAR",
    "value_low": "DOUBLE",  # of a range
    "value_high": "DOUBLE",
    "value_numerator": "DOUBLE",  # of a ratio
    "value_denominator": "DOUBLE",
    "absent_reason_codings": _CODINGS,
}


def _struct(fields: dict[str, str]) -> str:
    return f"STRUCT({', '.join(f'{name} {kind}' for name, kind in fields.items())})"


_COMPONENTS = _struct({"codings": _CODINGS} | _VALUE) + "[]"
_REFERENCE_RANGES = (
    _struct(
        {
            "low": "DOUBLE",
            "high": "DOUBLE",
            "unit": "VARCHAR",
            "unit_code": "VARCHAR",
            "type_codings": _CODINGS,
        }
    )
    + "[]"
)

#: The columns of each type after the common ones, as DuckDB types.
LAKE_TABLES: dict[str, dict[str, str]] = {
    resource_type: _COMMON | columns
    for resource_type, columns in {
        "Patient": {
            "is_active": "BOOLEAN",
            "gender": "VARCHAR",
            **_date("birth"),
            "deceased_boolean": "BOOLEAN",
            **_date("deceased"),
            "replaced_by": "VARCHAR[]",  # pseudonyms of the records that this one was merged into
            "replaces": "VARCHAR[]",
        },
        "MedicationAdministration": _MEDICATED
        | {
            **_date("start"),
            **_date("end"),
            **_DOSE,
            "rate_value": "DOUBLE",
            "rate_unit": "VARCHAR",
            "body_site_codings": _CODINGS,
            "request_id": "VARCHAR",
        },
        "MedicationRequest": _MEDICATED
        | {
            "intent": "VARCHAR",
            "is_do_not_perform": "BOOLEAN",
            "is_reported": "BOOLEAN",
            **_date("authored"),
            **_DOSE,
            **_REPEAT,
            **_date("valid_from"),
            **_date("valid_to"),
            "refills": "INTEGER",
            **_SUPPLY,
        },
        "MedicationDispense": _MEDICATED
        | {
            **_date("prepared"),
            **_date("handed_over"),
            **_DOSE,
            **_REPEAT,
            **_SUPPLY,
            "request_id": "VARCHAR",
        },
        "MedicationStatement": _MEDICATED
        | {**_date("start"), **_date("end"), **_date("asserted"), **_DOSE, **_REPEAT},
        "Medication": {
            "status": "VARCHAR",
            "medication_text": "VARCHAR",
            "codings": _CODINGS,
            "form_codings": _CODINGS,
            "ingredient_codings": _CODINGS,
        },
        "Observation": _OF_PATIENT
        | {
            "codings": _CODINGS,
            "category_codings": _CODINGS,
            **_date("effective"),
            "effective_at": "TIMESTAMP",
            **_date("effective_end"),  # of a period
            "issued_at": "TIMESTAMP",
            **_VALUE,
            **_date("value"),  # a date, or the start of a period
            **_date("value_end"),
            "interpretation_codings": _CODINGS,
            "body_site_codings": _CODINGS,
            "method_codings": _CODINGS,
            "reference_ranges": _REFERENCE_RANGES,
            "components": _COMPONENTS,
            "encounter_id": "VARCHAR",
        },
        "Condition": {
            "patient_id": "VARCHAR",
            "clinical_status": "VARCHAR",
            "verification_status": "VARCHAR",
            "codings": _CODINGS,
            "category_codings": _CODINGS,
            "severity_codings": _CODINGS,
            "stage_codings": _CODINGS,
            "body_site_codings": _CODINGS,
            **_date("onset"),
            "onset_age_years": "DOUBLE",
            **_date("abatement"),
            **_date("recorded"),
            "encounter_id": "VARCHAR",
        },
        "Procedure": _OF_PATIENT
        | {
            "codings": _CODINGS,
            "category_codings": _CODINGS,
            "reason_codings": _CODINGS,
            "body_site_codings": _CODINGS,
            "outcome_codings": _CODINGS,
            "complication_codings": _CODINGS,
            **_date("start"),
            **_date("end"),
            "encounter_id": "VARCHAR",
        },
        "Encounter": _OF_PATIENT
        | {
            "class_code": "VARCHAR",
            "type_codings": _CODINGS,
            "reason_codings": _CODINGS,
            "discharge_codings": _CODINGS,
            **_date("start"),
            **_date("end"),
            "part_of_id": "VARCHAR",
        },
        "Consent": _OF_PATIENT
        | {
            "scope_code": "VARCHAR",  # null: it has none
            "provision_type": "VARCHAR",
            **_date("given"),
            **_date("start"),
            **_date("end"),
        },
    }.items()
}

#: One line a resource that was refused (`reject`) or that is kept with a remark (`flag`).
#: `retires`: the server says not to use this version, so versions before it are not used either.
QUARANTINE_COLUMNS: dict[str, str] = {
    "site": "VARCHAR",
    "run": "VARCHAR",
    "resource_type": "VARCHAR",
    "resource_pseudonym": "VARCHAR",
    "rule": "VARCHAR",
    "json_path": "VARCHAR",
    "action": "VARCHAR",
    "line": "BIGINT",
    "updated_at": "TIMESTAMP",
    "version_number": "BIGINT",
    "landed_at": "TIMESTAMP",
    "retires": "BOOLEAN",
}

#: One line a tombstone. `deleted_at` (UTC) is the server's; null: the resource was looked for and not found
#: by the run, which is then what puts it after all that landed before.
TOMBSTONE_COLUMNS: dict[str, str] = {
    "resource_type": "VARCHAR",
    "resource_id": "VARCHAR",
    "site": "VARCHAR",
    "run": "VARCHAR",
    "line": "BIGINT",
    "deleted_at": "TIMESTAMP",
    "landed_at": "TIMESTAMP",
    "source": "VARCHAR",
}


def table_name(resource_type: str) -> str:
    """`MedicationAdministration` is the table `medication_administration`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", resource_type).lower()
