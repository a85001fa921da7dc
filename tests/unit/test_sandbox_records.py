"""The hospital's records tell the latent truth, in valid R4, and mess changes nothing it should not."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rwe import codes
from rwe.sandbox.dialects import DIALECTS, DialectName, moment, period
from rwe.sandbox.hospital import HospitalSpec, hospital_records, hospital_resources, write_ndjson
from rwe.sandbox.mess import INVALID, SHIFTING
from rwe.sandbox.records import Latent, PatientRecord, latent_patients
from rwe.sandbox.truth import Truth

SPECS = [
    HospitalSpec("north", "a", 60, 3, Truth(share_messy=0.4)),
    HospitalSpec("river", "b", 60, 3, Truth(share_messy=0.4)),
    HospitalSpec("summit", "c", 60, 3, Truth(share_messy=0.4)),
]
EVERYWHERE = {
    "Patient",
    "Encounter",
    "Condition",
    "Observation",
    "MedicationAdministration",
    "MedicationRequest",
}
TYPES = {
    "a": EVERYWHERE | {"Procedure", "Medication"},
    "b": EVERYWHERE | {"MedicationDispense"},
    "c": EVERYWHERE | {"Procedure", "MedicationStatement"},
}
INFUSIONS = {"1987402", "2479140", "L01XL03", "L01XL04", "L01XL08", "L01XX70", "L01XX71"} | {
    "XW033H7", "XW043H7", "XW033J7", "XW043J7", "XW033N7", "XW033C3", "XW043C3"
}  # fmt: skip
LENALIDOMIDE = {"342369", "602910", "643712", "643720", "1242231", "L04AX04"}

by_site = pytest.mark.parametrize("spec", SPECS, ids=[s.name for s in SPECS])


# A reader of its own, by the rules of the specification and none of the sandbox's code.


def local_day(text: str, zone: ZoneInfo) -> date:
    """The calendar day as written; of an instant in Z, the day in the hospital's zone."""
    if text.endswith("Z"):
        return datetime.fromisoformat(text).astimezone(zone).date()
    return date.fromisoformat(text[:10])


def first_day(resource: dict[str, Any], zone: ZoneInfo) -> date:
    for name in ("effectiveDateTime", "performedDateTime", "whenHandedOver", "authoredOn"):
        if name in resource:
            return local_day(resource[name], zone)
    for name in ("effectivePeriod", "performedPeriod", "period"):
        if name in resource:
            return local_day(resource[name]["start"], zone)
    raise AssertionError(f"a {resource['resourceType']} without a date")


def last_day(resource: dict[str, Any], zone: ZoneInfo) -> date:
    for name in ("effectivePeriod", "performedPeriod", "period"):
        if "end" in resource.get(name, {}):
            return local_day(resource[name]["end"], zone)
    return first_day(resource, zone)


