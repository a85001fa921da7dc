"""What the report shows beside its curves: autopsy, lock, diagnostics, safety, kinetics; all estimands."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, get_args
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.evidence.contract import AnalysisKind, Contrast, Estimand, Parameters, groups_of
from rwe.evidence.parts import BiasAutopsy, CopiesTrace, EventRate, Kinetics, Safety, TippingPoint
from rwe.report import (
    autopsy,
    contrasts,
    curves,
    diagnostics,
    estimates,
    figures,
    forest,
    kinetics,
    render_report,
    safety,
    words,
)
from rwe.report import lock as locks
from rwe.report import names as naming
from tests.unit import evidence_example as example
from tests.unit.evidence_example import CONTROL, TREATED, estimate, evidence

PROTOCOL = naming.protocol_of(example.evidence())
NAMES = replace(naming.names_of(PROTOCOL), strategies={TREATED: "Drug", CONTROL: "No drug"})
SVG = "{http://www.w3.org/2000/svg}"


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text).replace("\u202f", " "))


def texts(svg: str) -> str:
    return " ".join("".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")).replace(
        "\u202f", " "
    )


# Estimates of every kind


def test_every_analysis_and_every_estimand_has_a_name() -> None:
    assert set(naming.ANALYSES) == set(get_args(AnalysisKind))
    assert set(naming.ESTIMANDS) == set(get_args(Estimand))


@pytest.mark.parametrize("estimand", get_args(Estimand))
@pytest.mark.parametrize("reference", [CONTROL, None])
def test_every_estimand_has_one_place_alone_and_compared(estimand: str, reference: str | None) -> None:
    contrast = Contrast(strategy=TREATED, reference=reference, groups="started_so_far")
    one = estimate(estimand=estimand, contrast=contrast, effect_type="marginal", warnings=["WARNED of it"])
    kinds = estimates.estimates(evidence(estimates=[one]), NAMES).kinds
    assert [len(k.rows) for k in kinds] == [1]
    assert kinds[0].is_one_arm is (reference is None)
    row = kinds[0].rows[0]
    assert "marginal" in row.quantity
    assert row.warnings == ("WARNED of it",)


@pytest.mark.parametrize("kind", get_args(AnalysisKind))
def test_a_page_of_any_analysis_alone_holds_its_name_and_its_number(kind: AnalysisKind) -> None:
    one = estimate(analysis=kind, is_biased=kind.startswith("naive_"), estimate=0.437)
    parts = dict.fromkeys(("diagnostics", "bias_autopsy", "safety", "kinetics", "protocol_lock"))
    page = plain(render_report(evidence(estimates=[one], curves=[], **parts)))
    assert naming.ANALYSES[kind] in page
    assert "0.44 (0.52 to 0.97)" in page
    assert "biased: immortal time" in page or not one.is_biased


def test_numbers_stand_on_the_scale_of_their_estimand() -> None:
    shown: dict[Estimand, str] = {
        "survival_difference": "\u221212.5 points",
        "rmst_difference_days": "\u22120.1 days (0.0 months)",
    }
    for estimand, said in shown.items():
        assert estimates.natural(estimate(estimand=estimand), -0.125) == said
    assert estimates.natural(estimate(estimand="rmst_difference_days"), 30.4375) == "+30.4 days (+1.0 months)"
    assert estimates.natural(estimate(estimand="survival_ratio"), 1.053) == "1.05"
    assert estimates.natural(estimate(estimand="p_value"), 0.00004) == "<\u202f0.001"
    assert estimates.natural(estimate(estimand="cumulative_incidence"), 0.314) == "31.4\u202f%"
    assert estimates.limits(estimate(estimand="rmst_difference_days", ci_low=-8.0, ci_high=29.0)) == (
        "95\u202f% CI \u22128.0 days to +29.0 days"
    )


def test_days_and_shares_stand_beside_their_difference() -> None:
    rows = {(r.analysis, r.what): r for r in contrasts.absolute(evidence(), NAMES)}
    gained = rows["", "Mean survival within 730 days"]
    assert gained.arms == ("541.2 days", "518.9 days")
    assert gained.difference == "+22.3 days"
    alive = rows["Clone-censor-weight", "Survival at day 365"]
    assert (alive.arms, alive.difference) == (("71.0\u202f%", "67.4\u202f%"), "+3.6 points")
    last = contrasts.absolute(evidence(), NAMES)[-1]
    assert last.is_biased
    assert last.arms == ("not given", "not given")


def test_competing_events_have_a_table_and_no_place_in_the_forest() -> None:
    rows = contrasts.competing(evidence(), NAMES)
    assert [r.event for r in rows] == ["Relapse", "Death without relapse"]
    assert rows[0].incidence == ("Day 365: 31.0\u202f% against 36.0\u202f%",)
    assert rows[0].cause_specific == "0.82 (0.60 to 1.30)"
    assert rows[0].subdistribution == "0.85 (0.61 to 1.33)"
    in_forest = [r.text for g in forest.forest_groups(evidence(), NAMES) for r in g.rows]
    assert "0.85 (0.61 to 1.33)" not in in_forest


def test_the_forest_groups_emulated_strategies_and_marks_what_is_post_hoc() -> None:
    groups = {g.title: [r.label for r in g.rows] for g in forest.forest_groups(evidence(), NAMES)}
    emulated = groups["Strategies emulated from time zero, all sites"]
    assert [label.split(":")[0] for label in emulated] == [
        "Clone-censor-weight",
        "Clone-censor-weight",
        "Sequential target trials",
        "Marginal structural model",
    ]
    assert "against never starting" in emulated[1]
    assert any(label.startswith("POST HOC") for label in groups["Time-dependent exposure, all sites"])
    assert any(label.startswith("Firth penalty") for label in groups["Landmark analyses, all sites"])
    assert len(groups["Another outcome: progression-free survival, all sites"]) == 1
    assert all(label.startswith("BIASED") for label in groups["Naive comparison (biased: immortal time)"])


def test_two_analyses_with_the_same_rules_are_two_figures_of_different_names() -> None:
    twice = [example.followed(arm, rate, "never") for rate in (0.001, 0.002) for arm in (TREATED, CONTROL)]
    found = curves.curve_sets(evidence(curves=twice), NAMES)
    assert [len(s.curves) for s in found] == [2, 2]
    assert found[1].title == f"{found[0].title} (2)"
    assert [s.is_wide for s in found] == [True, False]
    assert not found[0].has_bands


def test_curves_of_weighted_landmarks_restart_their_clock_and_name_their_weights() -> None:
    rules = Parameters(landmark_day=90, time_origin_day=90, weight_model="iptw", adjusted_for=["age"])
    drawn = [
        example.curve("landmark_weighting", arm, 0.001, 50, parameters=rules) for arm in (CONTROL, TREATED)
    ]
    document = evidence(curves=drawn)
    shown = curves.curve_sets(document, NAMES)[0]
    assert shown.title == "Landmark weighting, day 90, inverse-probability weights"
    assert shown.axis_label == "Months since day 90"
    assert "Number at risk (copies" not in texts(curves.curves_svg(shown, NAMES))
    copies = curves.curve_sets(evidence(curves=[example.followed(TREATED, 0.001, "never")]), NAMES)[0]
    assert "Number at risk (copies, not weighted)" in texts(curves.curves_svg(copies, NAMES))
    page = plain(render_report(document))
    assert "Weighted: groups alike in the covariates" in page
    assert "had everybody followed the strategy" not in page


def test_a_primary_emulation_is_answered_by_its_strategies() -> None:
    rules = Parameters(adjusted_for=["age", "responding"], grace_days=180, compared_with="no_start_by_grace")
    primary = estimate(
        analysis="clone_censor_weight", role="primary", effect_type="marginal", parameters=rules
    )
    said = " ".join(words.answer(evidence(estimates=[primary]), NAMES))
    assert "under “Drug: start by day 180” was 0.71 times that under “Drug: no start by day 180”" in said
    assert "weighted for age at index (years) and in response" in said
    assert "among the covariates in the weights" in said
    assert "is not part of this ratio" not in said, "weights do not condition on what a start changed"


def test_sensitivities_do_not_stand_in_for_the_naive_and_the_crude_ratio() -> None:
    other = Parameters(endpoint="progression_free_survival")
    salvage = Parameters(salvage="counts_as_start")
    found = [
        estimate(analysis="naive_cox", is_biased=True, estimate=0.11, parameters=other),
        estimate(analysis="naive_firth", is_biased=True, estimate=0.22),
        estimate(estimate=0.33, parameters=salvage),
        estimate(estimate=0.44),
    ]
    said = " ".join(words.naive_sentences(evidence(estimates=found)))
    assert "gives 0.22" in said
    assert "it is 0.44" in said


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    st.lists(st.sampled_from("ML"), min_size=30, max_size=30),
)
def test_a_shortened_path_goes_through_the_same_points(
    points: list[tuple[int, int]], letters: list[str]
) -> None:
    path = "\n".join(f"{'M' if i == 0 else letters[i]} {x} {y}" for i, (x, y) in enumerate(points))
    at, seen = (0, 0), []
    for command in figures._straight(path).splitlines():
        numbers = [int(n) for n in command[1:].split()]
        at = {"H": (numbers[0], at[1]), "V": (at[0], numbers[0])}.get(command[0], tuple(numbers))  # type: ignore[assignment]
        seen.append(at)
    assert seen == points


# The bias autopsy


def test_the_autopsy_says_how_many_days_whose_and_what_they_did() -> None:
    shown = autopsy.autopsy(example.autopsy(), "deaths", 0.95)
    said = plain(" ".join(shown.sentences))
    assert "231 patients started" in said
    assert "24 310 days in all (66.6 person-years)" in said  # 24310.5 / 365.25
    assert "21.0 % of all the days that it counts as treated" in said
    assert "Half of the starters waited 98 days or more (quartiles 51 and 140.5)" in said
    assert "With immortal time the hazard ratio is 0.20; without it, 0.79." in said
    assert [(s.site, s.starters, s.days, s.each) for s in shown.sites][2] == ("gamma", "5", "500", "100")
    assert [s.change for s in shown.steps] == [
        "biased",
        "bias removed",
        "bias removed",
        "bias removed",
        "estimand changed",
    ]
    assert shown.steps[1].ratio == "0.41 (0.30 to not estimable)"


def test_the_bar_of_immortal_days_leaves_the_days_that_were_treated() -> None:
    svg = autopsy.days_svg(example.autopsy())
    assert svg is not None
    said = texts(svg)
    assert "24 310 immortal days, before the start (21 %)" in said
    # The cohort's person-days while exposed; 24310.5 / 0.2104 - 24310.5 from the shares alone.
    assert "91 234 days after the start" in said


def test_every_step_of_the_autopsy_is_drawn_with_its_label_and_number() -> None:
    found = example.autopsy()
    said = texts(autopsy.steps_svg(found, "deaths", 0.95))
    for step in found.steps:
        assert step.label in said
    assert said.count("BIAS REMOVED") == 3
    assert said.count("ESTIMAND CHANGED") == 1
    assert "0.86 (0.71 to 1.04)" in said


def without_starters() -> BiasAutopsy:
    steps = [
        s.model_copy(
            update={"hazard_ratio": None, "ci_low": None, "ci_high": None, "warnings": ["nobody started"]}
        )
        for s in example.autopsy().steps
    ]
    changes: dict[str, Any] = dict.fromkeys(("share_of_treated_days", "days_q1", "days_median", "days_q3"))
    changes |= {
        "starters": 0,
        "immortal_days": 0.0,
        "days_by_site": {},
        "starters_by_site": {},
        "steps": steps,
    }
    return example.autopsy().model_copy(update=changes)


def test_an_autopsy_without_starters_says_so_and_draws_nothing() -> None:
    shown = autopsy.autopsy(without_starters(), "deaths", 0.95)
    assert shown.sentences == ("Nobody started, so no day is immortal and there is nothing to give away.",)
    assert shown.figure is None
    assert shown.days_figure is None
    page = plain(render_report(evidence(bias_autopsy=without_starters())))
    assert page.count("Nobody started.") == 5, "the warning of each step"


# The lock


@pytest.mark.parametrize(
    ("status", "changed", "said"),
    [
        ("unlocked", [], "The protocol was not locked before this analysis"),
        ("locked", [], "locked on 2025-05-02 under the registration EUPAS100000. It was amended once"),
        ("changed", ["analyses", "codelists"], "differs from the locked one in: analyses and codelists."),
    ],
)
def test_the_page_says_where_the_protocol_stands(status: str, changed: list[str], said: str) -> None:
    summary = example.lock(status, changed)
    if status == "unlocked":
        summary = summary.model_copy(update={"log": [], "registration": None})
    page = plain(render_report(evidence(protocol_lock=summary)))
    assert said in page
    assert ("grace period as the pharmacists advised" in page) is (status != "unlocked")
    assert page.lower().count("post hoc") >= 2, "the estimate outside the lock is marked wherever it stands"


def test_an_analysis_outside_the_lock_is_no_answer_but_is_told() -> None:
    parameters = Parameters(adjusted_for=example.ADJUSTED, stratified_by=["site"])
    document = evidence(
        estimates=[estimate(role="posthoc", asked_role="primary", parameters=parameters)],
        protocol_lock=example.lock("changed", ["eligibility"]),
    )
    shown = locks.lock(document)
    assert shown is not None
    assert shown.badge == "Protocol changed after its lock of 2025-09-01, registration EUPAS100000"
    assert shown.sentences[-1] == "1 estimate is outside the lock and marked post hoc."
    said = words.answer(document, NAMES, words.posthoc_sentences(document, PROTOCOL))
    assert "stays unanswered" in said[0]
    assert "post hoc: it gives a hazard ratio of 0.71 (0.52 to 0.97)" in said[1]


# Diagnostics


def shown_diagnostics() -> diagnostics.DiagnosticsShown:
    return diagnostics.diagnostics(example.diagnostics(), NAMES, PROTOCOL)


def test_an_empty_cell_is_marked_as_no_positivity() -> None:
    shown = shown_diagnostics()
    assert [r.is_zero for r in shown.positivity] == [False, True, False]
    assert shown.positivity_note.startswith("1 kind of patient was seen on one side only")
    assert "nobody to compare with" in plain(render_report(evidence()))
    full = example.diagnostics().model_copy(update={"positivity": example.diagnostics().positivity[:1]})
    assert diagnostics.diagnostics(full, NAMES, PROTOCOL).positivity_note.startswith(
        "One covariate at a time, no cell"
    )


@pytest.mark.parametrize(
    ("limit", "said"), [(1.16, "1.16 would do"), (1.0, "holds 1 already"), (None, "open towards 1")]
)
def test_the_e_value_comes_with_that_of_its_limit(limit: float | None, said: str) -> None:
    found = example.diagnostics().unmeasured_confounding
    assert found is not None
    first, second = diagnostics.confounding_sentences(found.model_copy(update={"e_value_limit": limit}))
    assert first.startswith("E-value 1.87: ")
    assert said in second


def test_the_bias_array_is_a_table_of_uneven_confounders() -> None:
    array = shown_diagnostics().array
    assert array.strengths == ("1.5", "3")
    assert [(t, c) for t, c, *_ in array.rows] == [("10\u202f%", "50\u202f%"), ("50\u202f%", "10\u202f%")]
    # Schlesselman's factor of a confounder of 3 in 10 % against 50 %: (1 + 0.5·2) / (1 + 0.1·2), of 0.712.
    assert array.rows[0][2][1].startswith("1.19 (")
    # (1 + 0.1 g) / (1 + 0.5 g) is 0.712 at g = 0.288 / 0.256: a hazard ratio of 2.125 leaves nothing.
    found = example.diagnostics().unmeasured_confounding
    assert found is not None
    tip = found.tipping_points[0].for_estimate
    assert tip == pytest.approx(1 + 0.288 / 0.256)
    assert [row[3] for row in array.rows] == ["2.12; interval 1.00", ""]


def test_weights_name_their_effective_size_treated_first() -> None:
    rows = shown_diagnostics().weights.rows
    assert [r.strategy for r in rows] == ["Drug", "No drug"]
    assert rows[0].effective == "96.2 (51\u202f%)"
    assert shown_diagnostics().weights.percentiles == ("1", "50", "99")


@pytest.mark.parametrize(
    ("group", "deaths", "said"),
    [
        ("exposed", 11, "“Drug: started” looks better off"),
        ("unexposed", None, "Even if all its 153 censored patients"),
        ("exposed", 0, "finds no difference as it is"),
    ],
)
def test_lost_deaths_in_words(group: str, deaths: int | None, said: str) -> None:
    point = TippingPoint(group=group, deaths=deaths, censored=153)
    found = example.diagnostics().model_copy(update={"lost_deaths": point})
    assert said in diagnostics.diagnostics(found, NAMES, PROTOCOL).lost


def test_all_other_diagnostics_are_on_the_page() -> None:
    page = plain(render_report(evidence()))
    for said in (
        "The treatment itself 1.20 1 0.270",
        "All together 9.80 4 0.044",
        "46 of 50 (92 %) 0.69 0.68 (0.44 to 1.01)",
        "the power is 80 % to find a hazard ratio of 0.72 or lower, or of 1.38 or higher",
        "Older: age at index (years)",
        "65 and above 342 178 not estimable",
        "Few events in one level.",
        "Misclassified deaths: no chart of a death was reviewed.",
    ):
        assert said in page, said


# Safety and kinetics


def test_rates_come_treated_first_and_without_person_time_there_is_none() -> None:
    rows = safety.rates(example.safety(), NAMES)
    assert [(r.event, r.strategy) for r in rows[:2]] == [
        ("Neutropenia, grade 3 or 4", "Drug: started"),
        ("", "Drug: not (yet) started"),
    ]
    assert (rows[2].rate, rows[2].interval) == ("not estimable", "not estimable")
    assert (rows[3].rate, rows[3].interval) == ("0.12", "0.06 to 0.24")


def test_a_rate_of_zero_stays_zero() -> None:
    never = EventRate(
        event="x", strategy=TREATED, patients_at_risk=9, events=0, person_years=7.5, rate_per_100_years=0.0,
        ci_low=0.0, ci_high=49.2,
    )  # fmt: skip
    row = safety.rates(Safety(rates=[never], notes=[]), NAMES)[0]
    assert (row.rate, row.interval) == ("0.0", "0.0 to 49.2")


def test_traces_are_drawn_on_a_log_axis_with_zero_below_the_smallest() -> None:
    found = example.kinetics()
    svg = kinetics.traces_svg(found, NAMES)
    assert svg is not None
    said = texts(svg)
    assert "Drug: ever started (n = 6)" in said
    assert "Drug: never started (n = 7)" in said
    assert "10 000" in said
    assert "copies/ug" in said
    assert "not detected" in said
    detected = [t.model_copy(update={"copies": [v + 1 for v in t.copies]}) for t in found.traces]
    other = kinetics.traces_svg(found.model_copy(update={"traces": detected}), NAMES)
    assert other is not None
    assert "not detected" not in texts(other)


def test_an_event_lies_on_the_line_between_two_measurements() -> None:
    trace = CopiesTrace(
        strategy=TREATED, days=[0, 10], copies=[10.0, 1000.0], start_day=5, progression_day=11
    )
    # Straight on the log axis: half of the way in days is the geometric mean.
    assert kinetics._between(trace, 5, 1.0) == pytest.approx(math.sqrt(10.0 * 1000.0))
    assert kinetics._between(trace, 10, 1.0) == pytest.approx(1000.0)


def test_many_traces_stay_small() -> None:
    one = example.kinetics().traces[0]
    shifted = [
        one.model_copy(update={"days": [d + i for d in one.days], "copies": [v + i for v in one.copies]})
        for i in range(900)
    ]
    svg = kinetics.traces_svg(example.kinetics().model_copy(update={"traces": shifted}), NAMES)
    assert svg is not None
    assert len(svg) < 400_000


def test_single_patients_stay_out_of_a_release() -> None:
    internal, release = (plain(render_report(evidence(audience=a))) for a in ("internal", "release"))
    assert "day 131" in internal
    assert "Copies over time" in internal
    assert "day 131" not in release
    assert "Copies over time" not in release
    assert "Single traces and cases are not shown in a release." in release
    assert "52 000 [18 000, 81 000]" in release


def test_kinetics_without_a_measurement_say_so() -> None:
    nothing = Kinetics(
        unit="{copies}/ug",
        summaries=[],
        traces=[],
        case_series=[],
        notes=["Nobody was measured"],
        traces_apart=0,
        cases_apart=0,
    )
    page = plain(render_report(evidence(kinetics=nothing)))
    assert "Nobody was measured." in page
    assert "Nobody relapsed, started the exposure after it and responded again." in page


def test_groups_of_every_analysis_are_named() -> None:
    at = Parameters(grace_days=90, compared_with="never", landmark_day=60)
    said = {
        kind: NAMES.group(CONTROL, Contrast(strategy=TREATED, reference=CONTROL, groups=groups_of(kind)), at)
        for kind in get_args(AnalysisKind)
    }
    assert said["clone_censor_weight"] == "Drug: never start"
    assert said["landmark_aiptw"] == "Drug: not started by day 60"
    assert said["naive_rmst"] == "Drug: never started"
    emulated = estimate(analysis="clone_censor_weight", effect_type="marginal", parameters=at)
    rows = estimates.estimates(evidence(estimates=[emulated]), NAMES).kinds[0].rows
    assert rows[0].quantity == "Hazard ratio, marginal: start by day 90 against never start"
    assert said["sequential_trials"] == "Drug: not (yet) started"
