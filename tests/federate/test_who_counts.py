"""Who enters the numbers of a refresh: not the cohort, but who is in a risk set of the model."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from rwe.federate.ledger import Headcount
from rwe.federate.newton import Decision, point_of
from rwe.federate.plan import Plan, make_plan
from rwe.federate.result import FederatedResult, make_result
from rwe.federate.sums import SiteRows, site_rows, site_sums
from rwe.study import Study, load_study
from rwe.survival.data import CohortTable, no_changes
from rwe.survival.tables import NotEstimableError
from tests.federate.hospitals import STUDIES, STUDY_TEXTS

WEIGHTED, UNADJUSTED, LANDMARK, FIRTH = 3, 4, 2, 1  # analyses of the study other_models


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("studies")
    shutil.copytree(STUDIES / "codelists", folder / "codelists")
    (folder / "other_models.yaml").write_text(STUDY_TEXTS["other_models"])
    return load_study(folder / "other_models.yaml")


@dataclass(frozen=True)
class Drawn:
    """The tables of a build, as far as sums are made of them."""

    survival: pd.DataFrame

    def cohort(self) -> CohortTable:
        return CohortTable(self.survival, no_changes())


def drawn(
    *rows: tuple[int, bool, float | None], age: float | None = 60.0, site: str = "siteA"
) -> pd.DataFrame:
    """Patients as (time_days, is_event, start_day)."""
    return pd.DataFrame(
        {
            "patient_id": [f"{site}-{time}-{n}" for n, (time, _, _) in enumerate(rows)],
            "site": site,
            "time_days": [time for time, _, _ in rows],
            "is_event": [event for _, event, _ in rows],
            "start_day": pd.Series([start for _, _, start in rows], dtype=float),
            "salvage_start_day": math.nan,
            "progression_day": math.nan,
            "end_reason": ["death" if event else "last_activity" for _, event, _ in rows],
            "age": pd.Series([age if age is None else age + n for n in range(len(rows))], dtype=float),
            "ecog": [float(n % 2) for n in range(len(rows))],
        }
    )


def rows_of(study: Study, plan: Plan, *frames: pd.DataFrame) -> SiteRows:
    return site_rows(study, plan, Drawn(pd.concat(frames, ignore_index=True)))  # type: ignore[arg-type]


FOLLOWED = [(120 + 10 * n, n % 2 == 0, 30.0 if n % 3 == 0 else None) for n in range(24)]


def test_who_left_before_the_landmark_or_lacks_a_covariate_does_not_count(study: Study) -> None:
    """Ten patients who are new in the cohort, and the numbers of the model are those of one of them."""
    plan = make_plan(study, LANDMARK, 90)
    night = rows_of(study, plan, drawn(*FOLLOWED))
    early = drawn(*[(30 + n, n < 5, None) for n in range(5)])
    unknown = drawn(*[(200 + n, n < 2, None) for n in range(4)], age=None)
    one = drawn((401, True, 30.0))
    next_night = rows_of(study, plan, drawn(*FOLLOWED), early, unknown, one)

    assert (night.cohort, night.informative()) == (Headcount(24, 12), Headcount(24, 12))
    assert (next_night.cohort, next_night.informative()) == (Headcount(34, 20), Headcount(25, 13))
    wanted = Headcount(10, 5)
    assert next_night.cohort.is_beyond(night.cohort, wanted)
    assert not next_night.informative().is_beyond(night.informative(), wanted)

    without = rows_of(study, plan, drawn(*FOLLOWED), early, unknown)
    for name, now, then in zip(
        plan.layout(1), *(site_sums(r, plan, 1, (0.0, 0.0)) for r in (without, night)), strict=True
    ):
        assert now == then, name  # the nine add nothing, so the tenth would stand alone


def test_who_was_censored_before_the_first_event_does_not_count(study: Study) -> None:
    plan = make_plan(study, UNADJUSTED)
    found = rows_of(
        study, plan, drawn((5, False, None), (10, True, None), (20, False, 8.0), (20, False, 15.0))
    )
    assert found.cohort == Headcount(4, 1)
    assert found.informative() == Headcount(3, 1)


def test_the_kind_of_rows_is_the_same_with_a_penalty_and_at_another_landmark(study: Study) -> None:
    kinds = [make_plan(study, n, 90 if n == LANDMARK else None).rows_kind for n in range(5)]
    assert kinds == ["time_dependent", "time_dependent", "landmark", "clone_censor_weight", "time_dependent"]
    assert make_plan(study, LANDMARK, 60).rows_kind == "landmark"


def test_a_site_where_nobody_was_treated_adds_zeros_to_a_weighted_model(study: Study) -> None:
    plan = make_plan(study, WEIGHTED)
    nobody = drawn(*[(100 + n, n % 2 == 0, None) for n in range(12)])
    found = rows_of(study, plan, nobody)
    numbers = dict(zip(plan.layout(0), site_sums(found, plan, 0, (0.0,)), strict=True))
    assert {n: v for n, v in numbers.items() if not n.startswith("count")} == {
        "score[exposed]": 0.0,
        "information[exposed,exposed]": 0.0,
        "meat[exposed,exposed]": 0.0,
    }
    assert numbers["count[patients]"] == 9  # twelve, rounded: it is counted
    assert found.informative() == Headcount(0, 0)
    assert found.digest(b"key") == rows_of(study, plan, nobody).digest(b"key")

    others = drawn(*_both(80), site="siteB")
    alone = site_sums(rows_of(study, plan, others), plan, 1, (0.1,))
    assert site_sums(rows_of(study, plan, nobody, others), plan, 1, (0.1,)) == pytest.approx(alone, abs=1e-12)
    assert any(alone)


def _both(n: int) -> list[tuple[int, bool, float | None]]:
    rng = np.random.default_rng(7)
    days = rng.integers(200, 900, n)
    return [
        (int(d), bool(rng.random() < 0.6), float(rng.integers(5, 170)) if k % 2 else None)
        for k, d in enumerate(days)
    ]


def test_weights_that_cannot_be_fitted_are_an_error_and_no_silent_zeros(study: Study) -> None:
    """Both strategies are there, and age and ECOG are one column: the site would vanish unseen."""
    plan = make_plan(study, WEIGHTED)
    table = drawn(*_both(80))
    with pytest.raises(NotEstimableError):
        rows_of(study, plan, table.assign(ecog=2 * table["age"]))


# The score test of the result


def result_of(plan: Plan, numbers: dict[str, float]) -> FederatedResult:
    points = [point_of(plan, (0.0,) * len(plan.coefficients), numbers)]
    return make_result(
        plan,
        points,
        Decision("out_of_the_box", beta=None, best=0, coefficients=("exposed",)),
        numbers,
        refresh="r",
        created_at="2026-11-22T03:00:00Z",
        mode="masked",
        sites=("a", "b", "c"),
        counts_are="midpoint_6",
        request_sha256="0" * 64,
    )


def test_the_score_test_of_a_weighted_model_does_not_grow_with_its_weights(study: Study) -> None:
    """U'M⁻¹U (Lin & Wei 1989): three times all weights are the same evidence."""
    plan = make_plan(study, WEIGHTED)
    found = rows_of(study, plan, drawn(*_both(80)))
    heavier = replace(found, model=replace(found.model, weight=3 * found.model.weight))
    tests = []
    for rows in (found, heavier):
        numbers = dict(zip(plan.layout(0), site_sums(rows, plan, 0, (0.0,)), strict=True))
        result = result_of(plan, numbers)
        assert result.score_test == pytest.approx(
            numbers["score[exposed]"] ** 2 / numbers["meat[exposed,exposed]"]
        )
        tests.append(result.score_test)
    assert tests[1] == pytest.approx(tests[0])
    assert "the robust score test stands" in result.warnings[0]


def test_a_penalised_score_is_no_score_test(study: Study) -> None:
    plan = make_plan(study, FIRTH)
    found = rows_of(study, plan, drawn(*_both(80)))
    numbers = dict(zip(plan.layout(0), site_sums(found, plan, 0, (0.0,) * 3), strict=True))
    result = result_of(plan, numbers)
    assert result.score_test is None
    assert "score" not in result.warnings[0]
    assert "the log-rank test stands" in result.warnings[0]
