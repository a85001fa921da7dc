"""What some hospitals keep beside the facts: consents to research, and security labels.

Both are drawn from seeds of their own, so that switching them on changes nothing else in the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Literal

from rwe.sandbox.dialects import Dialect, Resource, coding, concept
from rwe.sandbox.records import PatientRecord
from rwe.sandbox.scribe import instant

ConsentKind = Literal["permit", "permit_until", "expired", "deny", "withdrawn", "none"]
PERMITTING: frozenset[ConsentKind] = frozenset({"permit", "permit_until"})
"""Kinds that let a patient in (any day from 2025 to 2098)."""

_KINDS: dict[ConsentKind, float] = {
    "permit": 60,
    "permit_until": 10,
    "expired": 8,
    "deny": 8,
    "withdrawn": 6,
    "none": 8,
}
_SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"
_ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
LABELS: dict[str, dict[str, str]] = {
    "R": coding(_CONFIDENTIALITY, "R", "restricted"),
    "V": coding(_CONFIDENTIALITY, "V", "very restricted"),
    "42CFRPart2": coding(_ACT, "42CFRPart2", "42 CFR Part2"),
    "HTEST": coding(_REASON, "HTEST", "test health data"),
}
_LABELLED_TYPES = {"Observation", "Condition", "Encounter"}


def consent_kind(patient_id: str, seed: str) -> ConsentKind:
    """What a patient decided. `seed` is SEED:NAME of the hospital's spec."""
    rng = Random(f"{seed}:{patient_id}:consent")
    return rng.choices(list(_KINDS), list(_KINDS.values()))[0]


def consent(record: PatientRecord, dialect: Dialect, seed: str) -> Iterator[Resource]:
    """The patient's Consent to research (R4), if there is one; `seed` ends in the patient's id."""
    kind = consent_kind(record.patient_id, seed.removesuffix(f":{record.patient_id}"))
    if kind == "none":
        return
    rng = Random(f"{seed}:consent-record")
    given = datetime.combine(record.index_date - timedelta(days=20), time(9), tzinfo=dialect.zone)
    end = {"permit_until": date(2099, 1, 1), "expired": record.index_date + timedelta(days=300)}.get(kind)
    period = {"start": given.date().isoformat(), **({"end": end.isoformat()} if end else {})}
    yield {
        "resourceType": "Consent",
        "id": f"{rng.getrandbits(80):020x}",
        "meta": {"versionId": "1", "lastUpdated": instant(given.astimezone(UTC), dialect)},
        "status": "inactive" if kind == "withdrawn" else "active",
        "scope": concept(coding(_SCOPE, "research", "Research")),
        "category": [concept(coding("http://loinc.org", "57016-8", "Privacy policy acknowledgment"))],
        "patient": {"reference": f"Patient/{record.patient_id}"},
        "dateTime": given.isoformat(),
        "policyRule": concept(coding(_ACT, "OPTOUT" if kind == "deny" else "OPTIN", "research consent")),
        "provision": {"type": "deny" if kind == "deny" else "permit", "period": period},
    }


def labelled(resource: Resource, seed: str) -> Resource:
    """The resource, one in fifty Observations, Conditions and Encounters with a label in `meta.security`."""
    if resource["resourceType"] not in _LABELLED_TYPES:
        return resource
    rng = Random(f"{seed}:{resource['id']}:label")
    if rng.random() >= 0.02:
        return resource
    label = LABELS[rng.choice(list(LABELS))]
    return {**resource, "meta": {**resource["meta"], "security": [label]}}