class Reader:
    """Reads one hospital's resources as a careful abstractor would."""

    def __init__(self, spec: HospitalSpec) -> None:
        self.zone = ZoneInfo(
            {"a": "America/New_York", "b": "Europe/Berlin", "c": "Europe/London"}[spec.dialect]
        )
        self.medications = {
            r["id"]: r["code"] for r in hospital_resources(spec) if r["resourceType"] == "Medication"
        }

    def codes(self, resource: dict[str, Any]) -> set[str]:
        concept = resource.get("medicationCodeableConcept") or resource.get("code") or {}
        if "medicationReference" in resource:
            target = resource["medicationReference"]["reference"].removeprefix("Medication/")
            contained = {f"#{c['id']}": c["code"] for c in resource.get("contained", [])}
            concept = self.medications.get(target) or contained.get(target) or {}
        return {c["code"] for c in concept.get("coding", [])}

    def days(self, record: PatientRecord, wanted: set[str], *types: str) -> list[date]:
        happened = {"completed", "in-progress", "active", "final"}
        return sorted(
            first_day(r, self.zone)
            for r in record.resources
            if r["resourceType"] in types and r["status"] in happened and self.codes(r) & wanted
        )

    def infusion(self, record: PatientRecord) -> date:
        return self.days(record, INFUSIONS, "MedicationAdministration", "Procedure")[0]

    def lenalidomide(self, record: PatientRecord) -> list[date]:
        taken = ("MedicationAdministration", "MedicationDispense", "MedicationStatement")
        return self.days(record, LENALIDOMIDE, *taken)

    def statuses(self, record: PatientRecord) -> list[tuple[date, str]]:
        return sorted(
            (first_day(r, self.zone), r["valueCodeableConcept"]["coding"][0]["code"])
            for r in record.resources
            if self.codes(r) == {"97509-4"}
        )

    def nearest_before(self, record: PatientRecord, loinc: str, index: date) -> list[Any]:
        """All values on the day nearest to index within the 30 days before it."""
        found: dict[int, list[Any]] = defaultdict(list)
        for r in record.resources:
            if self.codes(r) == {loinc} and 0 <= (ago := (index - first_day(r, self.zone)).days) <= 30:
                value = r.get("valueInteger", r.get("valueQuantity", {}).get("value"))
                found[ago].append(value)
        return found[min(found)]


def clean(spec: HospitalSpec) -> Iterator[tuple[Latent, PatientRecord]]:
    """Latent eligible patients beside their records, where nothing shifts a row of the cohort."""
    pairs = zip(
        latent_patients(spec.cohort()),
        hospital_records(replace(spec, truth=Truth(share_messy=0))),
        strict=True,
    )
    for latent, record in pairs:
        assert latent.patient_id == record.patient_id
        if latent.kind == "eligible":
            yield latent, record


@by_site
def test_every_type_that_the_hospital_writes_is_valid_r4(spec: HospitalSpec) -> None:
    seen = Counter()
    for record in hospital_records(spec):
        if record.mess not in INVALID:
            for resource in record.resources:
                seen[resource["resourceType"]] += 1
                get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    for resource in hospital_resources(spec):
        if resource["resourceType"] == "Medication":
            seen["Medication"] += 1
            get_fhir_model_class("Medication").model_validate(resource)
    assert set(seen) == TYPES[spec.dialect]


@by_site
def test_kinds_of_mess_called_invalid_hold_exactly_one_invalid_resource(spec: HospitalSpec) -> None:
    def is_invalid(resource: dict[str, Any]) -> bool:
        try:
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        except ValidationError:
            return True
        return False

    messy = [r for r in hospital_records(spec) if r.mess in INVALID]
    assert messy
    assert all(sum(map(is_invalid, record.resources)) == 1 for record in messy)


@by_site
def test_the_infusion_is_day_zero_and_the_end_is_death_or_the_last_contact(spec: HospitalSpec) -> None:
    reader = Reader(spec)
    for latent, record in clean(spec):
        index = reader.infusion(record)
        assert index == latent.index_date
        person = next(r for r in record.resources if r["resourceType"] == "Patient")
        contacts = ("Encounter", "Procedure", "MedicationAdministration", "MedicationRequest")
        contacts += ("MedicationDispense", "MedicationStatement")
        latest = max(
            last_day(r, reader.zone)
            for r in record.resources
            if r["resourceType"] in contacts and r["status"] not in {"cancelled", "declined"}
        )
        assert latest <= index + timedelta(days=latent.time_days)
        if latent.is_event:
            died = local_day(person["deceasedDateTime"], reader.zone)
            assert (died - index).days == latent.time_days
        else:
            assert "deceasedDateTime" not in person
            assert (latest - index).days == latent.time_days
            visits = [r for r in record.resources if r["resourceType"] == "Encounter"]
            assert max(last_day(v, reader.zone) for v in visits) == latest


