"""The protocol lock: what was planned before anybody saw the outcome is told from what was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rwe.errors import StudyError
from rwe.resources import bundled
from rwe.study import Analysis, Study, load_study
from rwe.study.lock import lock_path, lock_study, read_lock

NAME = "lenalidomide_after_car_t"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(bundled("studies"), tmp_path / "studies")
    return tmp_path / "studies"


def study(folder: Path, *changes: tuple[str, str]) -> Study:
    path = folder / f"{NAME}.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def test_without_a_lock_nothing_is_posthoc(folder: Path) -> None:
    found = study(folder)
    assert read_lock(found).status == "unlocked"
    assert not any(read_lock(found).is_posthoc(a) for a in found.protocol.analyses)


def test_a_locked_protocol_is_known_by_its_hash(folder: Path) -> None:
    found = study(folder)
    entry = lock_study(found, registration="EUPAS100000")
    lock = read_lock(found)
    assert (lock.status, lock.registration) == ("locked", "EUPAS100000")
    assert entry.protocol_sha256 == found.protocol_sha256
    assert not any(lock.is_posthoc(a) for a in found.protocol.analyses)


def test_an_analysis_added_after_the_lock_is_posthoc_and_the_planned_ones_are_not(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("analyses:\n", "analyses:\n  - {analysis: landmark_cox, landmarks: [200]}\n"))
    lock = read_lock(later)
    assert (lock.status, lock.changed) == ("changed", ("analyses",))
    first, *planned = later.protocol.analyses
    assert lock.is_posthoc(first)
    assert not any(lock.is_posthoc(a) for a in planned)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("grace_days: 180", "grace_days: 90", "strategies"),
        ("min_years: 18", "min_years: 60", "eligibility"),
        ("incomplete_death_date: midpoint", "incomplete_death_date: exclude", "outcome"),
    ],
)
def test_after_any_other_change_no_analysis_is_as_planned(
    folder: Path, old: str, new: str, field: str
) -> None:
    lock_study(study(folder))
    later = study(folder, (old, new))
    lock = read_lock(later)
    assert lock.changed == (field,)
    assert all(lock.is_posthoc(a) for a in later.protocol.analyses)


def test_another_title_changes_no_estimate(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("title: Lenalidomide", "title: On lenalidomide"))
    assert read_lock(later).status == "changed"
    assert not any(read_lock(later).is_posthoc(a) for a in later.protocol.analyses)


def test_a_changed_code_list_is_a_changed_protocol(folder: Path) -> None:
    lock_study(study(folder))
    codes = folder / "codelists" / "lenalidomide.csv"
    lines = codes.read_text(encoding="utf-8").splitlines()
    codes.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    later = study(folder)
    assert read_lock(later).changed == ("codelists",)
    assert all(read_lock(later).is_posthoc(a) for a in later.protocol.analyses)


def primary_of(found: Study) -> Analysis:
    (primary,) = [a for a in found.protocol.analyses if a.role == "primary"]
    return primary


@pytest.mark.parametrize(
    ("added", "part"),
    [
        ("chart_review: {starts: {confirmed: 45, reviewed: 50}}", ("chart_review", None)),
        ("negative_controls: [second_car_t]", ("negative_controls", "second_car_t")),
        ("toxicities: [{name: low, adverse_event: anaemia, codelist: ldh}]", ("toxicities", "low")),
        ("cart_copies: {codelist: ldh, unit: U/L}", ("cart_copies", None)),
        ("subgroups: [{name: age_65, covariate: age, cut: 65}, {name: old, covariate: age, cut: 70}]",
         ("subgroups", "old")),
    ],
)  # fmt: skip
def test_what_is_asked_for_beside_the_analyses_makes_itself_posthoc_and_no_analysis(
    folder: Path, added: str, part: tuple[str, str | None]
) -> None:
    lock_study(study(folder))
    before = "subgroups:\n  - {name: age_65, covariate: age, cut: 65}\n"
    later = study(folder, (before, f"{added}\n" if "subgroups" in added else f"{before}\n{added}\n"))
    lock = read_lock(later)
    assert lock.status == "changed"
    assert not any(lock.is_posthoc(a) for a in later.protocol.analyses)
    assert lock.is_posthoc_part(*part)
    assert not lock.is_posthoc_part("subgroups", "age_65")


def test_a_covariate_counts_for_the_analyses_that_adjust_for_it(folder: Path) -> None:
    lock_study(study(folder))
    later = study(
        folder, ("codelist: ecog, window: {from_day: -30", "codelist: ecog, window: {from_day: -90")
    )
    lock = read_lock(later)
    assert lock.changed == ("covariates",)
    told = {("ecog" in a.adjusted_for, lock.is_posthoc(a)) for a in later.protocol.analyses}
    assert told == {(True, True), (False, False)}


def test_the_codes_of_a_covariate_count_as_the_covariate_does(folder: Path) -> None:
    lock_study(study(folder))
    with (folder / "codelists" / "ldh.csv").open("a", encoding="utf-8") as codes:
        codes.write("http://loinc.org,14804-9,Lactate dehydrogenase by another reaction,LOINC,,\n")
    later = study(folder)
    lock = read_lock(later)
    assert lock.changed == ("codelists",)
    told = {("ldh" in a.adjusted_for, lock.is_posthoc(a)) for a in later.protocol.analyses}
    assert told == {(True, True), (False, False)}
    assert not lock.is_posthoc_part("subgroups", "age_65"), "age has no codes"


def test_another_label_changes_no_estimate(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("label: In response", "label: Responding"))
    assert read_lock(later).changed == ("covariates",)
    assert not any(read_lock(later).is_posthoc(a) for a in later.protocol.analyses)


@pytest.mark.parametrize(
    "change",
    [
        ("disease_status:\n  codelist: disease_status", "disease_status:\n  codelist: response"),
        ("new_user_washout: {days: 180}", "new_user_washout: {days: 90}"),
        ("same_event_days: 14", "same_event_days: 7"),
        ("procedure], handling: treatment_policy", "procedure], handling: composite"),
    ],
)
def test_whoever_is_in_the_cohort_and_how_it_ends_counts_for_every_analysis(
    folder: Path, change: tuple[str, str]
) -> None:
    lock_study(study(folder))
    later = study(folder, change)
    lock = read_lock(later)
    assert all(lock.is_posthoc(a) for a in later.protocol.analyses)
    assert lock.is_posthoc_part("subgroups", "age_65")


def test_a_day_added_to_landmarks_is_posthoc_and_the_others_are_not(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("landmarks: [60, 90, 180]\nhorizons", "landmarks: [60, 90, 120]\nhorizons"))
    lock = read_lock(later)
    (crude,) = [a for a in later.protocol.analyses if a.analysis == "landmark_cox" and not a.adjusted_for]
    assert [lock.is_posthoc(crude, day) for day in (60, 90, 120)] == [False, False, True]
    assert not lock.is_posthoc(primary_of(later))


def test_an_estimate_by_site_added_later_is_posthoc_and_that_of_all_sites_is_not(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("{analysis: landmark_cox}", "{analysis: landmark_cox, by_site: true}"))
    lock = read_lock(later)
    (crude,) = [a for a in later.protocol.analyses if a.analysis == "landmark_cox" and a.by_site]
    assert not lock.is_posthoc(crude, 60)
    assert lock.is_posthoc(crude, 60, of_site=True)
    assert not lock.is_posthoc(primary_of(later), of_site=True)


def test_a_planned_sensitivity_that_is_made_primary_is_posthoc(folder: Path) -> None:
    lock_study(study(folder))
    later = study(
        folder,
        ("    role: primary\n", ""),
        ("  - {analysis: time_dependent_cox}\n", "  - {analysis: time_dependent_cox, role: primary}\n"),
    )
    assert read_lock(later).is_posthoc(primary_of(later))


def test_a_horizon_counts_for_what_is_read_off_at_it(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("horizons: [365, 730]", "horizons: [365, 730, 1095]"))
    lock = read_lock(later)
    told = {a.analysis: lock.is_posthoc(a) for a in later.protocol.analyses}
    assert (told["landmark_kaplan_meier"], told["clone_censor_weight"]) == (True, True)
    assert (told["time_dependent_cox"], told["mantel_byar"]) == (False, False)


def test_what_stands_in_for_a_planned_primary_analysis_is_as_planned_in_the_grid(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("title: Lenalidomide", "title: On lenalidomide"))
    stands_in = Analysis(analysis="time_dependent_firth", role="primary")
    lag = next(c for c in later.protocol.sensitivity_grid if c.rule == "lag_days")
    assert not read_lock(later).is_posthoc_change(stands_in, lag)


def test_an_amendment_needs_a_reason_and_a_version_and_keeps_the_lock_of_before(folder: Path) -> None:
    first = lock_study(study(folder), registration="EUPAS100000")
    later = study(folder, ("grace_days: 180", "grace_days: 90"))
    with pytest.raises(StudyError, match="--amendment"):
        lock_study(later)
    with pytest.raises(StudyError, match="version"):
        lock_study(later, amendment="the steering committee asked for 90 days")
    later = study(folder, ("version: 1.2.0", "version: 1.3.0"))
    lock_study(later, amendment="the steering committee asked for 90 days")
    lock = read_lock(later)
    assert lock.status == "locked"
    assert [e.version for e in lock.entries] == ["1.2.0", "1.3.0"]
    assert lock.entries[0] == first
    assert lock.registration == "EUPAS100000"
    with pytest.raises(StudyError, match="as it stands"):
        lock_study(later, amendment="again")


def test_a_log_changed_by_hand_is_refused(folder: Path) -> None:
    found = study(folder)
    lock_study(found)
    path = lock_path(found)
    log = json.loads(path.read_text(encoding="utf-8"))
    log["entries"][0]["content"]["protocol"]["strategies"]["treated"]["grace_days"] = 30
    path.write_text(json.dumps(log), encoding="utf-8")
    with pytest.raises(StudyError, match="changed by hand"):
        read_lock(found)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="damaged"):
        lock_study(found)


def test_an_entry_of_before_cannot_be_dropped(folder: Path) -> None:
    lock_study(study(folder))
    later = study(folder, ("grace_days: 180", "grace_days: 90"), ("version: 1.2.0", "version: 1.3.0"))
    lock_study(later, amendment="a shorter grace period")
    path = lock_path(later)
    log = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**log, "entries": log["entries"][1:]}), encoding="utf-8")
    with pytest.raises(StudyError, match="damaged"):
        read_lock(later)
