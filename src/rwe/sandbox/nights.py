"""What a hospital's night changes: arrivals, updates, corrections, deletions, merges and unmerges.

The same night on the same store makes the same changes. Clinical truth is not kept: two people may be merged
who are two. Whoever tests with it compares with the store's state, not with the latent cohort.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from rwe.sandbox.clock import Clock
from rwe.sandbox.dialects import Resource
from rwe.sandbox.extras import consent
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.records import patient_records
from rwe.sandbox.store import Store, Stored
from rwe.sandbox.truth import simulate_patients

_T = TypeVar("_T")
_DRUG_TYPES = ("MedicationAdministration", "MedicationDispense", "MedicationStatement")


@dataclass(frozen=True)
class Night:
    """What a night did. Patients by id, resources as TYPE/ID.

    arrived: new patients with an infusion. joined: patients known before, whose infusion was recorded this
    night: old history, new member. merged: (loser, survivor); half of the loser's record was re-pointed.
    unmerged: the same pair, undone. deleted holds all resources that went, those of `deleted_patient` too.
    """

    seed: int
    arrived: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    deleted_patient: str | None = None
    merged: tuple[tuple[str, str], ...] = ()
    unmerged: tuple[tuple[str, str], ...] = ()


@dataclass
class _Log:
    arrived: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    deleted_patient: str | None = None
    merged: list[tuple[str, str]] = field(default_factory=list)
    unmerged: list[tuple[str, str]] = field(default_factory=list)


def mutate(store: Store, spec: HospitalSpec, clock: Clock, seed: int) -> Night:
    """Make one night's changes."""
    worker = _NightShift(store, spec, clock, seed)
    worker.unmerge()
    worker.arrive()
    worker.join()
    worker.update()
    worker.correct()
    worker.merge()
    worker.delete()
    store.refresh_group(clock.stamp())
    log = worker.log
    return Night(
        seed,
        tuple(log.arrived),
        tuple(log.joined),
        tuple(log.updated),
        tuple(log.corrected),
        tuple(log.deleted),
        log.deleted_patient,
        tuple(log.merged),
        tuple(log.unmerged),
    )


