"""One synthetic hospital: what makes it, and its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from rwe.sandbox.dialects import DIALECTS, Dialect, DialectName, Resource
from rwe.sandbox.extras import consent, labelled
from rwe.sandbox.mess import make_messy
from rwe.sandbox.options import Access, Bulk, Extras, Quirks
from rwe.sandbox.records import PatientRecord, formulary, patient_records
from rwe.sandbox.truth import LatentCohort, Truth, simulate_patients


@dataclass(frozen=True)
class HospitalSpec:
    """What makes a hospital: the same spec makes the same bytes. `patients` counts the eligible ones.

    `bulk` None is a server without $export. See rwe.sandbox.options for the rest.
    """

    name: str
    dialect: DialectName
    patients: int
    seed: int
    truth: Truth = field(default_factory=Truth)
    bulk: Bulk | None = None
    access: Access = field(default_factory=Access)
    quirks: Quirks = field(default_factory=Quirks)
    extras: Extras = field(default_factory=Extras)

    @property
    def manner(self) -> Dialect:
        return DIALECTS[self.dialect]

    def cohort(self) -> LatentCohort:
        """The latent patients behind the records: the known answer."""
        return simulate_patients(self.truth, site=self.name, n=self.patients, seed=self.seed)


def demo_specs(seed: int, patients: int = 300) -> tuple[HospitalSpec, HospitalSpec, HospitalSpec]:
    """The three hospitals of the demonstration, one of each dialect."""
    return (
        HospitalSpec("north", "a", patients, seed),
        HospitalSpec("river", "b", patients, seed),
        HospitalSpec("summit", "c", patients, seed),
    )


def hospital_records(spec: HospitalSpec) -> Iterator[PatientRecord]:
    """Every patient's record, a share of them messy."""
    for record in patient_records(spec.cohort(), spec.dialect):
        yield make_messy(record, spec.dialect, share=spec.truth.share_messy, seed=f"{spec.seed}:{spec.name}")


def hospital_resources(spec: HospitalSpec) -> Iterator[Resource]:
    """All resources of the hospital, older versions of one before newer ones; Consents if there are any."""
    yield from formulary(spec.manner, f"{spec.seed}:{spec.name}").medications.values()
    for record in hospital_records(spec):
        seed = f"{spec.seed}:{spec.name}:{record.patient_id}"
        for resource in record.resources:
            yield labelled(resource, seed) if spec.extras.labels else resource
        if spec.extras.consents:
            yield from consent(record, spec.manner, seed)


def write_ndjson(spec: HospitalSpec, folder: Path) -> dict[str, int]:
    """Write the hospital's resources to folder/TYPE.ndjson, all versions; returns the lines by type."""
    lines: dict[str, list[bytes]] = defaultdict(list)
    for resource in hospital_resources(spec):
        lines[resource["resourceType"]].append(msgspec.json.encode(resource))
    folder.mkdir(parents=True, exist_ok=True)
    for resource_type, found in lines.items():
        (folder / f"{resource_type}.ndjson").write_bytes(b"\n".join(found) + b"\n")
    return {resource_type: len(found) for resource_type, found in sorted(lines.items())}
