"""Attacks on releases, each as somebody would do it who subtracts, counts back or asks once more."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rwe.analyse import analyse
from rwe.cli import app
from rwe.config import init_workspace
from rwe.errors import EvidenceError
from rwe.evidence.contract import Curve, CurvePoint, Estimate, Evidence, read_evidence
from rwe.evidence.numbers import FEW, Number, numbers_that_leave
from rwe.evidence.outward import outward
from rwe.evidence.outward_estimates import TOO_FEW, TOO_NEAR
from rwe.history.ledger import WhatLeft, read_release_ledger
from rwe.history.release import Earlier, Released, new_since, release, too_near
from rwe.report.page import render_report
from rwe.sharing.files import shared_pseudonym
from rwe.small_cells import midpoint_6
from rwe.study import Study, load_study
from tests.integration.cohort_nights import STUDY, Person, people
from tests.unit import evidence_example as example
from tests.unit.history_tables import Nights, ledger, tables

FIRST = people(40)
ONE = Person("person999", "north", born=1950, start=None, seen=300, died=123)
TREATED, CONTROL = example.TREATED, example.CONTROL


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    made = Nights(tmp_path, monkeypatch)
    monkeypatch.setattr("rwe.history.release.write_report", lambda _, page: page.write_text("a report"))
    made.now = tables(FIRST)
    return made


def released(nights: Nights, persons: list[Person], study: Study | None = None, **how: bool) -> Released:
    """A night and its release."""
    nights.now = tables(persons)
    asked = study or nights.study
    analyse(nights.workspace, asked)
    return release(nights.workspace, asked.name, **how)


def evidence_of(made: Released) -> Evidence:
    return read_evidence(made.folder / "evidence.json")


def renamed(nights: Nights, name: str) -> Study:
    """The same question under another name."""
    content = yaml.safe_load((nights.workspace.studies / f"{STUDY}.yaml").read_text())
    path = nights.workspace.studies / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, "name": name}))
    return load_study(path)


# Who was released before


def test_a_release_that_was_moved_away_is_not_forgotten(nights: Nights, tmp_path: Path) -> None:
    """Handed on by moving its folder; the next night one patient more is there."""
    first = released(nights, FIRST)
    shutil.move(str(first.folder), str(tmp_path / "outbox"))
    with pytest.raises(EvidenceError, match="1 patient and 1 event are new since release"):
        released(nights, [*FIRST, ONE])
    later = released(nights, [*FIRST, *people(40, seed=8, first=300)])
    assert later.number == 2, "and no two releases have one number"
    assert later.release.endswith("-release-2")


def test_nor_is_one_of_which_the_process_was_killed(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the ledger and the folder: it may have left, so it counts."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rwe.history.release._write_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            released(nights, FIRST)
    with pytest.raises(EvidenceError, match="0 patients and 0 events are new since release"):
        release(nights.workspace, STUDY)


def test_the_same_patients_under_another_name_of_the_study_are_refused(nights: Nights) -> None:
    released(nights, FIRST[:20])
    again = renamed(nights, "second_name")
    with pytest.raises(EvidenceError, match=rf"0 patients .* since release .* of study {STUDY}"):
        released(nights, FIRST[:19], again)
    assert released(nights, FIRST, again, apart=True).number == 1, "who says it is believed"
    with pytest.raises(EvidenceError, match=r"1 patient and 1 event .* of study second_name"):
        released(nights, [*FIRST, ONE])


def test_apart_is_said_on_the_command_line_and_stands_in_the_audit_log(nights: Nights) -> None:
    released(nights, FIRST)
    analyse(nights.workspace, renamed(nights, "second_name"))
    root = str(nights.workspace.root)
    refused = CliRunner().invoke(app, ["release", "second_name", "-w", root])
    assert isinstance(refused.exception, EvidenceError)
    assert "--apart" in str(refused.exception.advice)
    made = CliRunner().invoke(app, ["release", "second_name", "--apart", "-w", root])
    assert made.exit_code == 0, made.output
    assert '"apart":1' in (nights.workspace.root / "audit.ndjson").read_text().replace(" ", "")


def test_shares_of_a_changed_protocol_are_the_same_patients(nights: Nights, tmp_path: Path) -> None:
    """A hub of shares alone: the protocol changes a word, and everybody has another pseudonym?"""
    site = init_workspace(tmp_path / "site", tmp_path / "site.key")
    rename = {s: shared_pseudonym(site, STUDY, s) for s in ("north", "river")}

    def shared(persons: list[Person]) -> list[Person]:
        return [replace(p, name=rename[p.site](p.name)) for p in persons]

    released(nights, shared(FIRST))
    before = nights.study.protocol_sha256
    nights.asking(eligibility=[{"name": "not_the_oldest", "kind": "age_at_index", "max_years": 78}])
    assert nights.study.protocol_sha256 != before
    with pytest.raises(EvidenceError, match="0 patients and 0 events are new"):
        released(nights, shared(FIRST[:-1]))


def test_shared_pseudonyms_of_two_studies_or_sites_are_not_joined(tmp_path: Path) -> None:
    site = init_workspace(tmp_path / "site", tmp_path / "site.key")
    found = {shared_pseudonym(site, study, s)("p1") for study in ("a", "b") for s in ("north", "river")}
    assert len(found) == 4
    assert shared_pseudonym(site, "a", "north")("p1") in found


def test_the_same_people_under_other_pseudonyms_are_not_new() -> None:
    """A site changed its key: nobody of it is found again. Only more than there were are new."""
    others = [replace(p, name=f"x{p.name}") for p in FIRST]
    assert new_since(ledger(FIRST), ledger(others)) == (0, 0)
    one_site = [replace(p, name=f"x{p.name}") if p.site == "north" else p for p in FIRST]
    assert new_since(ledger(FIRST), ledger([*one_site, ONE])) == (1, 1)
    third = [replace(p, name=f"y{p.name}", site="third") for p in people(12, seed=4)]
    died = sum(p.died is not None for p in third)
    assert new_since(ledger(FIRST), ledger([*FIRST, *third])) == (12, died), "a site that joined is new"


# What a number is made of


def landmark(evidence: Evidence) -> list[Estimate]:
    return [e for e in evidence.estimates if e.analysis == "landmark_cox" and e.site is None]


def grown_outside(landmark_day: int) -> list[Person]:
    """Ten patients who end before the landmark, five of them dead: the cohort grows, its model does not."""
    days = range(10, 10 + 10)
    assert max(days) < landmark_day
    return [Person(f"early{d}", "north", born=1955, seen=d, died=d if d % 2 else None) for d in days]


def asking_at_a_landmark(nights: Nights, day: int = 90) -> None:
    nights.asking(
        landmarks=[day],
        analyses=[
            {"analysis": "naive_cox", "role": "contrast"},
            {"analysis": "time_dependent_cox", "role": "primary", "adjusted_for": ["age"]},
            {"analysis": "landmark_cox"},
        ],
    )


def test_a_model_whose_own_rows_grew_by_one_patient_is_withheld(nights: Nights) -> None:
    asking_at_a_landmark(nights)
    first = evidence_of(released(nights, FIRST))
    assert landmark(first)
    made = released(nights, [*FIRST, *grown_outside(90), replace(ONE, start=20)])
    second = evidence_of(made)
    assert made.withheld > 0
    assert landmark(second) == []
    assert [r.reason for r in second.refused if r.analysis == "landmark_cox"] == [TOO_NEAR]
    assert [e for e in second.estimates if e.role == "primary"], "what grew with the cohort leaves"
    kept = read_release_ledger(nights.workspace, STUDY, made.release)
    assert kept is not None
    assert kept.left is not None
    assert not [n for n in kept.left.numbers if n.kind.startswith("landmark_cox")]


def test_a_model_of_exactly_the_same_rows_leaves_again(nights: Nights) -> None:
    asking_at_a_landmark(nights)
    first = evidence_of(released(nights, FIRST))
    second = evidence_of(released(nights, [*FIRST, *grown_outside(90)]))
    (before,), (after,) = landmark(first), landmark(second)
    assert (after.estimate, after.se) == (before.estimate, before.se)


def test_a_landmark_moved_by_a_day_is_no_way_round(nights: Nights) -> None:
    asking_at_a_landmark(nights)
    assert landmark(evidence_of(released(nights, FIRST)))
    asking_at_a_landmark(nights, day=91)
    second = evidence_of(released(nights, [*FIRST, *grown_outside(90), replace(ONE, start=20)]))
    assert landmark(second) == []


@pytest.mark.parametrize(
    ("n", "events", "value", "detail", "protocol", "is_withheld"),
    [
        (50, 25, "new", "day 90", "p1", False),
        (49, 25, "new", "day 90", "p1", True),
        (50, 24, "new", "day 90", "p1", True),
        (40, 20, "then", "day 90", "p1", False),  # exactly as it was
        (40, 20, "corrected", "day 90", "p1", True),
        (30, 15, "other", "day 180", "p1", False),  # compared with itself, which had 20 and 10
        (30, 15, "other", "day 180", "p2", True),  # another protocol: with all of its kind
        (41, 21, "new", "day 91", "p1", True),  # nothing to compare with itself: with all of its kind
    ],
)
def test_a_number_is_held_against_those_it_may_be_subtracted_from(
    nights: Nights, n: int, events: int, value: str, detail: str, protocol: str, is_withheld: bool
) -> None:
    then = (Number("k", "day 90", 40, 20, "then"), Number("k", "day 180", 20, 10, "then"))
    kept = replace(ledger(FIRST), left=WhatLeft("p1", then))
    number = Number("k", detail, n, events, value)
    found = too_near(nights.workspace, [number], protocol, [Earlier(STUDY, "r1", kept)])
    assert (number in found) == is_withheld
    other = replace(number, kind="another analysis")
    assert not too_near(nights.workspace, [other], protocol, [Earlier(STUDY, "r1", kept)])


def test_a_release_of_an_older_rwe_counts_with_its_whole_cohort(nights: Nights) -> None:
    """It did not keep what its numbers were made of: of all 40 at most."""
    died = sum(p.died is not None for p in FIRST)
    sizes = [(50, died + 5), (49, died + 5), (50, died + 4)]
    found = [
        bool(too_near(nights.workspace, [Number("k", "", *s, "")], "p", [Earlier(STUDY, "r", ledger(FIRST))]))
        for s in sizes
    ]
    assert found == [False, True, True]


def test_the_looks_do_not_tell_what_the_estimates_withhold() -> None:
    inside = internal()
    assert inside.history is None
    leave = numbers_that_leave(inside)
    assert leave
    out = let_out(inside, withheld=frozenset(leave))
    assert not [e for e in out.estimates if e.estimate is not None]
    assert out.diagnostics is None
    assert out.bias_autopsy is None


def test_a_primary_answer_that_is_withheld_is_in_no_look(nights: Nights) -> None:
    """Five starters of many: the contrast is of few, so the history is silent about it, too."""
    few = [replace(p, start=None) for p in FIRST[:-3]] + [replace(p, start=20) for p in FIRST[-3:]]
    found = evidence_of(released(nights, few))
    assert not [e for e in found.estimates if e.contrast.reference is not None]
    assert found.history is not None
    look = found.history.looks[-1]
    numbers = (look.estimate, look.ci_low, look.ci_high, look.naive, look.always_low, look.always_high)
    assert numbers == (None,) * 6
    assert found.history.repeated is None
    assert "time_dependent_cox" in {r.analysis for r in found.refused if r.reason == TOO_FEW}


# Arms of few, and numbers that give counts back


def internal(**changes: Any) -> Evidence:
    return example.evidence().model_copy(update=changes)


def let_out(evidence: Evidence, withheld: frozenset[Number] = frozenset()) -> Evidence:
    return outward(evidence, "r", evidence.refresh.created_at, None, withheld)


def arms_of(treated: int) -> dict[str, int]:
    return {TREATED: treated, CONTROL: 300}


def each_estimate(treated: int) -> Iterator[Estimate]:
    for e in example.evidence().estimates:
        if e.site is None and e.parameters.salvage is None:
            yield e.model_copy(update={"n_by_strategy": arms_of(treated), "n": treated + 300})


@pytest.mark.parametrize("treated", range(1, FEW + 1))
def test_an_arm_of_few_is_in_no_estimate_and_no_contrast(treated: int) -> None:
    """Mean of the control arm plus the difference would be the mean of one patient."""
    out = let_out(internal(estimates=list(each_estimate(treated))))
    assert {e.contrast.strategy for e in out.estimates} <= {CONTROL}
    assert not [e for e in out.estimates if e.contrast.reference is not None]
    assert {r.reason for r in out.refused} >= {TOO_FEW}
    assert let_out(internal(estimates=list(each_estimate(50)))).estimates


def test_clones_do_not_hide_how_few_started_in_time() -> None:
    """Everybody has a clone in each arm; one patient alone started within the grace period."""
    cohort = example.evidence().cohort.model_copy(
        update={"n_by_strategy": {TREATED: 31, CONTROL: 300}, "started_after_grace": 30}
    )
    out = let_out(internal(cohort=cohort))
    assert "clone_censor_weight" not in {e.analysis for e in out.estimates if e.contrast.reference}
    shown = [c for c in out.curves if c.analysis == "clone_censor_weight"]
    assert TREATED not in {c.strategy for c in shown}
    assert out.bias_autopsy is not None
    assert "weighted" not in {s.step for s in out.bias_autopsy.steps}


def test_days_and_rates_of_few_stay_inside() -> None:
    whole = example.evidence()
    cohort = whole.cohort.model_copy(
        update={"n_by_strategy": arms_of(1), "person_days_by_strategy": {TREATED: 74.0, CONTROL: 9000.0}}
    )
    assert whole.bias_autopsy is not None
    assert whole.safety is not None
    autopsy = whole.bias_autopsy.model_copy(update={"starters": 1, "immortal_days": 87.0})
    one = whole.safety.rates[0].model_copy(update={"patients_at_risk": 1, "events": 1, "person_years": 0.24})
    safety = whole.safety.model_copy(update={"rates": [one]})
    out = let_out(internal(cohort=cohort, bias_autopsy=autopsy, safety=safety))
    assert out.cohort.person_days_by_strategy == {}
    assert out.bias_autopsy is None
    assert out.safety is not None
    assert out.safety.rates == []
    assert "Withheld from this release: rates of few patients." in out.safety.notes
    page = render_report(out)
    assert "Release: prepared to leave the sites" in page


def one_death_of(n: int) -> tuple[Curve, list[Estimate]]:
    """A curve of n patients with one death, and what is read off it exactly."""
    at = [
        CurvePoint(time_days=0.0, survival=1.0, ci_low=1.0, ci_high=1.0, at_risk=n, events=0),
        CurvePoint(time_days=100.0, survival=1 - 1 / n, ci_low=0.4, ci_high=0.99, at_risk=n, events=1),
        CurvePoint(time_days=400.0, survival=1 - 1 / n, ci_low=0.4, ci_high=0.99, at_risk=n - 1, events=0),
    ]
    curve = example.curve("landmark_kaplan_meier", TREATED, 0.001, 9, points=at)
    survival = example.estimate(
        analysis="landmark_kaplan_meier",
        estimand="survival",
        contrast=example.alone(TREATED, "started_by_landmark"),
        parameters=curve.parameters.model_copy(update={"time_days": 365}),
        estimate=1 - 1 / n,
        log_estimate=None,
        se=0.132,
        se_scale="natural",
        n=n,
        events=1,
        n_by_strategy=arms_of(n),
    )
    return curve, [survival]


@pytest.mark.parametrize("n", range(7, 13))
def test_a_survival_does_not_give_its_deaths_back(n: int) -> None:
    """0.857 with 9 patients is 1 of 7, and nothing else. The rounded curve says the same for 7 to 12."""
    curve, estimates = one_death_of(n)
    out = let_out(internal(curves=[curve], estimates=estimates))
    (found,) = out.estimates
    assert found.estimate == pytest.approx(1 - midpoint_6(1) / midpoint_6(n), abs=1e-4)
    assert found.estimate == pytest.approx(out.curves[0].points[-1].survival)
    assert (found.se, found.ci_low, found.ci_high, found.log_estimate) == (None,) * 4


def test_a_median_is_where_the_rounded_curve_falls_to_a_half() -> None:
    """One of 20 dies a day: the exact curve halves on day 10; the rounded one (18 / 21, times 9 / 15, times
    3 / 9) on day 13."""
    at = [
        CurvePoint(time_days=float(d), survival=1 - d / 20, ci_low=0.1, ci_high=0.9, at_risk=21 - d, events=1)
        for d in range(1, 15)
    ]
    curve = example.curve("landmark_kaplan_meier", TREATED, 0.001, 9, points=at)
    median = example.estimate(
        analysis="landmark_kaplan_meier",
        estimand="median_days",
        contrast=example.alone(TREATED, "started_by_landmark"),
        parameters=curve.parameters,
        estimate=10.0,
        n=20,
        n_by_strategy=arms_of(20),
    )
    (found,) = let_out(internal(curves=[curve], estimates=[median])).estimates
    assert (found.estimate, found.ci_low, found.ci_high) == (13.0, None, None)


def test_a_restricted_mean_of_few_is_withheld_and_of_many_has_two_digits() -> None:
    means = [e for e in example.evidence().estimates if e.estimand == "rmst_days" and e.estimate == 318.0]
    sizes = {19: [], 20: [320.0]}
    for n, told in sizes.items():
        sized = [e.model_copy(update={"n": n, "n_by_strategy": arms_of(n)}) for e in means]
        assert [e.estimate for e in let_out(internal(estimates=sized)).estimates] == told


def test_means_of_few_and_of_noughts_and_ones_do_not_give_counts_back() -> None:
    """0.143 with 9 patients is 1 of 7."""
    row = example.evidence().baseline[0].model_copy(
        update={"level": None, "strategy": TREATED, "n": 7, "mean": 1 / 7, "sd": 0.378, "median": 0.0,
                "q1": 0.0, "q3": 0.0, "smd_before": 0.123, "smd_after": 0.02}
    )  # fmt: skip
    yes = let_out(internal(baseline=[row])).baseline[0]
    assert (yes.n, yes.mean) == (9, 0.33), "3 of 9, as the rounded counts say"
    assert (yes.sd, yes.median, yes.q1, yes.q3, yes.smd_before, yes.smd_after) == (None,) * 6
    lines = row.model_copy(update={"mean": 22 / 7, "sd": 1.234, "median": 3.0, "q1": 2.0, "q3": 4.0})
    few = let_out(internal(baseline=[lines])).baseline[0]
    assert (few.mean, few.sd, few.median, few.q1, few.q3, few.smd_before) == (None,) * 6
    many = let_out(internal(baseline=[lines.model_copy(update={"n": 20})])).baseline[0]
    assert (many.mean, many.sd, many.smd_before) == (3.1, 1.2, 0.12)


def test_the_sequence_of_a_release_gives_neither_score_nor_information_back(nights: Nights) -> None:
    found = evidence_of(released(nights, FIRST)).history
    assert found is not None
    assert found.repeated is not None
    r = found.repeated
    hidden = (r.estimate, r.one_look_low, r.one_look_high, r.score, r.information)
    assert hidden == (None,) * 5
    limits = [x for x in (r.ci_low, r.ci_high) if x is not None]
    assert limits
    assert all(x == float(f"{x:.1e}") for x in limits)


# What else may not leave


def test_no_rounded_difference_is_offered_for_handing_on(nights: Nights) -> None:
    """A rounded difference of two nights has no minimum: only a release leaves."""
    analyse(nights.workspace, nights.study)
    nights.now = tables([*FIRST, ONE])
    analyse(nights.workspace, nights.study)
    asked = ["diff", "#1", "latest", "--rounded", "-w", str(nights.workspace.root)]
    assert CliRunner().invoke(app, asked).exit_code == 2


def test_the_ledgers_lie_in_folders_of_their_owner_alone(tmp_path: Path, nights: Nights) -> None:
    """At a hub of shares alone nothing has made private/ before the first analysis."""
    before = os.umask(0o022)
    try:
        shutil.rmtree(nights.workspace.private)
        released(nights, FIRST)
    finally:
        os.umask(before)
    private = nights.workspace.private
    folders = [private, *(p for p in private.rglob("*") if p.is_dir())]
    assert {private / "history" / STUDY / "releases"} <= set(folders)
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} == {0o700}
