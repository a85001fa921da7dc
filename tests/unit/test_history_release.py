"""Releases: what leaves is rounded and names nothing private; two never differ by fewer than the minimum."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rwe.analyse import analyse
from rwe.blocklist import open_blocklist
from rwe.cli import app
from rwe.config import open_workspace
from rwe.errors import EvidenceError
from rwe.evidence.contract import Evidence, read_evidence
from rwe.evidence.outward import outward
from rwe.evidence.small_cells import rounded_km, significant
from rwe.history.ledger import forget_erased, read_release_ledger, release_ledger_path
from rwe.history.release import release, releases
from rwe.keeping.search import Sought, files_with
from rwe.report.page import render_report
from rwe.small_cells import midpoint_6
from tests.integration.cohort_nights import STUDY, Person, people
from tests.unit import evidence_example as example
from tests.unit.history_tables import Nights, tables

FIRST = people(40)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    monkeypatch.setattr("rwe.history.release.write_report", lambda _, page: page.write_text("a report"))
    made.now = tables(FIRST)
    return made


def try_release(nights: Nights, persons: list[Person]) -> bool:
    """A night, and whether its release was made."""
    nights.now = tables(persons)
    analyse(nights.workspace, nights.study)
    before = releases(nights.workspace, STUDY)
    try:
        release(nights.workspace, STUDY)
    except EvidenceError as e:
        refused = str(e)
    else:
        return True
    assert "a release takes 10 and 5" in refused
    assert releases(nights.workspace, STUDY) == before
    return False


def test_two_releases_never_differ_by_fewer_than_the_minimum(nights: Nights) -> None:
    """The attack: every night somebody asks for a release, to subtract yesterday's. Patients come one by one,
    some die, some are gone again, some come back."""
    rng = np.random.default_rng(11)
    pool, here = people(90, seed=21), people(90, seed=21)[:30]
    out: list[dict[str, bool]] = []
    for _ in range(14):
        new = pool[len(here) : len(here) + int(rng.integers(1, 6))]
        here = [
            replace(p, seen=p.seen + 30, died=p.seen + 30) if p.died is None and rng.random() < 0.03 else p
            for p in [*here, *new]
        ]
        shown = [p for p in here if rng.random() > 0.02]
        if try_release(nights, shown):
            out.append({p.name: p.died is not None for p in shown})
    assert 2 <= len(out) <= 8, "some are made and most nights are refused"
    for then, now in itertools.combinations(out, 2):
        assert len(now.keys() - then.keys()) >= 10
        assert sum(died and not then.get(name, False) for name, died in now.items()) >= 5


def test_a_protocol_narrowed_by_one_patient_is_no_way_round(nights: Nights) -> None:
    """A study asked once more without the patient who is looked for: subtract, and there the patient is."""
    assert try_release(nights, FIRST)
    nights.asking(landmarks=[45])
    assert not try_release(nights, FIRST[1:])


def test_nor_are_others_in_between(nights: Nights) -> None:
    """A, then wholly other patients, then A without one: against the last release all are new. (The others
    are many more than A, for so many as were there may be A under other names.)"""
    assert try_release(nights, FIRST)
    assert not try_release(nights, people(40, seed=5, first=500))
    assert try_release(nights, people(80, seed=5, first=500))
    assert not try_release(nights, FIRST[1:])


def test_new_patients_without_new_events_wait(nights: Nights) -> None:
    alive = [replace(p, died=None) for p in people(20, seed=6, first=600)]
    assert try_release(nights, FIRST)
    assert not try_release(nights, [*FIRST, *alive])


def test_a_study_of_few_is_not_released_at_all(nights: Nights) -> None:
    assert not try_release(nights, FIRST[:9])


def test_the_minimum_is_the_workspaces_setting(nights: Nights) -> None:
    path = nights.workspace.root / "rwe.yaml"
    text = path.read_text().replace("min_new_patients: 10", "min_new_patients: 1")
    path.write_text(text.replace("min_new_events: 5", "min_new_events: 1"))
    nights.workspace = open_workspace(nights.workspace.root)
    assert try_release(nights, FIRST)
    dead = next(p for p in people(20, seed=7, first=700) if p.died is not None)
    assert try_release(nights, [*FIRST, dead])


def test_without_the_ledger_of_an_earlier_release_nothing_leaves(nights: Nights) -> None:
    """Nobody can tell any more how near the next one is."""
    assert try_release(nights, FIRST)
    made = releases(nights.workspace, STUDY)[0].name
    release_ledger_path(nights.workspace, STUDY, made).unlink()
    nights.now = tables([*FIRST, *people(40, seed=9, first=900)])
    analyse(nights.workspace, nights.study)
    with pytest.raises(EvidenceError, match="cannot be told"):
        release(nights.workspace, STUDY)


def test_an_erasure_does_not_forget_a_release_whose_ledger_is_damaged_and_whose_folder_was_handed_on(
    nights: Nights,
) -> None:
    assert try_release(nights, FIRST)
    [made] = releases(nights.workspace, STUDY)
    ledger = release_ledger_path(nights.workspace, STUDY, made.name)
    ledger.write_bytes(ledger.read_bytes()[:50])
    shutil.rmtree(made)
    assert open_blocklist(nights.workspace, make=True) is not None
    forget_erased(nights.workspace)
    assert ledger.read_bytes() == b""
    nights.now = tables([*FIRST, *people(1, seed=9, first=900)])
    analyse(nights.workspace, nights.study)
    with pytest.raises(EvidenceError, match="cannot be told"):
        release(nights.workspace, STUDY)


@pytest.mark.parametrize("now", [None, "cd" * 32], ids=["no key", "another key"])
def test_an_erasure_leaves_ledgers_whose_key_is_not_at_hand_and_the_search_names_them(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, now: str | None
) -> None:
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "ab" * 32)
    assert try_release(nights, FIRST)
    history = nights.workspace.private / "history" / STUDY
    sealed = {p: p.read_bytes() for p in history.rglob("*.enc")}
    assert len(sealed) == 2, "one of the refresh, one of the release"
    assert open_blocklist(nights.workspace, make=True) is not None
    sought = Sought(("a-pseudonym-of-nobody",))
    assert not {*sealed} & {*files_with(nights.workspace, sought)}
    monkeypatch.delenv("RWE_ENCRYPTION_KEY")
    if now:
        monkeypatch.setenv("RWE_ENCRYPTION_KEY", now)
    forget_erased(nights.workspace)
    assert {p: p.read_bytes() for p in history.rglob("*.enc")} == sealed
    assert {*sealed} <= {*files_with(nights.workspace, sought)}, "nobody can say that they do not hold it"


def test_a_sealed_ledger_that_was_given_up_holds_nobody(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWE_ENCRYPTION_KEY", "ab" * 32)
    assert try_release(nights, FIRST)
    [made] = releases(nights.workspace, STUDY)
    ledger = release_ledger_path(nights.workspace, STUDY, made.name)
    ledger.write_bytes(ledger.read_bytes()[:50])
    sought = Sought(("a-pseudonym-of-nobody",))
    assert ledger in files_with(nights.workspace, sought)
    assert open_blocklist(nights.workspace, make=True) is not None
    for _ in range(2):
        forget_erased(nights.workspace)
        assert ledger.read_bytes() == b""
        assert ledger not in files_with(nights.workspace, sought)


def test_an_altered_refresh_is_not_released(nights: Nights) -> None:
    path = analyse(nights.workspace, nights.study).path
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"n": 40', '"n": 4000'))
    with pytest.raises(EvidenceError, match="was changed since it was written"):
        release(nights.workspace, STUDY)


def test_a_release_names_nothing_private_and_is_sealed(nights: Nights) -> None:
    refresh = analyse(nights.workspace, nights.study)
    made = release(nights.workspace, STUDY)
    manifest = json.loads((refresh.path.parent / "manifest.json").read_text())
    private = {
        refresh.refresh,
        refresh.evidence.refresh.content_sha256,
        manifest["inputs"]["tables_sha256"],
        *(p.name for p in FIRST),
    }
    for path in made.folder.iterdir():
        assert not [word for word in private if word in path.read_text()], path.name
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    kept = read_release_ledger(nights.workspace, STUDY, made.release)
    assert kept is not None
    assert set(kept.survival["patient_id"]) == {p.name for p in FIRST}
    assert kept.survival["start_day"].isna().all(), "no more than who and whether an event"
    assert kept.covariates.empty


def test_the_history_of_a_release_is_that_of_releases(nights: Nights) -> None:
    assert try_release(nights, FIRST)
    assert not try_release(nights, [*FIRST, *people(2, seed=3, first=100)])
    assert try_release(nights, [*FIRST, *people(30, seed=3, first=100)])
    found = [read_evidence(f / "evidence.json") for f in releases(nights.workspace, STUDY)]
    assert found[-1].history is not None
    looks = found[-1].history.looks
    assert [look.refresh for look in looks] == [e.refresh.id for e in found]
    assert [look.number for look in looks] == [1, 3], "the look between is counted, not shown"
    assert found[-1].history.change is None
    assert found[-1].history.repeated is not None
    assert found[-1].history.repeated.information is None


def whole() -> Evidence:
    return outward(example.evidence(), "r", example.evidence().refresh.created_at, None)


def numbers_of(document: object, path: str = "") -> dict[str, object]:
    """Every leaf of a JSON document by its path."""
    if isinstance(document, dict):
        return {
            k: v for name, part in document.items() for k, v in numbers_of(part, f"{path}/{name}").items()
        }
    if isinstance(document, list):
        return {k: v for i, part in enumerate(document) for k, v in numbers_of(part, f"{path}/{i}").items()}
    return {path: document}


def test_every_count_that_leaves_is_rounded() -> None:
    """Counts are whole numbers under names that count; all are 0 or a midpoint of six."""
    leaves = numbers_of(
        json.loads(whole().model_dump_json(exclude={"protocol", "codelists", "protocol_lock"}))
    )
    named = re.compile(
        r"/(n|events|missing|patients|n_before|n_excluded|n_after|at_risk|starters|patients_at_risk"
        r"|started_after_\w+|resumed_after_\w+|(n|events|deaths)_by_strategy/\w+|end_of_follow_up/\w+)$"
    )
    counts = {k: v for k, v in leaves.items() if named.search(k)}
    assert len(counts) > 100
    wrong = {k: v for k, v in counts.items() if not isinstance(v, int) or (v and v % 6 not in (0, 3))}
    assert not wrong
    exact = {k: v for k, v in counts.items() if not k.startswith("/curves/") and v and v % 6 != 3}
    assert not exact, "only the increments of a curve are multiples of six"


def test_what_is_of_single_sites_or_patients_stays_inside() -> None:
    found = whole()
    assert not [e for e in found.estimates if e.site is not None]
    assert not [c for c in found.curves if c.site is not None]
    assert found.runs == []
    assert found.synthesis is None
    assert found.sensitivity_grid is None
    assert not [e for e in found.estimates if e.parameters.variant is not None]
    assert found.kinetics is None
    assert found.refresh.content_sha256 == "withheld"
    assert all(not s.resources and s.last_updated is None for s in found.sites)
    assert not [e for e in found.estimates if e.coefficients or e.expected_by_strategy or e.variance]
    inside = {s for e in example.evidence().estimates for s in e.warnings if re.search(r"\d", s)}
    outside = {s for e in found.estimates for s in e.warnings}
    assert inside
    assert not inside & outside


def test_a_released_page_reads() -> None:
    page = render_report(whole())
    assert "Release: prepared to leave the sites" in page
    assert "counts are rounded to the midpoints of sixes" in page


@pytest.mark.parametrize(("exact", "rounded"), [(0, 0), (1, 3), (6, 3), (7, 9), (12, 9), (13, 15)])
def test_midpoint_six(exact: int, rounded: int) -> None:
    assert midpoint_6(exact) == rounded


def test_a_curve_steps_only_where_the_rounded_events_do() -> None:
    """By hand: one death a day among 20. Rounded deaths are 3 from the first, 9 from the seventh; at risk 21
    and 15. 1 - 3/21 = 0.857142…, times 1 - 6/15 = 0.514285…"""
    steps = rounded_km(list(range(1, 13)), list(range(20, 8, -1)), [1] * 12)
    assert [(s.time_days, s.at_risk, s.events) for s in steps] == [(1, 21, 3), (7, 15, 6)]
    assert [s.survival for s in steps] == pytest.approx([18 / 21, 18 / 21 * 9 / 15])


def test_a_curve_ends_where_too_few_are_left() -> None:
    """Seven deaths of eight: the second step would take 6 from the 3 that one patient is rounded to."""
    steps = rounded_km(list(range(1, 8)), [8, 7, 6, 5, 4, 3, 2], [1] * 7)
    assert [(s.time_days, s.at_risk, s.events) for s in steps] == [(1, 9, 3)]


def test_the_last_day_of_care_is_one_patients() -> None:
    exact = example.evidence().refresh.data_cutoff
    shown = whole().refresh.data_cutoff
    assert exact is not None
    assert shown is not None
    assert (shown.year * 12 + shown.month) == (exact.year * 12 + exact.month) - 1
    assert (shown + timedelta(days=1)).day == 1


def test_two_cohorts_that_differ_by_one_death_give_one_curve() -> None:
    """A death on day 5 that was not there yesterday, in the middle of a six."""
    days, at_risk = list(range(1, 9)), list(range(60, 52, -1))
    yesterday = rounded_km(days, at_risk, [1, 1, 0, 0, 0, 0, 0, 0])
    assert rounded_km(days, at_risk, [1, 1, 0, 0, 1, 0, 0, 0]) == yesterday


def test_significant_digits() -> None:
    assert significant(0.123456) == 0.123
    assert significant(98765.0, 2) == 99000.0
    assert significant(0.0) == 0.0


def test_the_command_says_what_is_missing(nights: Nights) -> None:
    root = str(nights.workspace.root)
    analyse(nights.workspace, nights.study)
    first = CliRunner().invoke(app, ["release", STUDY, "-w", root])
    assert first.exit_code == 0
    assert "Release 1: " in first.output
    again = CliRunner().invoke(app, ["release", STUDY, "-w", root])
    assert isinstance(again.exception, EvidenceError)
    assert "0 patients and 0 events are new since release" in str(again.exception)


def test_a_release_of_made_up_patients_says_so() -> None:
    found = example.evidence().model_copy(update={"is_made_up": True})
    assert outward(found, "r", found.refresh.created_at, None).is_made_up
    assert not whole().is_made_up
