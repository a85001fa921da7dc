"""Subgroup effects and their interaction test: separate models, R, and edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rwe.survival.cox import exposure_cox
from rwe.survival.data import (
    CohortTable,
    NotEstimableError,
    SurvivalDataError,
    exposure_split,
    naive_split,
    start_day_split,
)
from rwe.survival.subgroups import subgroup_effects
from tests.golden.test_estimators import SITES
from tests.golden.test_estimators import cohort as case
from tests.unit.r_oracle import in_r
from tests.unit.test_survival_cox_edges import cohort


def older(table: CohortTable) -> list[str]:
    return ["old" if age > 60 else "young" for age in table.patients["age"]]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_effects_and_interaction_agree_with_r(ties, tmp_path):
    table = case(SITES)
    rows = exposure_split(table, ["age", "ecog"])
    labels = np.array(older(table))
    frame = pd.DataFrame(rows.X, columns=["age", "ecog"]).assign(
        start=rows.start,
        stop=rows.stop,
        event=rows.event.astype(int),
        trt=rows.exposed.astype(int),
        site=rows.site,
        old=(labels[rows.patient] == "old").astype(int),
    )
    r = in_r(
        f"""k <- coxph.control(eps = 1e-14, iter.max = 100)
            s <- Surv(d$start, d$stop, d$event)
            a <- coxph(s ~ trt + old + age + ecog + strata(site), d, ties = "{ties}", control = k)
            b <- coxph(s ~ I(trt * old) + I(trt * (1 - old)) + old + age + ecog + strata(site), d,
                       ties = "{ties}", control = k)
            list(coef = coef(b)[1:2], se = sqrt(diag(vcov(b)))[1:2],
                 chisq = 2 * (b$loglik[2] - a$loglik[2]))""",
        frame,
        tmp_path,
    )
    found = subgroup_effects(rows, older(table), name="age_group", stratify_by_site=True, ties=ties)
    assert [e.level for e in found.effects] == ["old", "young"]
    assert [e.ratio.log_estimate for e in found.effects] == pytest.approx(r["coef"], abs=1e-6)
    assert [e.ratio.se for e in found.effects] == pytest.approx(r["se"], abs=1e-6)
    assert found.interaction.chi_square == pytest.approx(r["chisq"][0], abs=1e-6)
    assert found.interaction.df == 1
    assert found.interaction.method == "likelihood ratio"


def test_counts_of_all_levels_add_up_to_the_whole():
    table = case(SITES)
    rows = exposure_split(table)
    found = subgroup_effects(rows, table.patients["ecog"], name="ecog")
    counts = rows.counts()
    assert [e.level for e in found.effects] == ["0", "1", "2"]
    assert sum(e.patients[1] for e in found.effects) == counts.patients_exposed
    assert sum(e.patients[0] for e in found.effects) == counts.patients_unexposed
    assert sum(e.events[1] for e in found.effects) == counts.events_exposed
    assert sum(e.events[0] for e in found.effects) == counts.events_unexposed
    assert found.interaction.df == 2


def test_with_a_baseline_hazard_for_each_subgroup_it_is_a_model_each():
    # Sites as subgroups, stratified by site: the joint model falls apart into one for each site.
    table = case(SITES, ("siteA", "siteB", "siteC"))
    rows = exposure_split(table)
    labels = list(table.patients["site"])
    found = subgroup_effects(rows, labels, name="hospital", stratify_by_site=True)
    # The sites' main effects are in their baseline hazards already.
    assert found.fit.names == ("exposed where siteA", "exposed where siteB", "exposed where siteC")
    for effect in found.effects:
        alone = exposure_cox(exposure_split(table.restrict(effect.level))).hazard_ratio()
        assert effect.ratio.log_estimate == pytest.approx(alone.log_estimate, abs=1e-9)
        assert effect.ratio.se == pytest.approx(alone.se, abs=1e-9)


def test_robust_variance_gives_a_wald_test_by_patient():
    table = case(SITES)
    rows = start_day_split(table, ["age"])
    found = subgroup_effects(rows, older(table), name="age_group")  # a patient is in many trials
    assert found.interaction.method == "Wald, robust variance"
    first, second = (e.ratio.log_estimate for e in found.effects)
    spread = found.fit.variance[0, 0] + found.fit.variance[1, 1] - 2 * found.fit.variance[0, 1]
    assert found.interaction.chi_square == pytest.approx((first - second) ** 2 / spread, rel=1e-9)
    assert found.fit.is_robust


def test_the_subgroup_s_own_covariate_leaves_the_model():
    table = case(SITES)
    found = subgroup_effects(exposure_split(table, ["age", "ecog"]), table.patients["ecog"], name="ecog")
    assert found.fit.names == (
        "exposed where 0",
        "exposed where 1",
        "exposed where 2",
        "ecog 1",
        "ecog 2",
        "age",
    )


def test_a_covariate_cut_into_levels_stays_in_the_model_as_it_is():
    table = case(SITES)
    found = subgroup_effects(exposure_split(table, ["age", "ecog"]), older(table), name="age")
    assert found.fit.names == ("exposed where old", "exposed where young", "age young", "age", "ecog")


def test_missing_values_are_left_out_and_counted():
    table = case(SITES)
    labels: list[str | None] = list(older(table))
    labels[:5] = [None] * 5
    found = subgroup_effects(exposure_split(table), labels, name="age_group")
    assert found.n_missing == 5
    assert "5 patients were left out because age_group is missing." in found.warnings
    assert sum(sum(e.patients) for e in found.effects) == len(table) - 5


def test_a_level_without_an_event_on_treatment_has_no_ratio_but_the_others_have():
    table = cohort(2, 3)  # e0, e1 die exposed; u0, u1, u2 unexposed
    labels = ["x", "x", "y", "y", "x", "y", "x", "y"]
    found = subgroup_effects(exposure_split(table), labels, name="kind")
    by_level = {e.level: e for e in found.effects}
    assert by_level["y"].events[1] == 0
    assert by_level["y"].ratio.estimate is None
    assert by_level["x"].ratio.estimate is not None
    assert found.interaction.chi_square > 0
    assert any("runs to minus infinity" in w for w in found.warnings)


def test_a_level_with_one_group_only_has_no_effect_and_is_said_so():
    table = cohort(2, 3)
    labels = ["x", "x", "y", "y", "x", "y", "x", "z"]
    rows = naive_split(table)
    found = subgroup_effects(rows, labels, name="kind")
    assert {e.level: e.ratio is None for e in found.effects} == {"x": False, "y": False, "z": True}
    assert any("1 of 3 levels of kind have one group only" in w for w in found.warnings)
    with pytest.raises(NotEstimableError, match="fewer than two levels of kind"):
        subgroup_effects(rows, ["x"] * 4 + ["y"] * 4, name="kind")


def test_refusals_have_a_sentence():
    rows = naive_split(cohort(2, 3))
    with pytest.raises(SurvivalDataError, match="not one value for each patient"):
        subgroup_effects(rows, ["x", "y"], name="kind")
    many = exposure_split(case(SITES))
    with pytest.raises(SurvivalDataError, match="at most 12"):
        subgroup_effects(many, [f"{i % 20}" for i in range(402)], name="kind")
    with pytest.raises(NotEstimableError, match="there is no event"):
        subgroup_effects(naive_split(cohort(0, 0)), list("xyxyxyxy"), name="kind")
