"""What enters the lake: the columns of each type, the allow-list on its other side.

`elements.py` says what is read of a resource; these are the columns it becomes. What is coded by a value set
that R4 requires (`value_sets.py`) enters only as one of its codes. Texts and displays of concepts stay in the
lake: no table that is published holds them, but for those that enough patients share.
"""

from __future__ import annotations

import re

from rwe.lake.elements import RESOURCES, CodingIn, ConsentIn, MetaIn, ResourceIn, TombstoneIn

__all__ = [
    "CONTENT_HASH",
    "LAKE_TABLES",
    "LAKE_VERSION",
    "QUARANTINE_COLUMNS",
    "RESOURCES",
    "TOMBSTONE_COLUMNS",
    "VERSION_ORDER",
    "CodingIn",
    "ConsentIn",
    "MetaIn",
    "ResourceIn",
    "TombstoneIn",
    "table_name",
]

#: Rises when a column or its meaning changes: runs brought in under another number are brought in again.
LAKE_VERSION = 4

#: From the oldest version of a resource to the latest.
VERSION_ORDER = ("updated_at", "version_number", "landed_at", "run", "line")

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

#: A hash of what a version says (its row and its date, not where it landed): equal, and it says nothing new.
CONTENT_HASH = "content_hash"

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