@by_site
def test_the_first_lenalidomide_after_infusion_is_the_latent_start(spec: HospitalSpec) -> None:
    reader, kinds = Reader(spec), Counter()
    for latent, record in clean(spec):
        days = [(d - latent.index_date).days for d in reader.lenalidomide(record)]
        assert not [d for d in days if -180 <= d < 0], "eligible patients have a clean washout"
        after = [d for d in days if d >= 0]
        expected = latent.start_day if latent.start_day is not None else latent.salvage_day
        assert (after[0] if after else None) == expected
        kinds["maintenance" if latent.start_day else "salvage" if latent.salvage_day else "never"] += 1
        kinds["years before"] += any(d < 0 for d in days)
    assert all(kinds[k] for k in ("maintenance", "salvage", "never", "years before"))


@by_site
def test_disease_status_is_the_latent_response_and_progression(spec: HospitalSpec) -> None:
    reader = Reader(spec)
    for latent, record in clean(spec):
        found = [((day - latent.index_date).days, code) for day, code in reader.statuses(record)]
        responding = [day for day, code in found if code in {"260415000", "268910001"}]
        worsened = [day for day, code in found if code == "271299001"]
        responds = latent.status == "responding" and latent.assessment_day is not None
        assert (responding[0] if responding else None) == (latent.assessment_day if responds else None)
        assert (worsened[0] if worsened else None) == latent.progression_day
        assert not [d for d, code in found if code != "271299001" and worsened and d >= worsened[0]]


@by_site
def test_age_and_baseline_values_are_the_latent_ones_and_unambiguous(spec: HospitalSpec) -> None:
    reader = Reader(spec)
    for latent, record in clean(spec):
        person = next(r for r in record.resources if r["resourceType"] == "Patient")
        assert date.fromisoformat(person["birthDate"]) == latent.birth_date
        assert reader.nearest_before(record, "2532-0", latent.index_date) == [latent.ldh]
        assert reader.nearest_before(record, "89247-1", latent.index_date) == [latent.ecog]


@by_site
def test_extras_fail_exactly_the_criterion_they_were_made_for(spec: HospitalSpec) -> None:
    reader = Reader(spec)
    spec = replace(spec, patients=200, truth=Truth(share_messy=0))
    for latent, record in zip(latent_patients(spec.cohort()), hospital_records(spec), strict=True):
        infusions = reader.days(record, INFUSIONS, "MedicationAdministration", "Procedure")
        confirmed = {
            code
            for r in record.resources
            if r["resourceType"] == "Condition"
            and r["verificationStatus"]["coding"][0]["code"] == "confirmed"
            for code in reader.codes(r)
        }
        before = [(d - latent.index_date).days for d in reader.lenalidomide(record)]
        fails = {
            "no_car_t": not infusions,
            "other_disease": not any(code.startswith("C83.3") for code in confirmed),
            "under_18": (latent.index_date - latent.birth_date).days / 365.25 < 18,
            "washout": any(-180 <= day < 0 for day in before),
        }
        if latent.kind == "other_disease":  # mantle cell lymphoma gets a product that no code list names
            fails["no_car_t"] = False
        assert {name for name, failed in fails.items() if failed} == {latent.kind} - {"eligible"}


@by_site
def test_mess_leaves_all_clean_records_as_they_are(spec: HospitalSpec) -> None:
    tidy = list(hospital_records(replace(spec, truth=Truth(share_messy=0))))
    messy = list(hospital_records(spec))
    assert all(record.mess is None for record in tidy)
    changed = [record for record in messy if record.mess is not None]
    assert 0.25 < len(changed) / len(messy) < 0.55
    for before, after in zip(tidy, messy, strict=True):
        assert (before == after) == (after.mess is None)


@by_site
def test_mess_that_shifts_no_row_leaves_the_infusion_readable(spec: HospitalSpec) -> None:
    reader = Reader(spec)
    known = {p.patient_id: p for p in latent_patients(spec.cohort())}
    for record in hospital_records(spec):
        if record.mess in {None, *SHIFTING, "impossible_date"} or record.kind != "eligible":
            continue
        newest = {r["id"]: r for r in record.resources if "subject" in r or r["resourceType"] == "Patient"}
        seen = replace(record, resources=tuple(newest.values()))
        assert reader.infusion(seen) == known[record.patient_id].index_date


