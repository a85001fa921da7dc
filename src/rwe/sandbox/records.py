"""Latent patients become hospital records: FHIR R4 resources as plain dicts, in the hospital's dialect.

The recorded days are the latent days: an analysis that reads the records rightly finds the latent table. What
counts for the study is written once and clearly; around it lies what real care leaves behind (other drugs,
later laboratory values, orders never filled, refuted diagnoses) and must change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import NamedTuple, cast

from rwe.sandbox.dialects import (
    CART_COPIES,
    DIALECTS,
    Dialect,
    DialectName,
    Product,
    Resource,
    car_t_drug,
    car_t_procedure,
    coding,
    concept,
    diagnosis,
    lenalidomide,
    other_drug,
)
from rwe.sandbox.scribe import Scribe
from rwe.sandbox.truth import CYCLE_DAYS, FloatArray, LatentCohort, PatientKind

_SCHEDULE = (-28, -14, 0, 7, 14, 28, 60, 90, 180, 270, 365, 540, 720)
_DOSE = {"route": {"text": "oral"}, "dose": {"value": 10, "unit": "mg"}}


class Latent(NamedTuple):
    """One patient of a LatentCohort; days from index, None where a thing did not happen."""

    patient_id: str
    kind: PatientKind
    sex: str
    birth_date: date
    index_date: date
    ecog: int
    ldh: int
    time_days: int
    is_event: bool
    status: str
    assessment_day: int | None
    progression_day: int | None
    start_day: int | None
    maintenance_end_day: int | None
    salvage_day: int | None


@dataclass(frozen=True)
class PatientRecord:
    """All resources about one patient, older versions first.

    `infusion_id` is the resource of day 0, None where there is no infusion; `mess` names the kind of messy
    record among them (see rwe.sandbox.mess), None where all is clean.
    """

    patient_id: str
    kind: PatientKind
    index_date: date
    resources: tuple[Resource, ...]
    infusion_id: str | None
    mess: str | None = None


@dataclass(frozen=True)
class Formulary:
    """A hospital's shared Medication resources: infusions by product, and lenalidomide."""

    medications: dict[str, Resource]

    def reference(self, name: str) -> Resource:
        return {"medicationReference": {"reference": f"Medication/{self.medications[name]['id']}"}}


def latent_patients(cohort: LatentCohort) -> Iterator[Latent]:
    """The cohort, one patient after the other."""
    baseline, course = cohort.baseline, cohort.course
    columns = [
        baseline.patient_id.tolist(),
        baseline.kind.tolist(),
        baseline.sex.tolist(),
        baseline.birth_date.tolist(),
        baseline.index_date.tolist(),
        baseline.ecog.tolist(),
        baseline.ldh.tolist(),
        cohort.time_days.tolist(),
        cohort.is_event.tolist(),
        course.status.tolist(),
        _days(course.assessment_day),
        _days(course.progression_day),
        _days(course.start_day),
        _days(course.maintenance_end_day),
        _days(course.salvage_day),
    ]
    return (Latent(*row) for row in zip(*columns, strict=True))


def _days(days: FloatArray) -> list[int | None]:
    return [None if math.isnan(day) else int(day) for day in days.tolist()]


def formulary(dialect: Dialect, seed: str) -> Formulary:
    """The Medication resources of the hospital; only kind a keeps any."""
    if dialect.name != "a":
        return Formulary({})
    rng = Random(f"{seed}:formulary")
    filed = {"versionId": "1", "lastUpdated": "2018-01-02T08:00:00.000Z"}
    drugs = {p: car_t_drug(rng, dialect, p, date(2022, 1, 1)) for p in ("axi", "tisa", "liso", "brexu")}
    drugs = {
        **drugs,
        "lenalidomide": lenalidomide(rng, dialect),
        "aciclovir": other_drug(dialect, "aciclovir"),
    }
    return Formulary(
        {
            name: {
                "resourceType": "Medication",
                "id": f"{rng.getrandbits(80):020x}",
                "meta": filed,
                "code": drug,
                "status": "active",
            }
            for name, drug in drugs.items()
        }
    )


