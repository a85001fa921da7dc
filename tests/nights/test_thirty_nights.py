"""Night after night at several hospitals that change every day: by search, by export, with one that is down
for a while and one that joins late. What is right is read from the servers' own stores.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rwe.config import Site, Workspace
from rwe.errors import PartialError
from rwe.extract import ExtractionResult, PartlyExtractedError, extract_sites
from rwe.extraction_plan import plan_extraction
from rwe.fhir import bulk
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import list_runs
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import COHORT_GROUP, Bulk, Quirks
from rwe.sandbox.server import running_hospitals
from rwe.study import Study
from rwe.warehouse.build import build
from tests.contract.nights import Departure, Rows, departures, lake_rows, patients_of, the_study
from tests.nights.region import (
    KINDS,
    Diary,
    cohort_records,
    copy_of_landing,
    land_records,
    new_workspace,
    newest_landed,
    tables,
    with_sites,
)

KEY = "5b" * 32
#: Each is asked in its own way. `river` has no history, and the exports of `summit` list no deletions: what
#: these two delete shows to a reconcile only.
SPECS = (
    HospitalSpec("north", "a", patients=8, seed=1),
    HospitalSpec("river", "b", patients=8, seed=2, quirks=Quirks(no_history=True)),
    HospitalSpec("summit", "c", patients=8, seed=3, bulk=Bulk(polls=0, deleted=False)),
    HospitalSpec("delta", "a", patients=8, seed=4, bulk=Bulk(polls=0)),
)
_EXPORT = {"route": "export", "min_export_interval_hours": 0}
ROUTES: dict[str, dict[str, Any]] = {
    "north": {"route": "search"},
    "river": {"route": "search"},
    "summit": {**_EXPORT, "export_level": "patient"},
    "delta": {**_EXPORT, "export_level": "group", "cohort": {"source": "group", "id": COHORT_GROUP}},
}


@dataclass(frozen=True)
class Calendar:
    """Nights are counted from 1. In `reconciles` everything is asked for anew after the night, in `builds`
    the database is built, and built from scratch too."""

    nights: int
    reconciles: frozenset[int]
    builds: frozenset[int]
    down: tuple[str, range]
    late: tuple[str, int]

    def sites(self, night: int) -> list[str]:
        """The sites that have joined."""
        return [s.name for s in SPECS if s.name != self.late[0] or night >= self.late[1]]

    def is_down(self, name: str, night: int) -> bool:
        return name == self.down[0] and night in self.down[1]


WEEKLY = frozenset({7, 14, 21, 28})
THREE = Calendar(3, frozenset({3}), frozenset({2, 3}), down=("river", range(2, 3)), late=("delta", 2))
THIRTY = Calendar(30, WEEKLY, WEEKLY | {10, 12, 17, 30}, down=("river", range(10, 17)), late=("delta", 12))


@dataclass
class Worker:
    """The hub through all nights. `nobody` is an address at which nobody listens: where a site is down.
    `kept` are the sites of which the lake kept something that was gone, until a reconcile."""

    folder: Path
    study: Study
    diaries: Mapping[str, Diary]
    workspace: Workspace
    nobody: str
    hashes: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def sites(self, calendar: Calendar, night: int) -> dict[str, Site]:
        found = {}
        for name in calendar.sites(night):
            hospital = self.diaries[name].hospital
            base_url = self.nobody if calendar.is_down(name, night) else hospital.base_url
            found[name] = Site.model_validate(
                {
                    "base_url": base_url,
                    "time_zone": hospital.time_zone,
                    "allow_plain_http": "loopback only",
                    "max_retries": 0,
                    "overlap_minutes": 0.1,
                    **ROUTES[name],
                }
            )
        return found

    def extract(self, *, down: str | None, full: bool = False) -> list[ExtractionResult]:
        """One run of all sites. A site that is down is the only one that fails, and lands nothing."""
        names = list(self.workspace.settings.sites)
        if down is None:
            return extract_sites(self.workspace, names, [self.study], full=full)
        before = len(list_runs(self.workspace.landing, down))
        with pytest.raises(PartlyExtractedError) as caught:
            extract_sites(self.workspace, names, [self.study], full=full)
        assert caught.value.failures.keys() == {down}
        assert not isinstance(caught.value.failures[down], PartialError)
        assert len(list_runs(self.workspace.landing, down)) == before
        return list(caught.value.results)

    def truth(self, night: int, up: list[str]) -> Workspace:
        """What the servers that are up have, landed as if it had been handed over, in a workspace aside."""
        sites = {name: self.workspace.site(name) for name in up}
        truth = new_workspace(self.folder / f"truth-{night}", sites)
        for name in up:
            records = cohort_records(self.diaries[name].store(), plan_extraction([self.study]), sites[name])
            landed = newest_landed(self.workspace, name)
            for stored in records:
                assert landed.get(stored.key) == stored.resource, f"{name}: {stored.resource_type}"
            land_records(truth, name, records)
        return truth

    def lacks(self, expected: Rows) -> tuple[dict[str, Departure], set[str]]:
        """How the lake departs from it, for its patients, and the sites of which it keeps what is gone."""
        found = lake_rows(self.workspace, patients_of(expected))
        there = {(t, row[0]) for t, rows in expected.items() for row in rows}
        kept = {
            r[1] for t, rows in found.items() if t != "Medication" for r in rows if (t, r[0]) not in there
        }
        return departures(found, expected), kept

    def assert_nobody_is_kept(self, up: list[str]) -> None:
        """No patient is left whom the server deleted."""
        found = lake_rows(self.workspace)["Patient"]
        for name in up:
            of = Pseudonymiser(self.workspace.pseudonym_key(), name).of
            there = {of("Patient", i) for i in self.diaries[name].hospital.control.state()["Patient"]}
            assert {row[0] for row in found if row[1] == name} <= there, name

    def assert_as_from_scratch(self, night: int) -> str:
        """The database is the one that is built of what landed in a workspace that never built; its hash."""
        built = build(self.workspace, [self.study], target=self.folder / f"night-{night}.duckdb")
        other = copy_of_landing(self.workspace, self.folder / f"scratch-{night}")
        scratch = build(other, [self.study], target=self.folder / f"scratch-{night}.duckdb")
        assert built.content_sha256 == scratch.content_sha256
        found = tables(built.path)
        assert found == tables(scratch.path)
        assert found["staging.observation"].rows
        assert found["cohort.survival"].rows
        return built.content_sha256

    def assert_as_the_servers(self, night: int, truth: Workspace) -> None:
        """The database of the night is the one that is built of what the servers have.

        Patients who left the cohort stay in staging, and with the codes that matched there: nobody asks for
        them any more. Of nobody else there is a row too many, and in the tables of a study of nobody at all.
        """
        of_truth = build(truth, [self.study], target=self.folder / f"truth-{night}.duckdb")
        # On which day something landed is not of the server, and midnight may pass in a site's zone.
        night_built = self.folder / f"night-{night}.duckdb"
        found, expected = (tables(p, without="landed_day") for p in (night_built, of_truth.path))
        assert found.keys() == expected.keys()
        left = found["staging.patient"].patients() - expected["staging.patient"].patients()
        for name, table in found.items():
            ours, theirs = Counter(table.rows), Counter(expected[name].rows)
            assert not theirs - ours, f"night {night}: {name} lacks rows"
            surplus = ours - theirs
            if not left or (name.startswith("cohort.") and name != "cohort.codelist_match"):
                assert not surplus, f"night {night}: {name} has rows too many"
            elif "patient_id" in table.columns:
                assert table.patients(surplus) <= left, f"night {night}: {name}"


@contextmanager
def worker_at(folder: Path) -> Iterator[Worker]:
    with running_hospitals(SPECS) as hospitals, socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}/fhir"
        diaries = {h.name: Diary(h, s) for h, s in zip(hospitals, SPECS, strict=True)}
        yield Worker(folder, the_study(folder / "studies"), diaries, new_workspace(folder, {}), nobody)


def live(worker: Worker, calendar: Calendar, night: int) -> None:
    """A day at the hospitals, the night after it, and what must be true then."""
    if night > 1:
        for diary in worker.diaries.values():
            diary.spend_a_day(night)
    worker.workspace = with_sites(worker.workspace, worker.sites(calendar, night))
    down = next((s for s in calendar.sites(night) if calendar.is_down(s, night)), None)
    up = [s for s in calendar.sites(night) if s != down]
    before = frozen(worker.workspace, down)
    worker.extract(down=down)
    truth = worker.truth(night, up)
    expected = lake_rows(truth)
    lacking, kept = worker.lacks(expected)
    assert {t: (d.lost, d.other) for t, d in lacking.items() if d.lost or d.other} == {}, f"night {night}"
    if night in calendar.reconciles:
        worker.kept |= kept
        for result in worker.extract(down=down, full=True):
            scopes = result.run.manifest.scopes
            assert all(s.is_complete and s.is_reconciled for s in scopes.values()), result.site
        assert worker.lacks(expected) == ({}, set()), f"night {night}, after reconciling"
        worker.assert_nobody_is_kept(up)
    assert frozen(worker.workspace, down) == before
    if night not in calendar.builds:
        return
    worker.hashes.append(worker.assert_as_from_scratch(night))
    if night in calendar.reconciles and down is None:
        worker.assert_as_the_servers(night, truth)


def frozen(workspace: Workspace, down: str | None) -> Rows:
    """What the lake holds of a site that is down."""
    if down is None:
        return {}
    return {t: [row for row in rows if row[1] == down] for t, rows in lake_rows(workspace).items()}


def assert_it_all_happened(worker: Worker, calendar: Calendar) -> None:
    days = calendar.nights - 1
    total: Counter[str] = Counter()
    for diary in worker.diaries.values():
        counts = diary.counts()
        assert counts["updated"] >= 2 * days
        assert counts["arrived"] >= days
        assert counts["deleted"] >= days
        assert counts["deleted patients"] >= days - 1
        total += counts
    assert all(total[kind] for kind in (*KINDS, "restored", "deleted patients")), total
    assert worker.kept >= {"river", "summit"}, "deletions that only a reconcile finds"
    assert len(set(worker.hashes)) == len(calendar.builds), "the database follows"
    for name, fields in ROUTES.items():
        nights = [n for n in range(1, calendar.nights + 1) if name in calendar.sites(n)]
        landed = [n for n in nights if not calendar.is_down(name, n)]
        runs = list_runs(worker.workspace.landing, name)
        assert len(runs) == len(landed) + len(calendar.reconciles & set(landed)), name
        assert {r.manifest.route for r in runs} == {fields["route"]}
        since = [r for r in runs if any(scope.since for scope in r.manifest.scopes.values())]
        assert len(since) == len(landed) - 1, "each night but the first asks for what is new"


@pytest.fixture(autouse=True)
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workspaces give a patient the same pseudonym; exports are ready at once."""
    monkeypatch.setenv("RWE_PSEUDONYM_KEY", KEY)
    monkeypatch.setattr(bulk, "FIRST_POLL_SECONDS", 0.05)


@pytest.mark.parametrize(
    "calendar",
    [
        pytest.param(THREE, id="three", marks=pytest.mark.timeout(900)),
        pytest.param(THIRTY, id="thirty", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_night_after_night(tmp_path: Path, calendar: Calendar) -> None:
    with worker_at(tmp_path) as worker:
        for night in range(1, calendar.nights + 1):
            live(worker, calendar, night)
        assert_it_all_happened(worker, calendar)