class _NightShift:
    def __init__(self, store: Store, spec: HospitalSpec, clock: Clock, seed: int) -> None:
        self.store, self.spec, self.clock, self.seed = store, spec, clock, seed
        self.rng = Random(f"{spec.seed}:{spec.name}:night:{seed}")
        self.log = _Log()
        self.touched: set[str] = set()
        """Patients whom one change has chosen already: the changes do not trip over each other."""
        infused = self._patients(infused=True)
        self.doomed = self.rng.choice(infused) if len(infused) > 3 else None
        if self.doomed:
            self.touched.add(self.doomed)

    # Choosing

    def _some(self, found: Iterable[_T], count: int) -> list[_T]:
        held = list(found)
        return self.rng.sample(held, min(count, len(held)))

    def _patients(self, *, infused: bool) -> list[str]:
        """Untouched patients without links, in order of their ids."""
        with_infusion = self.store.infused()
        return sorted(
            s.id
            for s in self.store.all("Patient")
            if (s.id in with_infusion) == infused and s.id not in self.touched and "link" not in s.resource
        )

    def _records(self, patient_id: str) -> list[Stored]:
        """All that is about a patient, the Patient itself last."""
        query = [("patient", patient_id)]
        types = sorted(t for t in self.store.types if t not in ("Patient", "Medication", "Group"))
        found = [s for t in types for s in self.store.search(t, query)]
        person = self.store.read("Patient", patient_id)
        return [*found, *([person] if person else [])]

    def _of_type(self, resource_types: Sequence[str], patients: Iterable[str]) -> list[Stored]:
        wanted = set(patients)
        found = (s for t in resource_types for s in self.store.all(t) if s.patient in wanted)
        return sorted(found, key=lambda s: s.key)

    def _put(self, resource: Resource) -> Stored:
        return self.store.put(resource, self.clock.stamp())

    # What happens

    def arrive(self) -> None:
        """Two patients treated elsewhere before, with their records, and a few who are no cohort's."""
        spec = self.spec
        elsewhere = simulate_patients(spec.truth, site=f"{spec.name}~{self.seed}", n=2, seed=spec.seed)
        cohort = replace(elsewhere, site=spec.name, seed=spec.seed)  # so that they share the formulary
        for record in patient_records(cohort, spec.dialect):
            if self.store.is_deleted("Patient", record.patient_id):
                continue
            for resource in record.resources:
                self._put(resource)
            if spec.extras.consents:
                seed = f"{spec.seed}:{spec.name}:{record.patient_id}"
                for resource in consent(record, spec.manner, seed):
                    self._put(resource)
            self.touched.add(record.patient_id)
            if record.infusion_id:
                self.log.arrived.append(record.patient_id)

    def join(self) -> None:
        """An infusion is recorded for somebody who has been a patient for long."""
        examples = self._infusions()
        for patient_id in self._some(self._patients(infused=False), 1):
            if not examples:
                return
            infusion = copy.deepcopy(self.rng.choice(examples).resource)
            infusion |= {"id": self._new_id(), "subject": {"reference": f"Patient/{patient_id}"}}
            self._put(infusion)
            self.touched.add(patient_id)
            self.log.joined.append(patient_id)

    def _infusions(self) -> list[Stored]:
        return sorted(self.store.infusions(), key=lambda s: s.key)

    def _new_id(self) -> str:
        return f"{self.rng.getrandbits(80):020x}"

    def update(self) -> None:
        """Amended laboratory values, and people who moved."""
        infused = self._patients(infused=True)
        values = [s for s in self._of_type(["Observation"], infused) if "valueQuantity" in s.resource]
        for stored in self._some(values, 6):
            quantity = stored.resource["valueQuantity"]
            amended = {**quantity, "value": round(quantity["value"] * 1.1 + 1, 1)}
            self._put({**stored.resource, "status": "amended", "valueQuantity": amended})
            self.log.updated.append(f"Observation/{stored.id}")
        for patient_id in self._some(infused, 2):
            person = self.store.read("Patient", patient_id)
            if person:
                address = [{"city": "Elsewhere", "postalCode": f"{self.rng.randrange(10**5):05d}"}]
                self._put({**person.resource, "address": address})
                self.log.updated.append(f"Patient/{patient_id}")

    def correct(self) -> None:
        """Entered in error: a drug record, two values, and in one night of three an infusion."""
        infused = self._patients(infused=True)
        infusions = self._infusions()
        is_infusion = {s.key for s in infusions}
        drugs = [s for s in self._of_type(_DRUG_TYPES, infused) if s.key not in is_infusion]
        values = self._of_type(["Observation"], infused)
        values = [s for s in values if f"Observation/{s.id}" not in self.log.updated]
        chosen = self._some(drugs, 1) + self._some(values, 2)
        if self.rng.random() < 1 / 3:
            chosen += self._some([s for s in infusions if s.patient not in self.touched], 1)
        for stored in chosen:
            self._put({**stored.resource, "status": "entered-in-error"})
            self.log.corrected.append("/".join(stored.key))

    def merge(self) -> None:
        """Somebody without an infusion, or if there is none a member, turns out to be another member."""
        losers, survivors = self._patients(infused=False), self._patients(infused=True)
        if len(survivors) < 2:
            return
        survivor = self.rng.choice(survivors)
        loser = self.rng.choice(losers or [p for p in survivors if p != survivor])
        self.touched |= {loser, survivor}
        records = self._records(loser)[:-1]
        for stored in records[::2]:
            self._repoint(stored, survivor)
        self._link(loser, survivor, "replaced-by", active=False)
        self._link(survivor, loser, "replaces", active=True)
        self.log.merged.append((loser, survivor))

    def _repoint(self, stored: Stored, patient_id: str) -> None:
        name = "patient" if "patient" in stored.targets else "subject"
        self._put({**stored.resource, name: {"reference": f"Patient/{patient_id}"}})

    def _link(self, patient_id: str, other: str, kind: str, *, active: bool) -> None:
        person = self.store.read("Patient", patient_id)
        if person:
            link = {"other": {"reference": f"Patient/{other}"}, "type": kind}
            links = [*person.resource.get("link", []), link]
            self._put({**person.resource, "active": active, "link": links})

    def unmerge(self) -> None:
        """The first merge that still stands is undone: links go, re-pointed resources go back."""
        for person in sorted(self.store.all("Patient"), key=lambda s: s.id):
            for link in person.resource.get("link", []):
                if link["type"] == "replaced-by":
                    survivor = link["other"]["reference"].removeprefix("Patient/")
                    self._undo(person.id, survivor)
                    return

    def _undo(self, loser: str, survivor: str) -> None:
        was_losers = {c.stored.key for c in self.store.history if c.stored.patient == loser}
        for stored in self._records(survivor)[:-1]:
            if stored.key in was_losers:
                self._repoint(stored, loser)
        for patient_id, other in ((loser, survivor), (survivor, loser)):
            person = self.store.read("Patient", patient_id)
            if person is None:
                continue
            target = f"Patient/{other}"
            links = [x for x in person.resource.get("link", []) if x["other"]["reference"] != target]
            kept = {k: v for k, v in person.resource.items() if k != "link"}
            self._put({**kept, "active": True, **({"link": links} if links else {})})
        self.touched |= {loser, survivor}
        self.log.unmerged.append((loser, survivor))

    def delete(self) -> None:
        """Single resources of the cohort, and one member with everything."""
        if self.doomed:
            self.log.deleted_patient = self.doomed
            for stored in self._records(self.doomed):
                self._remove(stored)
        rest, changed = self._patients(infused=True), {*self.log.updated, *self.log.corrected}
        values = [s for s in self._of_type(["Observation"], rest) if f"Observation/{s.id}" not in changed]
        for stored in self._some(values, 4) + self._some(self._of_type(["Encounter"], rest), 1):
            self._remove(stored)

    def _remove(self, stored: Stored) -> None:
        self.store.delete(stored.resource_type, stored.id, self.clock.stamp())
        self.log.deleted.append("/".join(stored.key))
