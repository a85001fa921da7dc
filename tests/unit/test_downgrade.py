"""What stands in for a primary analysis that the data cannot carry, and what is said of it.

Whether a rule applies is counted by hand; the numbers of Firth's model and of the exact test are those of the
estimators, which the golden tests hold against R (coxphf, coin).
"""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from rwe.analyse.plan import Findings
from rwe.evidence.contract import Estimate
from rwe.survival.data import CohortTable, exposure_split
from rwe.survival.firth import exposure_firth
from tests.unit.test_plan import ADJUSTED, WITH_STATUS, eight, registry, run
from tests.unit.test_survival_data import NEVER, table

FIVE = [f"x{i}" for i in range(5)]
COVARIATES = [
    {"name": name, "kind": "observation", "label": name.upper(), "codelist": "car_t"} for name in FIVE
]
PRIMARY = {"analysis": "time_dependent_cox", "role": "primary"}


def answer(found: Findings) -> Estimate:
    (e,) = [e for e in found.estimates if e.role == "primary" and e.estimand == "hazard_ratio"]
    return e


def of(found: Findings, analysis: str) -> list[Estimate]:
    return [e for e in found.estimates if e.analysis == analysis]


def few_deaths(deaths: int) -> CohortTable:
    """Thirty patients, half of whom start on day 5; so many die, in turn in both groups."""
    g = np.random.default_rng(7)
    rows = [
        (f"p{i}", 240 + i if i >= deaths else 120 + i, i < deaths, 5.0 if i % 2 else NEVER) for i in range(30)
    ]
    return table(rows, **{name: list(g.normal(size=30)) for name in FIVE})


def test_six_deaths_carry_no_five_covariates() -> None:
    asked = {**PRIMARY, "adjusted_for": FIVE}
    found = run(few_deaths(6), asked, covariates=COVARIATES)
    (refusal,) = found.refused
    assert refusal.analysis == "time_dependent_cox"
    assert refusal.reason.startswith(
        "6 deaths cannot carry 6 coefficients (the exposure and 5 of covariates)"
    )
    (asked_for,) = of(found, "time_dependent_cox")
    assert (asked_for.status, asked_for.estimate, asked_for.role) == ("refused", None, "sensitivity")
    e = answer(found)
    assert (e.analysis, e.downgraded_from) == ("time_dependent_firth", "time_dependent_cox")
    assert e.parameters.adjusted_for == []  # no covariate was chosen in place of the others
    assert "6 deaths cannot carry 6 coefficients" in e.warnings[0]
    assert e.warnings[0].endswith("nothing is adjusted for.")  # the question is the one that was asked
    alone = exposure_firth(exposure_split(few_deaths(6))).hazard_ratio()
    assert (e.estimate, e.ci_low, e.ci_high) == (alone.estimate, alone.ci_low, alone.ci_high)
    (exact,) = of(found, "landmark_permutation")
    assert (exact.role, exact.status) == ("sensitivity", "ok")


def test_the_protocol_says_how_few_events_are_too_few() -> None:
    """Half of its minimum for each of the six coefficients: 15 of 5, none of 0."""
    asked = {**PRIMARY, "adjusted_for": FIVE}
    assert not run(few_deaths(15), asked, covariates=COVARIATES).refused
    assert run(few_deaths(14), asked, covariates=COVARIATES).refused
    whatever = run(few_deaths(12), asked, covariates=COVARIATES, min_events_per_parameter=0)
    assert not whatever.refused
    assert answer(whatever).downgraded_from is None


def test_a_sensitivity_with_few_events_is_warned_about_and_not_replaced() -> None:
    found = run(
        few_deaths(12), {"analysis": "time_dependent_cox", "adjusted_for": FIVE}, covariates=COVARIATES
    )
    (e,) = found.estimates
    assert (e.status, e.downgraded_from) == ("ok", None)
    assert any(w.startswith("Only 12 deaths for 6 coefficients") for w in e.warnings)


def seven_against_nine(deaths_on: int) -> CohortTable:
    rows = [(f"e{i}", 100 + 9 * i, i < deaths_on, 5.0) for i in range(7)]
    rows += [(f"u{i}", 30 + 11 * i, i < 8, NEVER) for i in range(9)]
    return table(rows, age=[50.0 + 2 * i for i in range(16)])


@pytest.mark.parametrize(("deaths_on", "few"), [(0, "no death"), (1, "only 1 death")])
def test_seven_against_nine_is_firth_and_exact(deaths_on: int, few: str) -> None:
    found = run(seven_against_nine(deaths_on), PRIMARY)
    e = answer(found)
    assert (e.analysis, e.downgraded_from, e.status) == ("time_dependent_firth", "time_dependent_cox", "ok")
    assert f"there is {few} among those who started" in e.warnings[0]
    assert e.ci_low is not None
    assert e.ci_high is not None
    (refusal,) = found.refused
    assert refusal.reason == f"Not as the answer: there is {few} among those who started."
    (plain,) = of(found, "time_dependent_cox")
    assert plain.role == "sensitivity"
    assert (plain.estimate is None) == (deaths_on == 0)
    (exact,) = of(found, "landmark_permutation")
    # At the end of grace, day 90: seven on maintenance, and three others followed beyond it.
    assert exact.parameters.landmark_day == 90
    assert exact.n_by_strategy == {"maintenance": 7, "no_maintenance": 3}
    assert exact.p_value is not None
    assert exact.p_value * comb(10, 7) == pytest.approx(round(exact.p_value * comb(10, 7)))


def test_what_stands_in_keeps_its_covariates_where_the_events_carry_them() -> None:
    e = answer(run(seven_against_nine(2), {**PRIMARY, "adjusted_for": ["age"]}))
    assert (e.analysis, e.parameters.adjusted_for) == ("time_dependent_firth", ["age"])
    assert "nothing is adjusted" not in e.warnings[0]