def test_all_kinds_of_mess_occur() -> None:
    spec = replace(SPECS[0], patients=400, truth=Truth(share_messy=1.0))
    kinds = Counter(record.mess for record in hospital_records(spec))
    assert len(kinds) == 9
    assert kinds["death_without_date"] < kinds["newer_version"], "rare, for it moves deaths"


@by_site
def test_ids_are_opaque_and_unique_and_every_resource_has_version_and_time(spec: HospitalSpec) -> None:
    seen = set()
    for r in hospital_resources(spec):
        key = (r["resourceType"], r["id"], r["meta"]["versionId"])
        assert key not in seen
        seen.add(key)
        assert math.isfinite(int(r["id"], 16))
        assert datetime.fromisoformat(r["meta"]["lastUpdated"]).tzinfo is not None


def digest(folder: Path) -> str:
    parts = [f.name.encode() + f.read_bytes() for f in sorted(folder.iterdir())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_same_seed_makes_identical_bytes_in_any_process(tmp_path: Path) -> None:
    spec = HospitalSpec("river", "b", 15, 9)
    counts = write_ndjson(spec, tmp_path / "here")
    program = (
        "import sys; from pathlib import Path; from rwe.sandbox.hospital import *;"
        "write_ndjson(HospitalSpec('river', 'b', 15, 9), Path(sys.argv[1]))"
    )
    there = tmp_path / "there"
    environment = {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program, str(there)], check=True, env=environment)
    assert digest(tmp_path / "here") == digest(there)
    write_ndjson(replace(spec, seed=10), tmp_path / "other")
    assert digest(tmp_path / "other") != digest(there)
    for resource_type, lines in counts.items():
        rows = (there / f"{resource_type}.ndjson").read_bytes().splitlines()
        assert len(rows) == lines
        assert all(msgspec.json.decode(row)["resourceType"] == resource_type for row in rows)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_every_day_of_two_years_keeps_its_local_day_however_it_is_written(name: DialectName) -> None:
    dialect, rng, styles = DIALECTS[name], Random(1), Counter()
    zone = dialect.zone
    for n in range(731):
        day = date(2019, 1, 1) + timedelta(days=n)
        for _ in range(8):
            text = moment(rng, dialect, zone, day)
            assert local_day(text, zone) == day
            styles[("Z" if text.endswith("Z") else "offset") if "T" in text else "day"] += 1
            if "T" in text:
                at = datetime.fromisoformat(text)
                assert at.astimezone(zone).date() == day
                styles["crosses midnight in UTC"] += at.astimezone(ZoneInfo("UTC")).date() != day
    assert all(styles[style] > 100 for style in ("Z", "offset", "day", "crosses midnight in UTC"))


@given(st.sampled_from(["a", "b", "c"]), st.dates(date(2000, 1, 1), date(2030, 12, 31)), st.integers(0, 400),
       st.integers(0, 2**32))  # fmt: skip
def test_a_period_keeps_both_its_days_and_their_order(
    name: DialectName, first: date, length: int, seed: int
) -> None:
    dialect = DIALECTS[name]
    last = first + timedelta(days=length)
    span = period(Random(seed), dialect, dialect.zone, first, last)
    assert (local_day(span["start"], dialect.zone), local_day(span["end"], dialect.zone)) == (first, last)
    if "T" in span["start"]:
        assert datetime.fromisoformat(span["start"]) <= datetime.fromisoformat(span["end"])


def test_infusion_codes_are_those_valid_on_their_day() -> None:
    for record in hospital_records(SPECS[2]):
        for r in record.resources:
            if r["resourceType"] == "Procedure" and r["id"] == record.infusion_id:
                coding = r["code"]["coding"][0]
                assert coding["system"] == codes.ICD_10_PCS
                is_old = first_day(r, ZoneInfo("Europe/London")) < date(2021, 10, 1)
                assert coding["code"].endswith("C3") == is_old
