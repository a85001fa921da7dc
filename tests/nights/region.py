"""Hospitals that change every day, and what their servers' own stores say a database about them must hold."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from rwe.config import Site, Workspace, init_workspace
from rwe.extraction_plan import WHOLE_TYPES, ExtractionPlan
from rwe.landing import RunFacts, list_runs, new_run
from rwe.sandbox.dialects import Resource
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.nights import Night
from rwe.sandbox.server import RunningHospital
from rwe.sandbox.store import Store, Stored

Key = tuple[str, str]
Token = tuple[str, str]
KINDS = ("arrived", "joined", "updated", "corrected", "deleted", "merged", "unmerged")


@dataclass(frozen=True)
class Table:
    """A table of a database, its rows in order."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def patients(self, rows: Iterable[tuple[Any, ...]] | None = None) -> set[str]:
        """Whom the rows (all of them, if none are given) are about; the table has a column patient_id."""
        place = self.columns.index("patient_id")
        return {row[place] for row in (self.rows if rows is None else rows)}


@dataclass
class Diary:
    """One hospital, and what it did in all its days. `restored` was deleted, and came back a day later."""

    hospital: RunningHospital
    spec: HospitalSpec
    days: list[Night] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    _gone: list[Resource] = field(default_factory=list)

    def spend_a_day(self, seed: int) -> None:
        """Change what a day changes, and let the server's clock go on by a day."""
        control = self.hospital.control
        for resource in self._gone[:1]:
            control.put({k: v for k, v in resource.items() if k != "meta"})
            self.restored.append(f"Encounter/{resource['id']}")
        before = control.state()["Encounter"]
        night = control.mutate(seed)
        self.days.append(night)
        names = [n.removeprefix("Encounter/") for n in night.deleted if n.startswith("Encounter/")]
        doomed = f"Patient/{night.deleted_patient}"
        self._gone = [before[n] for n in names if before[n]["subject"]["reference"] != doomed]
        control.advance()

    def counts(self) -> Counter[str]:
        """How often each kind of change occurred."""
        found = Counter({kind: sum(len(getattr(d, kind)) for d in self.days) for kind in KINDS})
        found["restored"] = len(self.restored)
        found["deleted patients"] = sum(d.deleted_patient is not None for d in self.days)
        return found

    def store(self) -> Store:
        """The server's store as it is now."""
        state = self.hospital.control.state()
        resources = [r for of_type in state.values() for r in of_type.values()]
        return Store(resources, self.spec.manner.zone, extra_types=state.keys())


def cohort_records(store: Store, plan: ExtractionPlan, site: Site) -> list[Stored]:
    """What the server has of the cohort, of its patients' merged records, and the Medications it refers to.

    The cohort is found in the store by the studies' codes, or named by the Group where the site says so.
    """
    people = store.members() if site.cohort.source == "group" else _with_index_event(store, plan)
    people = {p for p in people if store.read("Patient", p)}
    while more := _linked(store, people) - people:
        people |= more
    found = [s for t in ("Patient", *WHOLE_TYPES) for s in store.all(t) if s.patient in people]
    observed = store.search("Observation", [("code", _any_of(plan.observation_codes))])
    found += [s for s in observed if s.patient in people]
    referred = {target for s in found for target in s.targets.get("medicationReference", ())}
    medications = (store.read("Medication", t.removeprefix("Medication/")) for t in sorted(referred))
    return [*found, *(m for m in medications if m)]


def _with_index_event(store: Store, plan: ExtractionPlan) -> set[str]:
    events: list[Stored] = []
    for resource_type, codes in plan.index_codes.items():
        events += store.search(resource_type, [("code", _any_of(codes))])
        if resource_type == "MedicationAdministration":
            products = store.search("Medication", [("code", _any_of(codes))])
            named = ",".join(f"Medication/{m.id}" for m in products)
            events += store.search(resource_type, [("medication", named)]) if named else []
    return {s.patient for s in events if s.patient}


def _linked(store: Store, people: Iterable[str]) -> set[str]:
    persons = (store.read("Patient", p) for p in people)
    targets = {t for person in persons if person for t in person.targets.get("link", ())}
    return {one for t in targets if store.read("Patient", one := t.removeprefix("Patient/"))}


def _any_of(codes: Iterable[Token]) -> str:
    return ",".join(f"{system}|{code}" for system, code in codes)


def newest_landed(workspace: Workspace, site: str) -> dict[Key, Resource]:
    """The newest version of each resource among the raw lines of all runs of the site."""
    found: dict[Key, Resource] = {}
    for run in list_runs(workspace.landing, site):
        for resource_type in ("Patient", *WHOLE_TYPES, "Observation", "Medication"):
            for line in run.open(resource_type):
                resource = json.loads(line)
                key = (resource_type, resource["id"])
                if key not in found or _version(found[key]) < _version(resource):
                    found[key] = resource
    return found


def _version(resource: Resource) -> tuple[int, str]:
    return int(resource["meta"]["versionId"]), resource["meta"]["lastUpdated"]


def new_workspace(folder: Path, sites: Mapping[str, Site]) -> Workspace:
    """A workspace with these sites; its key is what the environment says."""
    return with_sites(init_workspace(folder / "workspace", folder / "unused.key"), sites)


def with_sites(workspace: Workspace, sites: Mapping[str, Site]) -> Workspace:
    """The same workspace with other sites."""
    return Workspace(workspace.root, workspace.settings.model_copy(update={"sites": dict(sites)}))


def copy_of_landing(workspace: Workspace, folder: Path) -> Workspace:
    """A workspace that has what landed in the other, and nothing that was made of it."""
    copied = new_workspace(folder, workspace.settings.sites)
    shutil.copytree(workspace.landing, copied.landing, copy_function=os.link, dirs_exist_ok=True)
    return copied


def land_records(workspace: Workspace, site: str, records: Iterable[Stored]) -> None:
    """Land records as the server has them, each as it would be read."""
    with new_run(workspace.landing, site) as run:
        for stored in records:
            run.write(stored.resource_type, stored.body)
        run.commit(RunFacts(route="import", time_zone=workspace.site(site).time_zone))


def tables(database: Path, *, without: str | None = None) -> dict[str, Table]:
    """Every table of staging and cohort by name; without a column that is no content."""
    listed = "select table_schema || '.' || table_name from information_schema.tables where table_schema in"
    with closing(duckdb.connect(str(database), read_only=True)) as db:
        names = [n for (n,) in db.execute(f"{listed} ('staging', 'cohort') order by all").fetchall()]
        found = {}
        for name in names:
            has_it = without in {c for c, *_ in db.execute(f"describe {name}").fetchall()}
            asked = f"* exclude ({without})" if has_it else "*"
            answer = db.execute(f"select {asked} from {name} order by all")
            columns = tuple(column[0] for column in answer.description or ())
            found[name] = Table(columns, answer.fetchall())
        return found
