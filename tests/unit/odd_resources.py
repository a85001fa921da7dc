"""Resources of every type that the lake has, in order and out of order, for the tests of both ways in."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

UCUM = "http://unitsofmeasure.org"
_LOINC = "http://loinc.org"


def concept(code: str = "2532-0", **more: Any) -> dict[str, Any]:
    """A concept with one coding."""
    return {"coding": [{"system": _LOINC, "version": "2.74", "code": code, "display": "A test"}], **more}


def quantity(value: float = 7.1, unit: str = "mg/dL") -> dict[str, Any]:
    """A quantity in a unit of UCUM."""
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


_ABOUT = {
    "meta": {"versionId": "3", "lastUpdated": "2021-05-04T10:11:12.345Z"},
    "subject": {"reference": "Patient/p1", "display": "Jane Doe"},
    "encounter": {"reference": "Encounter/e1"},
}
_PERIOD = {"start": "2021-03-27T23:30:00Z", "end": "2021-03-28T12:00:00+02:00"}
_DOSAGE = {
    "text": "one a day",
    "timing": {"repeat": {"frequency": 2, "period": 1.5, "periodUnit": "d"}},
    "route": concept("26643006"),
    "doseAndRate": [{"doseQuantity": quantity(10, "mg")}],
}
_MEDICATED = {
    **_ABOUT,
    "status": "completed",
    "context": {"reference": "Encounter/e1/_history/2"},
    "medicationCodeableConcept": concept("L04AX04", text="lenalidomide"),
    "category": concept("inpatient"),
    "reasonCode": [concept("C83.3"), concept("C83.9")],
}

#: One rich resource of each kind, in order.
PLAIN: tuple[dict[str, Any], ...] = (
    {
        "resourceType": "Patient",
        "active": True,
        "gender": "female",
        "birthDate": "1960-02-17",
        "deceasedDateTime": "2021-06-01T23:30:00Z",
        "name": [{"family": "Doe"}],
    },
    {"resourceType": "Patient", "gender": "male", "birthDate": "1960", "deceasedBoolean": False},
    {
        "resourceType": "Observation",
        **_ABOUT,
        "status": "final",
        "category": [concept("laboratory")],
        "code": concept(text="LDH"),
        "effectiveDateTime": "2021-03-28T01:30:00+01:00",
        "issued": "2021-03-28T05:30:00.250Z",
        "valueQuantity": quantity() | {"comparator": "<"},
        "interpretation": [concept("H"), concept("HH")],
        "bodySite": concept("368209003"),
        "method": concept("702675006"),
        "referenceRange": [{"low": quantity(1), "high": quantity(9), "type": concept("normal")}],
    },
    {
        "resourceType": "Observation",
        **_ABOUT,
        "status": "amended",
        "code": concept("85354-9"),
        "effectivePeriod": _PERIOD,
        "dataAbsentReason": concept("unknown"),
        "component": [
            {"code": concept("8480-6"), "valueQuantity": quantity(120, "mm[Hg]")},
            {"code": concept("8462-4"), "valueInteger": 80},
            {"code": concept("8478-0"), "dataAbsentReason": concept("error")},
        ],
    },
    {"resourceType": "Observation", **_ABOUT, "status": "final", "valueString": "< 5 mg/dl"},
    {"resourceType": "Observation", **_ABOUT, "status": "final", "valueString": "Positive"},
    {"resourceType": "Observation", **_ABOUT, "status": "final", "valueBoolean": True},
    {"resourceType": "Observation", **_ABOUT, "status": "final", "valueInteger": 3},
    {
        "resourceType": "Observation",
        **_ABOUT,
        "status": "final",
        "valueCodeableConcept": concept("260385009"),
    },
    {"resourceType": "Observation", **_ABOUT, "valueRange": {"low": quantity(1), "high": quantity(2)}},
    {
        "resourceType": "Observation",
        **_ABOUT,
        "valueRatio": {"numerator": quantity(1), "denominator": quantity(4)},
    },
    {"resourceType": "Observation", **_ABOUT, "valueDateTime": "2021-02", "effectiveDateTime": "2021"},
    {
        "resourceType": "Observation",
        **_ABOUT,
        "valuePeriod": _PERIOD,
        "effectiveInstant": "2021-07-01T22:30:00Z",
    },
    {"resourceType": "Observation", **_ABOUT, "valueTime": "10:00:00", "effectiveDateTime": "2021-10-31"},
    {"resourceType": "Observation", **_ABOUT, "valueSampledData": {"dimensions": 1, "data": "1 2"}},
    {
        "resourceType": "MedicationAdministration",
        **_MEDICATED,
        "statusReason": [concept("x")],
        "effectivePeriod": _PERIOD,
        "request": {"reference": "MedicationRequest/m1"},
        "dosage": {
            "route": concept("26643006"),
            "site": concept("368209003"),
            "dose": quantity(2, "mg"),
            "rateQuantity": quantity(3, "mL/h"),
        },
    },
    {
        "resourceType": "MedicationAdministration",
        **_ABOUT,
        "status": "stopped",
        "medicationReference": {"reference": "Medication/m1"},
        "effectiveDateTime": "2021-01-31",
        "dosage": {"rateRatio": {"numerator": quantity(10, "mL"), "denominator": quantity(2, "h")}},
    },
    {
        "resourceType": "MedicationRequest",
        **_MEDICATED,
        "category": [concept("inpatient")],
        "statusReason": concept("x"),
        "intent": "order",
        "doNotPerform": False,
        "reportedBoolean": True,
        "authoredOn": "2021-01-31T10:00:00+01:00",
        "dosageInstruction": [_DOSAGE, _DOSAGE],
        "dispenseRequest": {
            "validityPeriod": {"start": "2021-01", "end": "2021-12-31"},
            "numberOfRepeatsAllowed": 3,
            "quantity": quantity(21, "{capsule}"),
            "expectedSupplyDuration": quantity(4, "wk"),
        },
    },
    {
        "resourceType": "MedicationDispense",
        **_MEDICATED,
        "statusReasonCodeableConcept": concept("x"),
        "authorizingPrescription": [{"reference": "MedicationRequest/m1"}],
        "quantity": quantity(21, "{capsule}"),
        "daysSupply": {"value": 28},
        "whenPrepared": "2021-01-31",
        "whenHandedOver": "2021-02-01T00:30:00Z",
        "dosageInstruction": [_DOSAGE],
    },
    {
        "resourceType": "MedicationStatement",
        **_MEDICATED,
        "status": "active",
        "statusReason": [concept("x")],
        "effectivePeriod": {"start": "2021-01"},
        "dateAsserted": "2021-02-01",
        "dosage": [_DOSAGE],
    },
    {
        "resourceType": "Medication",
        "status": "active",
        "code": concept(text="a drug"),
        "form": concept("385055001"),
        "ingredient": [{"itemCodeableConcept": concept("x")}, {"itemReference": {"reference": "#s"}}],
    },
    {
        "resourceType": "Condition",
        **_ABOUT,
        "clinicalStatus": concept("active"),
        "verificationStatus": concept("confirmed"),
        "category": [concept("encounter-diagnosis")],
        "severity": concept("24484000"),
        "code": concept("C83.3"),
        "bodySite": [concept("368209003")],
        "onsetPeriod": _PERIOD,
        "abatementDateTime": "2021-08",
        "recordedDate": "2021-03-28",
        "stage": [{"summary": concept("IV")}],
    },
    {"resourceType": "Condition", **_ABOUT, "onsetAge": quantity(54, "a"), "abatementPeriod": _PERIOD},
    {
        "resourceType": "Procedure",
        **_ABOUT,
        "status": "completed",
        "category": concept("387713003"),
        "code": concept("80146002"),
        "performedDateTime": "2021-03-28T23:30:00Z",
        "reasonCode": [concept("C83.3")],
        "bodySite": [concept("66754008")],
        "outcome": concept("385669000"),
        "complication": [concept("x"), concept("y")],
    },
    {
        "resourceType": "Encounter",
        **_ABOUT,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "type": [concept("x")],
        "period": _PERIOD,
        "reasonCode": [concept("C83.3")],
        "hospitalization": {"dischargeDisposition": concept("exp")},
        "partOf": {"reference": "Encounter/e0"},
    },
)

#: What stands where something else belongs.
ODD: tuple[Any, ...] = (
    None, 7, 7.25, -0.0, 0, True, False, "", " ", "x", "7", "true", "null", {}, [], [None], [[]], [{}],
    {"a": 1},
    {"coding": [{"code": "a  b"}]}, {"coding": None}, {"reference": "#p"}, {"reference": "Group/1"},
    {"reference": "urn:uuid:7"}, "two words", "Jane Doe of Elm Street", "2021-02-30", "2021", "2021-13",
    "2021-03-28T02:30:00Z", "2021-03-28T10:00:00", "2021-03-28T23:59:60Z", "2021-03-28T10:00Z", "0001-01-01",
    "1850-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2021-03-28T10:00:00.1234567+01:00", "1e5", "µg/l",
    "a\nb",
    "ä", "\u0000", "\U0001f600", "x" * 300, 2**40, 1e300, [{"code": "HTEST"}], [{"code": "R"}],
    [{"url": "u"}],
    "<", "entered-in-error", "final", "mg/dL", UCUM, "urn:x", "http://a b",
)  # fmt: skip


def lines(seed: int, count: int, resource_type: str) -> list[bytes]:
    """Lines of one type: resources in order, most of them with one or two places made odd."""
    rng = Random(seed)
    bases = [r for r in PLAIN if r["resourceType"] == resource_type]
    made = []
    for number in range(count):
        resource = copy.deepcopy(rng.choice(bases)) | {"id": f"r{rng.randrange(count)}"}
        for _ in range(rng.choice((0, 1, 1, 2))):
            _make_odd(resource, rng)
        text = json.dumps(
            resource, ensure_ascii=rng.random() < 0.5, separators=rng.choice(((",", ":"), (", ", ": ")))
        )
        if rng.random() < 0.01:
            text = text[: rng.randrange(len(text))] + rng.choice(
                ("", "}", '"', "\\ud800", ',"id":"r1"}', "]")
            )
        if rng.random() < 0.01:
            text = text.replace('"code"', '"code":null,"code"', 1)
        made.append((" " if number % 97 == 5 else "").encode() + text.encode("utf-8", "surrogatepass"))
    return made


def _make_odd(resource: dict[str, Any], rng: Random) -> None:
    """Put an odd value into one place, or take it away, or add a key."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(resource)
    node, key = rng.choice(places)
    chosen = rng.random()
    if chosen < 0.1 and isinstance(node, dict):
        del node[key]
    elif chosen < 0.2 and isinstance(node, dict):
        node[
            rng.choice(
                ("modifierExtension", "implicitRules", "extension", "rwe_line", "code", "contained", "link")
            )
        ] = rng.choice(ODD)
    else:
        node[key] = copy.deepcopy(rng.choice(ODD))
