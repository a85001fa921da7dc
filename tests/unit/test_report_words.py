"""The report's sentences and numbers: careful words, nothing rounded across a meaning."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.errors import EvidenceError
from rwe.evidence.contract import Contrast, Parameters
from rwe.report import formats, tables, words
from rwe.report import names as naming
from rwe.report.specification import criterion_words, specification, window_words
from rwe.study import AgeCriterion, EventCriterion, PeriodCriterion, Window
from tests.unit.evidence_example import CONTROL, DIVERGED, ODD_LABEL, TREATED, estimate, evidence, protocol

NAMES = naming.Names(TREATED, CONTROL, {TREATED: "Drug", CONTROL: "No drug"}, {})
STATUS = replace(NAMES, statuses=frozenset({"responding"}))
COMPOSITE = replace(NAMES, composite=("second_event",))


def answer_to(**changes: object) -> str:
    document = evidence(estimates=[estimate(role="primary", **changes)])
    return " ".join(words.answer(document, NAMES)).replace("\u202f", " ")


def test_an_interval_below_one_reads_as_consistent_with_a_lower_hazard() -> None:
    said = answer_to()
    assert "Among 842 patients with 418 deaths" in said
    assert "was 0.71 times that" in said
    assert "95 % CI 0.52 to 0.97" in said
    assert "consistent with a hazard from 3 % lower to 48 % lower" in said


def test_an_interval_across_one_claims_neither_benefit_nor_harm() -> None:
    said = answer_to(estimate=0.9, ci_low=0.7, ci_high=1.16)
    assert "anything from a hazard 30 % lower to one 16 % higher" in said
    assert "neither a benefit nor its absence" in said


def test_an_interval_above_one_reads_as_a_higher_hazard() -> None:
    said = answer_to(estimate=1.9, ci_low=1.2, ci_high=3.04)
    assert "consistent with a hazard from 20 % higher to 3.04 times as high" in said


@given(low=st.floats(0.01, 30), width=st.floats(1.0, 20))
def test_no_answer_claims_proof(low: float, width: float) -> None:
    said = answer_to(estimate=low * width**0.5, ci_low=low, ci_high=low * width).lower()
    assert "observational" in said
    assert not any(claim in said for claim in ("proves", "proven", "significant", "causes", "effective"))


def test_an_answer_without_adjustment_says_so() -> None:
    assert "without adjustment" in answer_to()


def test_a_primary_estimate_that_diverged_is_not_estimable_and_says_why() -> None:
    said = answer_to(estimate=None, ci_low=None, ci_high=None, status="did_not_converge", warnings=[DIVERGED])
    assert "not estimable" in said
    assert "No death among the exposed" in said


def test_an_answer_without_a_number_speaks_of_the_cohort_not_of_an_empty_model() -> None:
    said = answer_to(
        estimate=None, n=0, events=0, status="refused", warnings=["no patient has all covariates"]
    )
    assert "In the cohort of 842 patients with 418 deaths" in said
    assert "Among 0 patients" not in said


def test_patients_dropped_from_the_model_show_against_the_cohort() -> None:
    assert "Among 786 of the cohort's 842 patients" in answer_to(n=786)


def test_the_groups_are_not_called_by_strategies_that_they_do_not_follow() -> None:
    said = answer_to()
    assert "under “Drug: started” was 0.71 times that under “Drug: not (yet) started”" in said
    landmark = answer_to(analysis="landmark_cox", parameters=Parameters(landmark_day=60))
    assert "under “Drug: started by day 60” was" in landmark
    assert "under “Drug: not started by day 60”" in landmark
    ever = Contrast(strategy=TREATED, reference=CONTROL, groups="ever_started")
    assert NAMES.group(CONTROL, ever) == "Drug: never started"


def test_the_day_of_a_landmark_is_part_of_the_answer() -> None:
    how = answer_to(analysis="landmark_cox", parameters=Parameters(landmark_day=60))
    assert "Landmark Cox model, day 60, unadjusted." in how


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status_after_start": "follow"}, "an effect through delaying progression is not part"),
        ({"status_after_start": "freeze"}, "on the day of each start, in both groups; whoever starts later"),
        ({"landmark_day": 60}, "Status at the landmark is adjusted for"),
    ],
)
def test_adjusting_for_status_after_the_start_is_confessed(changes: dict[str, Any], said: str) -> None:
    parameters = Parameters(adjusted_for=["age", "responding"], **changes)
    sentences = words.answer(evidence(estimates=[estimate(role="primary", parameters=parameters)]), STATUS)
    assert any(said and said in s for s in sentences) is bool(said)
    assert any("Status" in s for s in sentences) is bool(said)
    other = estimate(role="primary", parameters=parameters.model_copy(update={"adjusted_for": ["age"]}))
    assert words.status_sentences(other, STATUS) == ()


def test_events_of_a_composite_are_never_called_deaths() -> None:
    document = evidence(estimates=[estimate(role="primary")])
    cohort = document.cohort.model_copy(update={"deaths_by_strategy": {TREATED: 40, CONTROL: 200}})
    document = document.model_copy(update={"cohort": cohort})
    said = " ".join(words.answer(document, COMPOSITE))
    assert "with 418 events, the hazard of death or second event under" in said
    assert "deaths" not in said
    numbers = {k.label: k for k in tables.key_numbers(document, COMPOSITE)}
    assert "Deaths" not in numbers
    assert (numbers["Events"].value, numbers["Events"].detail) == (
        "418",
        "78 while exposed; 240 of the events are deaths",
    )
    treated, _ = tables.follow_up(document, COMPOSITE)
    assert (treated.events, treated.deaths) == ("78", "40")


def test_the_protocol_decides_what_the_events_are_called() -> None:
    content = protocol()
    content["intercurrent_events"][0]["handling"] = "composite"
    document = evidence(protocol=content)
    names = naming.names_of(naming.protocol_of(document))
    assert (names.events, names.outcome) == ("events", "death or second event")
    elements = {e.name: e for e in specification(document, naming.protocol_of(document))}
    assert (
        elements["Outcome"].trial[0].startswith("Event-free survival: death from any cause or second event")
    )
    assert elements["Contrast and analysis"].trial == (
        "Hazard of death or second event between the strategies",
    )
    assert naming.names_of(naming.protocol_of(evidence())).events == "deaths"


def test_late_starts_are_counted_where_the_groups_are() -> None:
    assert (
        "231 ever started, 110 of them after the grace period"
        in tables.key_numbers(evidence(), NAMES)[0].detail
    )
    document = evidence()
    strategies = specification(document, naming.protocol_of(document))[2].emulation
    assert any("110 of the 231 who started did so after the grace period (day 180)" in s for s in strategies)
    assert any("5 started before progression and continued or resumed after it" in s for s in strategies)


@pytest.mark.parametrize(
    ("origin", "said"), [(60, "365 days after the landmark"), (0, "at day 365"), (None, "at day 365")]
)
def test_the_clock_of_a_survival_is_named(origin: int | None, said: str) -> None:
    one = Contrast(strategy=TREATED, reference=None, groups="started_by_landmark")
    parameters = Parameters(landmark_day=origin or None, time_days=365, time_origin_day=origin)
    e = estimate(analysis="landmark_kaplan_meier", estimand="survival", contrast=one, parameters=parameters)
    assert said in words.description(e, NAMES)


def test_an_open_interval_is_not_read_as_a_closed_one() -> None:
    assert "open to one side" in answer_to(ci_high=None)
    assert "No interval can be given" in answer_to(ci_low=None, ci_high=None)


def test_warnings_of_the_primary_estimate_stand_beside_it() -> None:
    assert "Warning: Fewer than 5 events." in answer_to(warnings=["fewer than 5 events"])


def test_without_a_primary_estimate_the_question_stays_unanswered() -> None:
    document = evidence(estimates=[estimate(role="primary", site="alpha"), estimate()])
    assert "unanswered" in words.answer(document, NAMES)[0]


def test_the_naive_figure_is_named_as_biased() -> None:
    said = " ".join(words.naive_sentences(evidence()))
    assert "ever with never started gives 0.20 (95\u202f% CI 0.16 to 0.26)" in said
    assert "immortal time counts as treated" in said


def test_immortal_time_is_not_blamed_for_what_confounding_did() -> None:
    crude, naive = estimate(estimate=0.29), estimate(analysis="naive_cox", estimate=0.16, is_biased=True)
    adjusted = estimate(role="primary", estimate=0.66, parameters=Parameters(adjusted_for=["age"]))
    said = words.naive_sentences(evidence(estimates=[adjusted, crude, naive]))
    assert [re.search(r"0\.\d\d", s).group() for s in said[:3]] == ["0.16", "0.29", "0.66"]  # type: ignore[union-attr]
    assert "still confounded" in said[1]
    assert len(words.naive_sentences(evidence(estimates=[naive]))) == 2


@given(st.floats(0.0005, 5000).filter(lambda v: v != 1))
def test_a_printed_ratio_stays_on_its_side_of_one(value: float) -> None:
    shown = formats.ratio(value)
    if abs(value - 1) >= 0.0006 and "<" not in shown:
        assert (float(shown.replace("\u202f", "")) < 1) == (value < 1)


def test_null_is_never_a_number() -> None:
    for show in (
        formats.ratio,
        formats.decimal,
        formats.percent,
        formats.p_value,
        formats.days,
        formats.months,
    ):
        assert show(None) == "not estimable"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0312, "0.031"),
        (0.0001, "<\u202f0.001"),
        (0.998, "0.998"),
        (1.0, "1.00"),
        (23.44, "23.4"),
        (1234.0, "1\u202f234"),
    ],
)
def test_ratios_keep_the_digits_that_matter(value: float, shown: str) -> None:
    assert formats.ratio(value) == shown


def test_days_carry_their_months() -> None:
    assert formats.days(365.25) == "365.2 days (12.0 months)"
    assert formats.days(60.875) == "60.9 days (2.0 months)"


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (Window(from_day=-30, to_day=0), "from day −30 to day 0"),
        (Window(from_day=None, to_day=0), "up to day 0"),
    ],
)
def test_windows_in_words(window: Window, said: str) -> None:
    assert window_words(window) == said


def test_criteria_in_words() -> None:
    age = AgeCriterion(kind="age_at_index", name="adult", min_years=18)
    absent = EventCriterion(kind="condition", name="x", codelist="other_cancer", must_be="absent")
    period = PeriodCriterion.model_validate(
        {"kind": "index_period", "name": "p", "not_before": "2019-01-01", "not_after": "2024-12-31"}
    )
    assert criterion_words(age) == "Age at time zero at least 18 years"
    assert criterion_words(absent) == "Not recorded: condition of code list other_cancer, up to day 0"
    assert criterion_words(period) == "Time zero not before 2019-01-01 and not after 2024-12-31"


def test_the_target_trial_names_every_element_and_its_emulation() -> None:
    document = evidence()
    elements = {e.name: e for e in specification(document, naming.protocol_of(document))}
    assert {"Eligibility", "Time zero", "Treatment strategies", "Assignment", "Outcome", "Follow-up"} <= set(
        elements
    )
    assert (
        "start by day 180 (inclusive), unless the disease has progressed first"
        in elements["Treatment strategies"].trial[0]
    )
    assert (
        "New users: no record (orders included) of code list drug in the 180 days before time zero"
        in elements["Eligibility"].trial
    )
    assert any(
        "37 first started after progression: salvage" in line
        for line in elements["Treatment strategies"].emulation
    )
    assert elements["Assignment"].emulation[0].startswith("Not at random. Taken as comparable given age")
    assert elements["Follow-up"].emulation == ("The living are censored at their last recorded care",)


def test_grace_is_said_to_be_unused_only_if_no_estimate_uses_it() -> None:
    unused = "No estimate of this report applies the grace period"
    used = estimate(parameters=estimate().parameters.model_copy(update={"grace_days": 180}))
    for estimates, is_said in (([estimate()], True), ([estimate(), used], False)):
        document = evidence(estimates=estimates)
        strategies = specification(document, naming.protocol_of(document))[2].emulation
        assert any(line.startswith(unused) for line in strategies) is is_said


def test_a_protocol_that_cannot_be_read_is_refused_by_field_not_by_value() -> None:
    broken = protocol()
    broken["strategies"]["treated"]["grace_days"] = "a-value-nobody-should-see"
    with pytest.raises(EvidenceError) as caught:
        naming.protocol_of(evidence(protocol=broken))
    assert "strategies.treated.grace_days" in str(caught.value)
    assert "a-value-nobody-should-see" not in str(caught.value)


def test_baseline_shares_leave_the_missing_out_and_mark_imbalance() -> None:
    document = evidence()
    table = tables.baseline(document, naming.protocol_of(document))
    lines = {(line.label, line.statistic): line for line in table.lines}
    assert table.columns == (
        f"{ODD_LABEL}: ever started (n = 231)",
        f"{ODD_LABEL}: never started (n = 611)",
    )
    assert lines["Sex", "female"].cells[0] == "50\u202f% of 201"  # the known
    assert lines["Age at index (years)", "mean (SD)"].is_imbalanced
    assert not lines["Sex", "female"].is_imbalanced
    assert lines["LDH (log U/L)", "mean (SD)"].cells[1] == "not estimable"
    assert [line.cells for line in table.lines if line.statistic == "missing"] == [("30", "1"), ("11", "21")]


def test_a_step_of_the_protocol_is_said_in_words() -> None:
    document = evidence()
    steps = {a.step: a for a in tables.attrition(document, naming.protocol_of(document))}
    assert steps["adult"].rule == "Age at time zero at least 18 years"
    assert (steps["adult"].before, steps["adult"].excluded, steps["adult"].after) == ("901", "4", "897")
    assert steps["new user"].rule == ""


def test_a_refusal_is_named_by_its_analysis_and_keeps_its_place() -> None:
    assert (
        naming.analysis_name("landmark_cox, day 60 at site a_b") == "Landmark Cox model, day 60 at site a_b"
    )
    assert naming.analysis_name("something_else") == "something else"


def test_follow_up_counts_deaths_and_days_by_exposure() -> None:
    treated, control = tables.follow_up(evidence(), NAMES)
    assert (treated.strategy, treated.started, treated.deaths) == ("Drug: started", "231", "78")
    assert control.strategy == "Drug: not (yet) started"
    assert (control.person_days, control.person_years) == ("301\u202f822", "826.3")