def test_what_the_protocol_asks_for_anyway_is_not_run_twice() -> None:
    asked = ({"analysis": "time_dependent_firth"}, {"analysis": "landmark_permutation", "landmarks": [90]})
    found = run(seven_against_nine(0), *asked, PRIMARY)
    (firth,) = of(found, "time_dependent_firth")
    assert (firth.role, firth.downgraded_from) == ("primary", "time_dependent_cox")
    assert len(of(found, "landmark_permutation")) == 1


def test_small_groups_with_events_enough_are_firth_and_exact_too() -> None:
    rows = [(f"e{i}", 20 + 7 * i, True, 5.0) for i in range(6)]
    rows += [(f"u{i}", 21 + 7 * i, True, NEVER) for i in range(6)]
    found = run(table(rows), {"analysis": "landmark_cox", "role": "primary", "landmarks": [6]})
    e = answer(found)
    assert (e.analysis, e.parameters.landmark_day) == ("landmark_firth", 6)
    assert "there are only 6 patients in a group" in e.warnings[0]
    (exact,) = of(found, "landmark_permutation")
    assert "exact" in exact.method


def test_weights_worth_a_handful_are_refused_and_a_model_stands_in() -> None:
    """Who starts is all but told by age: one of each forty goes against it, and carries the weight."""
    g = np.random.default_rng(3)
    ages = np.sort(g.normal(60, 10, 80))
    starts = (np.arange(80) >= 40) ^ np.isin(np.arange(80), [1, 78])
    days = [int(d) for d in g.integers(100, 900, 80)]
    rows = [(f"p{i}", days[i], i % 3 > 0, 5.0 + i if starts[i] else NEVER) for i in range(80)]
    asked = {"analysis": "clone_censor_weight", "role": "primary", "adjusted_for": ["age"], "replicates": 0}
    found = run(table(rows, age=list(ages)), asked)
    (refusal,) = [r for r in found.refused if r.analysis == "clone_censor_weight"]
    assert "too few for a weighted estimate" in refusal.reason
    e = answer(found)
    assert e.downgraded_from == "clone_censor_weight"
    assert "worth" in e.warnings[0]
    assert e.warnings[0].endswith(
        "It answers another question: a conditional ratio of exposure so far, not a comparison of strategies."
    )
    demoted = [w for e in of(found, "clone_censor_weight") for w in e.warnings]
    assert not any("another question" in w for w in demoted)


def test_in_place_of_weights_from_a_landmark_it_is_another_question_too() -> None:
    ages = [40.0 + i % 9 for i in range(16)]
    cohort = seven_against_nine(0)
    cohort = CohortTable(cohort.patients.assign(age=ages), cohort.changes)
    asked = {
        "analysis": "landmark_weighting", "role": "primary", "adjusted_for": ["age"], "landmarks": [20],
        "replicates": 0,
    }  # fmt: skip
    e = answer(run(cohort, asked, min_events_per_parameter=0))
    assert (e.analysis, e.downgraded_from) == ("landmark_firth", "landmark_weighting")
    assert (
        "a conditional ratio of having started by day 20, not one of a weighted population" in e.warnings[0]
    )
    bare = answer(run(cohort, asked, min_events_per_parameter=10))
    assert bare.parameters.adjusted_for == []
    assert "nothing is adjusted for. It answers another question: a crude ratio" in bare.warnings[0]


def test_where_nothing_can_stand_in_the_refusal_stays_primary() -> None:
    nobody_dies = eight().patients.assign(is_event=False)
    found = run(CohortTable(nobody_dies, eight().changes), PRIMARY)
    (e,) = found.estimates
    assert (e.role, e.status, e.downgraded_from) == ("primary", "refused", None)


def test_a_model_that_the_data_carry_is_the_answer_itself() -> None:
    found = run(registry(), {**PRIMARY, "adjusted_for": ADJUSTED}, **WITH_STATUS)
    assert (answer(found).analysis, answer(found).downgraded_from) == ("time_dependent_cox", None)
    assert not found.refused


def test_what_stands_beside_the_primary_analysis_stays_as_it_is() -> None:
    others = ({"analysis": "landmark_cox", "landmarks": [30]}, {"analysis": "mantel_byar"})
    alone = run(seven_against_nine(1), *others).estimates
    found = run(seven_against_nine(1), others[0], PRIMARY, others[1])
    assert of(found, "landmark_cox") + of(found, "mantel_byar") == alone
    assert answer(found).analysis == "time_dependent_firth"


def test_what_stands_in_imputes_as_the_primary_analysis_does() -> None:
    cohort = seven_against_nine(2)
    ages = cohort.patients["age"].where(np.arange(16) % 5 > 0)
    patchy = CohortTable(cohort.patients.assign(age=ages), cohort.changes)
    imputed = {"adjusted_for": ["age"], "missing": "impute", "imputations": 3}
    found = run(patchy, {**PRIMARY, **imputed})
    e = answer(found)
    assert (e.analysis, e.n, e.parameters.imputations) == ("time_dependent_firth", 16, 3)
    assert found.primary is None  # one table would not give this number in R


def test_groups_are_counted_with_those_whose_covariates_are_imputed() -> None:
    """Complete cases alone would be few; the imputed model has all patients, and is the answer itself."""
    cohort = registry()
    patchy = cohort.patients.assign(age=cohort.patients["age"].where(np.arange(len(cohort)) % 40 == 0))
    asked = {**PRIMARY, "adjusted_for": ["age"], "missing": "impute", "imputations": 2}
    found = run(CohortTable(patchy, cohort.changes), asked, **WITH_STATUS)
    assert answer(found).downgraded_from is None
