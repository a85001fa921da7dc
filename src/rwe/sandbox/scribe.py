"""Writes single FHIR R4 resources into one patient's record, in the manner of one hospital."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from random import Random
from zoneinfo import ZoneInfo

from rwe import codes
from rwe.sandbox.dialects import LOCAL_CODES, Dialect, Resource, coding, concept, local_time, moment, period

_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_CONDITION_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
_UCUM = "http://unitsofmeasure.org"
_LABORATORY = [concept(coding(_CATEGORY, "laboratory", "Laboratory"))]
_EXAM = [concept(coding(_CATEGORY, "exam", "Exam"))]

LABS = {
    "ldh": ("2532-0", "Lactate dehydrogenase [Enzymatic activity/volume] in Serum or Plasma", "U/L"),
    "crp": ("1988-5", "C reactive protein [Mass/volume] in Serum or Plasma", "mg/L"),
    "ferritin": ("2276-4", "Ferritin [Mass/volume] in Serum or Plasma", "ng/mL"),
    "neutrophils": ("751-8", "Neutrophils [#/volume] in Blood by Automated count", "10*3/uL"),
    "platelets": ("777-3", "Platelets [#/volume] in Blood by Automated count", "10*3/uL"),
}
_LAB_CODES = {name: concept(coding(codes.LOINC, c, text)) for name, (c, text, _) in LABS.items()}
_ECOG = concept(coding(codes.LOINC, "89247-1", "ECOG Performance Status score"))
_STATUS = concept(coding(codes.LOINC, "97509-4", "Cancer disease status"))
_STATUS_VALUES = {
    "complete": concept(coding(codes.SNOMED, "260415000", "Not detected")),
    "partial": concept(coding(codes.SNOMED, "268910001", "Patient's condition improved")),
    "stable": concept(coding(codes.SNOMED, "359746009", "Patient's condition stable")),
    "worsened": concept(coding(codes.SNOMED, "271299001", "Patient's condition worsened")),
}


class Scribe:
    """The record of one patient under way. Days count from index; nothing is written after `last_day`.

    `resources` is what has been written, in order. Everything is drawn from `rng`, so that a record
    depends on its own seed only.
    """

    def __init__(
        self, dialect: Dialect, rng: Random, *, subject: Resource, index: date, last_day: int
    ) -> None:
        self.dialect, self.rng, self.last_day = dialect, rng, last_day
        self.resources: list[Resource] = []
        self._subject, self._index, self._zone = subject, index, ZoneInfo(dialect.time_zone)

    def date(self, day: int) -> date:
        return self._index + timedelta(days=day)

    def moment(self, day: int) -> str:
        return moment(self.rng, self.dialect, self._zone, self.date(day))

    def period(self, first: int, last: int) -> dict[str, str]:
        return period(self.rng, self.dialect, self._zone, self.date(first), self.date(last))

    def add(
        self, resource_type: str, day: int, fields: Resource, *, subject: str = "subject"
    ) -> Resource | None:
        """Write a resource about something on `day`; None if the record ends before."""
        if day > self.last_day:
            return None
        resource = {"resourceType": resource_type, **self.identity(day), subject: self._subject, **fields}
        self.resources.append(resource)
        return resource

    def identity(self, day: int) -> Resource:
        """A new opaque id and the meta of a first version, filed within two days of `day`."""
        filed = local_time(self.rng, self._zone, self.date(day)) + timedelta(hours=self.rng.random() * 40)
        return {
            "id": f"{self.rng.getrandbits(80):020x}",
            "meta": {"versionId": "1", "lastUpdated": instant(filed, self.dialect)},
        }

    # Observations

    def lab(self, name: str, day: int, value: float) -> None:
        quantity = {"value": value, "unit": LABS[name][2], "system": _UCUM, "code": LABS[name][2]}
        self._observation(_LAB_CODES[name], _LABORATORY, day, {"valueQuantity": quantity})

    def ecog(self, day: int, score: int) -> None:
        self._observation(_ECOG, _EXAM, day, {"valueInteger": score})

    def disease_status(self, day: int, status: str) -> None:
        self._observation(_STATUS, _EXAM, day, {"valueCodeableConcept": _STATUS_VALUES[status]})

    def cart_copies(self, day: int, copies: float, code: str) -> None:
        quantity = {"value": copies, "unit": "copies/ug DNA", "system": _UCUM, "code": "{copies}/ug"}
        what = concept(coding(LOCAL_CODES, code, "CAR transgene copies per ug genomic DNA"))
        self._observation(what, _LABORATORY, day, {"valueQuantity": quantity})

    def _observation(self, code: Resource, category: list[Resource], day: int, value: Resource) -> None:
        when = {"effectiveDateTime": self.moment(day)}
        self.add("Observation", day, {"status": "final", "category": category, "code": code, **when, **value})

    # Drugs

    def administration(
        self, day: int, drug: Resource, *, status: str = "completed", dose: Resource | None = None
    ) -> Resource | None:
        """A MedicationAdministration; `drug` is the field that says which (concept or reference)."""
        is_short = self.rng.random() < 0.25
        when: Resource = (
            {"effectivePeriod": self.period(day, day)}
            if is_short
            else {"effectiveDateTime": self.moment(day)}
        )
        dosage = {"dosage": dose} if dose else {}
        return self.add("MedicationAdministration", day, {"status": status, **drug, **when, **dosage})

    def request(self, day: int, drug: Resource, *, status: str) -> Resource | None:
        when = {"authoredOn": self.moment(day)}
        return self.add("MedicationRequest", day, {"status": status, "intent": "order", **drug, **when})

    def dispense(
        self, day: int, drug: Resource, *, status: str = "completed", order: Resource | None = None
    ) -> Resource | None:
        fields: Resource = {"status": status, **drug}
        if order:
            fields["authorizingPrescription"] = [{"reference": f"MedicationRequest/{order['id']}"}]
        fields["daysSupply"] = {"value": 28, "unit": "d", "system": _UCUM, "code": "d"}
        if status == "completed":
            fields["whenHandedOver"] = self.moment(day)
        return self.add("MedicationDispense", day, fields)

    def statement(self, first: int, last: int | None, drug: Resource, *, status: str) -> Resource | None:
        """A MedicationStatement from a day to a day; `last` None is ongoing."""
        effective = {"start": self.moment(first)} if last is None else self.period(first, last)
        fields = {"effectivePeriod": effective, "dateAsserted": self.moment(first)}
        return self.add("MedicationStatement", first, {"status": status, **drug, **fields})

    # Everything else

    def procedure(self, day: int, code: Resource, *, status: str = "completed") -> Resource | None:
        is_period = self.rng.random() < 0.3
        when: Resource = (
            {"performedPeriod": self.period(day, day)}
            if is_period
            else {"performedDateTime": self.moment(day)}
        )
        return self.add("Procedure", day, {"status": status, "code": code, **when})

    def encounter(self, first: int, last: int, *, is_inpatient: bool = False) -> None:
        kind = (
            coding(_ACT, "IMP", "inpatient encounter") if is_inpatient else coding(_ACT, "AMB", "ambulatory")
        )
        if first <= self.last_day:
            when = {"period": self.period(first, min(last, self.last_day))}
            self.add("Encounter", min(last, self.last_day), {"status": "finished", "class": kind, **when})

    def condition(self, day: int, code: Resource, *, verification: str = "confirmed") -> None:
        clinical = "http://terminology.hl7.org/CodeSystem/condition-clinical"
        verified = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
        fields: Resource = {"verificationStatus": concept({"system": verified, "code": verification})}
        if verification != "refuted":
            fields["clinicalStatus"] = concept({"system": clinical, "code": "active"})
        stage = {"category": [concept(coding(_CONDITION_CATEGORY, "encounter-diagnosis", "Diagnosis"))]}
        when = {"onsetDateTime": self.date(day).isoformat(), "recordedDate": self.moment(day)}
        self.add("Condition", day, {**fields, **stage, "code": code, **when})


def instant(at: datetime, dialect: Dialect) -> str:
    """`lastUpdated` of a filing: never before the migration of the hospital's records, if there was one."""
    if dialect.go_live and at.date() < dialect.go_live:
        at = datetime.combine(dialect.go_live, time(2), tzinfo=UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