def patient_records(cohort: LatentCohort, dialect_name: DialectName) -> Iterator[PatientRecord]:
    """The clean record of every patient. The order and every byte follow from the cohort's site and seed."""
    dialect, seed = DIALECTS[dialect_name], f"{cohort.seed}:{cohort.site}"
    medications = formulary(dialect, seed)
    for patient in latent_patients(cohort):
        rng = Random(f"{seed}:{patient.patient_id}")
        yield _Author(patient, dialect, medications, rng).record()


class _Author:
    """Tells one patient's story to a scribe."""

    def __init__(self, patient: Latent, dialect: Dialect, medications: Formulary, rng: Random) -> None:
        self.patient, self.dialect, self.formulary, self.rng = patient, dialect, medications, rng
        self.infusion_id: str | None = None
        self.is_mantle = False
        self.given, self.family = _invented_name(rng), _invented_name(rng)
        subject: Resource = {"reference": f"Patient/{patient.patient_id}"}
        if dialect.name == "b":
            subject |= {"type": "Patient", "display": f"{self.family}, {self.given}"}
        self.scribe = Scribe(
            dialect,
            rng,
            subject=subject,
            index=patient.index_date,
            last_day=patient.time_days,
        )

    def record(self) -> PatientRecord:
        self._person()
        self._diagnoses()
        if self.patient.kind != "no_car_t":
            self._preparation()
            self._infusion()
        self._laboratory()
        self._course()
        self._lenalidomide()
        self._supportive_care()
        self._visits()
        return PatientRecord(
            self.patient.patient_id,
            self.patient.kind,
            self.patient.index_date,
            tuple(self.scribe.resources),
            self.infusion_id,
        )

    def _person(self) -> None:
        patient, rng = self.patient, self.rng
        identity = self.scribe.identity(patient.time_days)
        person: Resource = {
            "resourceType": "Patient",
            **identity,
            "id": patient.patient_id,
            "identifier": [
                {"system": "http://example.org/rwe/mrn", "value": f"MRN{rng.randrange(10**7, 10**8)}"}
            ],
            "active": True,
            "name": [{"use": "official", "family": self.family, "given": [self.given]}],
            "telecom": [{"system": "phone", "value": f"+1 555 01{rng.randrange(100):02d}", "use": "home"}],
            "gender": patient.sex,
            "birthDate": patient.birth_date.isoformat(),
            "address": [{"city": f"{_invented_name(rng)}ton", "postalCode": f"{rng.randrange(10**5):05d}"}],
        }
        if self.dialect.name == "a":
            div = f'<div xmlns="http://www.w3.org/1999/xhtml">{self.given} {self.family}</div>'
            person["text"] = {"status": "generated", "div": div}
        if patient.is_event:
            person["deceasedDateTime"] = self.scribe.moment(patient.time_days)
        self.scribe.resources.append(person)

    def _diagnoses(self) -> None:
        rng, scribe, kind = self.rng, self.scribe, self.patient.kind
        diagnosed = -rng.randrange(120, 1500)
        if kind == "other_disease":
            self.is_mantle = rng.random() < 0.4
            disease = diagnosis(self.dialect, "mantle" if self.is_mantle else "follicular", rng)
            scribe.condition(diagnosed, disease)
            if rng.random() < 0.5:  # suspected first, then refuted: no diagnosis
                dlbcl = diagnosis(self.dialect, "dlbcl", rng)
                scribe.condition(diagnosed - 20, dlbcl, verification="refuted")
        else:
            scribe.condition(diagnosed, diagnosis(self.dialect, "dlbcl", rng))
        if rng.random() < 0.4:
            system = "http://hl7.org/fhir/sid/icd-10"
            scribe.condition(diagnosed - 400, concept(coding(system, "I10", "Essential hypertension")))

    def _drug(self, name: str) -> Resource:
        return {"medicationCodeableConcept": other_drug(self.dialect, name)}

    def _preparation(self) -> None:
        """Bridging for some, then lymphodepletion on days -5 to -3."""
        if self.rng.random() < 0.35:
            day = -self.rng.randrange(10, 24)
            self.scribe.administration(day, self._drug(self.rng.choice(["rituximab", "dexamethasone"])))
        for day in (-5, -4, -3):
            self.scribe.administration(day, self._drug("fludarabine"))
            self.scribe.administration(day, self._drug("cyclophosphamide"))

    def _product(self) -> Product:
        if self.patient.kind == "under_18":
            return "tisa"
        if self.patient.kind == "other_disease" and self.is_mantle:
            return "brexu"
        return cast(Product, self.rng.choices(["axi", "tisa", "liso"], [0.55, 0.20, 0.25])[0])

    def _infusion(self) -> None:
        """Day 0. Lisocabtagene comes as two bags for some: the second a day later, one dose all the same."""
        product, rng, scribe, day = self._product(), self.rng, self.scribe, self.patient.index_date
        if self.dialect.name == "c":
            infusion = scribe.procedure(0, car_t_procedure(rng, product, day))
            self.infusion_id = infusion["id"] if infusion else None
            return
        drug = {"medicationCodeableConcept": car_t_drug(rng, self.dialect, product, day)}
        if self.formulary.medications and rng.random() < 0.4:
            drug = self.formulary.reference(product)
        infusion = scribe.administration(0, drug)
        self.infusion_id = infusion["id"] if infusion else None
        if product == "liso" and rng.random() < 0.7:
            scribe.administration(1, drug)
        if self.dialect.name == "a" and rng.random() < 0.15:  # the same fact twice
            scribe.procedure(0, car_t_procedure(rng, product, day))

    def _laboratory(self) -> None:
        """Values over time. The value nearest to index in the month before is the latent one, and alone."""
        rng, scribe, patient = self.rng, self.scribe, self.patient
        nearest = -rng.randrange(0, 7)
        scribe.lab("ldh", nearest, patient.ldh)
        scribe.ecog(-rng.randrange(0, 7), patient.ecog)
        if rng.random() < 0.3:
            scribe.ecog(-rng.randrange(15, 29), rng.randrange(0, 3))
        for day in _SCHEDULE:
            if day > patient.time_days or (day == 0 and patient.kind == "no_car_t"):
                continue
            flare = math.exp(-abs(day - 7) / 6)
            if day < -7 or day > 0:
                scribe.lab("ldh", day, round(patient.ldh * math.exp(rng.gauss(0, 0.2))))
            scribe.lab("crp", day, round(math.exp(rng.gauss(2.0 + 2.2 * flare, 0.7)), 1))
            scribe.lab("ferritin", day, round(math.exp(rng.gauss(6.0 + 1.5 * flare, 0.6))))
            scribe.lab("neutrophils", day, round(math.exp(rng.gauss(1.2 - 2.5 * flare, 0.5)), 2))
            scribe.lab("platelets", day, round(math.exp(rng.gauss(5.0 - 1.0 * flare, 0.4))))
            if day in (90, 180, 365):
                scribe.ecog(day, min(4, max(0, patient.ecog + rng.choice((-1, 0, 0, 1)))))
        if patient.kind != "no_car_t":
            peak = rng.gauss(10.5 if patient.status == "responding" else 9.4, 0.9)
            for day in (7, 10, 14, 28, 60, 90, 180):
                fall = (day - 10) * 0.9 if day < 10 else -math.log(day / 10) * 2.0
                copies = math.exp(peak + fall + rng.gauss(0, 0.4))
                scribe.cart_copies(day, round(copies, 1), CART_COPIES)

    def _course(self) -> None:
        """Assessment, follow-up assessments that repeat it, and progression: after it nothing but worse."""
        patient, rng, scribe = self.patient, self.rng, self.scribe
        if patient.assessment_day is None:
            return
        progression = patient.progression_day
        if patient.status != "progressing":
            best = "stable" if patient.status == "stable" else rng.choice(["complete", "complete", "partial"])
            scribe.disease_status(patient.assessment_day, best)
            for day in (92, 183, 367, 548, 731):
                seen = day + rng.randrange(-7, 8)
                if seen <= patient.time_days and (progression is None or seen < progression):
                    scribe.disease_status(seen, best)
        if progression is not None:
            scribe.disease_status(progression, "worsened")
            scribe.encounter(progression, progression)
            if rng.random() < 0.5:
                scribe.disease_status(progression + rng.randrange(20, 60), "worsened")

    def _lenalidomide(self) -> None:
        patient, rng = self.patient, self.rng
        if patient.start_day is not None:
            self._taken(patient.start_day, patient.maintenance_end_day or patient.time_days)
        if patient.salvage_day is not None:
            end = patient.salvage_day + CYCLE_DAYS * rng.randrange(1, 5)
            self._taken(patient.salvage_day, min(end, patient.time_days))
        if patient.kind == "washout":
            self._taken(first := -rng.randrange(60, 171), first + CYCLE_DAYS)
        elif rng.random() < 0.04:  # years ago: before the washout
            self._taken(first := -rng.randrange(300, 700), first + CYCLE_DAYS)
        if patient.start_day is None and patient.salvage_day is None and rng.random() < 0.12:
            self._never_taken()

    def _taken(self, first: int, last: int) -> None:
        """Lenalidomide from day `first` to at most day `last`, the way this hospital records it."""
        rng, scribe = self.rng, self.scribe
        drug: Resource = {"medicationCodeableConcept": lenalidomide(rng, self.dialect)}
        days = range(first, max(last, first + 1), CYCLE_DAYS)
        if self.dialect.name == "a":
            if rng.random() < 0.25:
                drug = self.formulary.reference("lenalidomide")
            for day in days:
                scribe.administration(day, drug, dose=_DOSE)
        elif self.dialect.name == "b":
            order = scribe.request(first - rng.randrange(1, 6), drug, status="completed")
            if rng.random() < 0.2:
                medication: Resource = {"resourceType": "Medication", "id": "med"}
                medication["code"] = drug["medicationCodeableConcept"]
                drug = {"contained": [medication], "medicationReference": {"reference": "#med"}}
            for day in days:
                scribe.dispense(day, drug, order=order)
        else:
            is_ongoing = last >= scribe.last_day and not self.patient.is_event
            end = None if is_ongoing else max(last, first)
            scribe.statement(first, end, drug, status="active" if is_ongoing else "completed")

    def _never_taken(self) -> None:
        """Planned, ordered or refused, but not taken: the status decides."""
        rng, scribe = self.rng, self.scribe
        if self.patient.time_days < 45:
            return
        day = rng.randrange(40, self.patient.time_days)
        drug = {"medicationCodeableConcept": lenalidomide(rng, self.dialect)}
        if self.dialect.name == "a":
            scribe.administration(day, drug, status="not-done")
        elif self.dialect.name == "b":
            order = scribe.request(day, drug, status=rng.choice(["cancelled", "active"]))
            if rng.random() < 0.5:
                scribe.dispense(day, drug, status=rng.choice(["cancelled", "declined"]), order=order)
        else:
            scribe.statement(day, None, drug, status=rng.choice(["intended", "not-taken"]))

    def _supportive_care(self) -> None:
        rng, scribe = self.rng, self.scribe
        if self.patient.kind == "no_car_t":
            return
        for name, share, day in (("tocilizumab", 0.3, 3), ("filgrastim", 0.3, 8)):
            if rng.random() < share:
                scribe.administration(day + rng.randrange(0, 3), self._drug(name))
        if rng.random() < 0.6:
            scribe.request(rng.randrange(0, 10), self._drug("aciclovir"), status="active")
        if self.dialect.name == "c" and rng.random() < 0.5:
            drug = self._drug("levetiracetam")
            scribe.statement(-1, min(28, scribe.last_day), drug, status="completed")

    def _visits(self) -> None:
        """The stay, visits on laboratory days, and for the living a visit on the day of last contact."""
        scribe, patient = self.scribe, self.patient
        if patient.kind != "no_car_t":
            scribe.encounter(-6, 10 + self.rng.randrange(0, 8), is_inpatient=True)
        for day in _SCHEDULE:
            if day <= patient.time_days and not -6 <= day <= 10:
                scribe.encounter(day, day)
        if not patient.is_event:
            scribe.encounter(patient.time_days, patient.time_days)


_SYLLABLES = (
    "bra",
    "del",
    "fen",
    "gor",
    "hal",
    "jin",
    "kel",
    "lum",
    "mar",
    "nor",
    "pel",
    "quo",
    "ras",
    "sil",
    "tov",
)


def _invented_name(rng: Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(3)).capitalize()
