"""Case e over hub and sites that exchange nothing but files: the known answers, plain and masked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwe.audit import entries
from rwe.errors import UsageError
from rwe.federate import hub
from rwe.federate.documents import read_answer
from rwe.federate.plan import make_plan
from rwe.federate.result import FederatedResult
from rwe.federate.site import own_tables
from rwe.federate.sums import site_rows
from rwe.small_cells import midpoint_6
from rwe.survival.cox import cox_data, exposure_cox, fit_cox
from rwe.survival.data import exposure_split, landmark_split
from rwe.survival.firth import exposure_firth
from rwe.survival.logrank import mantel_byar
from tests.federate.hospitals import (
    CASE,
    FOUR,
    NO_MINIMUM,
    THREE,
    Hospitals,
    Party,
    answer_in,
    approve_everywhere,
    parties,
    run_refresh,
)

SAME = 1e-8  # of a pooled estimate
OF_R = 1e-6  # of R's log hazard ratio and standard error
KEYS = {"exposed": "trt", "age": "age", "ecog": "ecog"}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CASE / "expected.json").read_text())
    return loaded


def without_minimum(made: Hospitals, **more: object) -> None:
    for name in FOUR:
        made.settings(name, **NO_MINIMUM, **more)


def numbers(result: FederatedResult) -> dict[str, tuple[float, float]]:
    found = {}
    for c in result.coefficients:
        assert c.estimate is not None
        assert c.se is not None
        found[c.name] = (c.estimate, c.se)
    return found


def same_as_pooled(made: Hospitals, result: FederatedResult, sites: tuple[str, ...]) -> None:
    fit = exposure_cox(exposure_split(made.cohort(sites), ["age", "ecog"]), stratify_by_site=True)
    pooled = {n: (b, s) for n, b, s in zip(fit.names, fit.coefficients, fit.se, strict=True)}
    for name, found in numbers(result).items():
        assert found == pytest.approx(pooled[name], abs=SAME)
    assert np.array(result.variance) == pytest.approx(fit.variance, abs=SAME)


@dataclass(frozen=True)
class Ended:
    """A refresh that ended, and the folder of all files that went between hub and sites."""

    result: FederatedResult
    post: Path


@pytest.fixture(scope="module")
def masked(copied: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Two studies over the same hospitals by the command line; hub and sites are processes of their own."""
    copied.forget()
    without_minimum(copied)
    found = {}
    with parties(copied, ("hub", *FOUR)) as processes:
        for study, sites in (("three_sites", THREE), ("four_sites", FOUR)):
            post = tmp_path_factory.mktemp(study)
            found[study] = Ended(_by_commands(copied, processes, study, sites, post), post)
    logs = {
        name: [e for e in entries(copied.folder(name)) if e.command == "federate answer"] for name in FOUR
    }
    for ended in found.values():
        for name in ended.result.sites:
            mine = [e for e in logs[name] if e.run == ended.result.refresh]
            assert [e.counts["step"] for e in mine] == list(range(ended.result.steps))
            assert all(e.counts["masked_answers"] == 1 for e in mine)
    return found


def _by_commands(
    made: Hospitals, processes: dict[str, Party], study: str, sites: tuple[str, ...], post: Path
) -> FederatedResult:
    for name in sites:
        words = ("federate", "approve", study, "--protocol")
        processes[name].rwe(*words, made.study(name, study).protocol_sha256)
    asked = [word for name in sites for word in ("--site", name)]
    processes["hub"].rwe("federate", "init", study, *asked, "--to", post)
    (request,) = post.glob("*.request.0.json")
    refresh = request.name.split(".")[1]
    while True:
        for name in sites:
            processes[name].start("federate", "answer", request, "--to", post)
        for name in sites:
            assert "masked" in processes[name].finish()
        words = ("federate", "combine", refresh, "--from", post, "--to", post, "--json")
        told = json.loads(processes["hub"].rwe(*words))
        if told["is_result"]:
            return hub.read_result(made.workspace("hub"), refresh)
        request = Path(told["next"])


@pytest.mark.parametrize(
    ("study", "sites", "key"),
    [("three_sites", THREE, "stratified_ABC"), ("four_sites", FOUR, "stratified_ABCD")],
)
def test_masked_sums_give_the_pooled_estimate(
    masked: dict[str, Ended],
    copied: Hospitals,
    expected: dict[str, Any],
    study: str,
    sites: tuple[str, ...],
    key: str,
) -> None:
    result, r = masked[study].result, expected["efron"]
    assert (result.mode, result.sites) == ("masked", sites)
    same_as_pooled(copied, result, sites)
    found = numbers(result)
    assert found["exposed"] == pytest.approx((r[key]["log_hr"], r[key]["se"]), abs=OF_R)
    assert {KEYS[n]: b for n, (b, _) in found.items()} == pytest.approx(r[f"{key}_coef"], abs=OF_R)
    exposure = result.coefficients[0]
    assert exposure.p_value == pytest.approx(r[key]["p_wald"], abs=OF_R)
    limits = (r[key]["hr"], r[key]["lo"], r[key]["hi"])
    assert exposure.hazard_ratio == pytest.approx(limits, abs=OF_R)


def test_only_masked_numbers_left_the_sites(masked: dict[str, Ended], copied: Hospitals) -> None:
    patients = set(copied.cohort(FOUR).patients["patient_id"])
    for ended in masked.values():
        answers = [read_answer(p).document for p in ended.post.glob("answer-*.json")]
        assert len(answers) == ended.result.steps * len(ended.result.sites)
        assert all(a.masked and not a.plain for a in answers)
        text = "".join(p.read_text() for p in ended.post.iterdir())
        assert len(patients) == 402
        assert not [p for p in patients if p in text]


def test_plain_sums_of_each_site_are_those_of_r_and_masked_is_plain_to_the_last_bits(
    hospitals: Hospitals, masked: dict[str, Ended], post: Path, expected: dict[str, Any]
) -> None:
    without_minimum(hospitals, plain_sums="allowed")
    approve_everywhere(hospitals, FOUR)
    for analysis, ties in ((0, "efron"), (1, "breslow")):
        result = run_refresh(hospitals, FOUR, post, mode="plain", analysis=analysis)
        r = expected[ties]
        stratified = r["stratified_ABCD"]
        assert numbers(result)["exposed"] == pytest.approx((stratified["log_hr"], stratified["se"]), abs=OF_R)
        _same_sums(post, result, 0, r["federated_at_zero"], tolerance=1e-9)
        _same_sums(post, result, result.steps - 1, r["federated_at_optimum"], tolerance=1e-5)
        if ties == "efron":
            same_as_pooled(hospitals, result, FOUR)
            other = masked["four_sites"].result
            for name, found in numbers(result).items():
                assert numbers(other)[name] == pytest.approx(found, abs=1e-15)
            assert (result.counts, result.life_table) == (other.counts, other.life_table)


def _same_sums(post: Path, result: FederatedResult, step: int, r: dict[str, Any], tolerance: float) -> None:
    names = ("exposed", "age", "ecog")
    for site in FOUR:
        plain = answer_in(post, result.refresh, step, site).document.plain
        score = [plain[f"score[{a}]"] for a in names]
        assert score == pytest.approx(r[site]["score"], abs=tolerance)
        for i, a in enumerate(names):
            row = [plain[f"information[{a},{b}]"] for b in names[i:]]
            assert row == pytest.approx(r[site]["information"][i][i:], rel=1e-9, abs=tolerance)


def test_the_site_without_an_event_on_treatment_neither_breaks_nor_vanishes(
    masked: dict[str, Ended], expected: dict[str, Any]
) -> None:
    three, four, r = masked["three_sites"].result, masked["four_sites"].result, expected["efron"]
    moved = r["stratified_ABCD"]["log_hr"] - r["stratified_ABC"]["log_hr"]
    difference = numbers(four)["exposed"][0] - numbers(three)["exposed"][0]
    assert difference == pytest.approx(moved, abs=OF_R)
    assert abs(difference) > 0.05
    assert three.logrank is not None
    assert four.logrank is not None
    assert [b - a for a, b in zip(three.logrank.observed, four.logrank.observed, strict=True)] == [5, 0]


def test_log_rank_and_counts_are_those_of_the_pooled_patients(
    masked: dict[str, Ended], copied: Hospitals
) -> None:
    result = masked["four_sites"].result
    rows = exposure_split(copied.cohort(FOUR), ["age", "ecog"])
    test = mantel_byar(rows, stratify_by_site=True)
    assert result.logrank is not None
    assert result.logrank.observed == test.observed
    assert result.logrank.expected == pytest.approx(test.expected, abs=SAME)
    assert result.logrank.chi_square == pytest.approx(test.chi_square, abs=SAME)
    by_site = [exposure_split(copied.cohort([s]), ["age", "ecog"]) for s in FOUR]
    assert result.counts["patients"] == 177 + 117 + 87 + 9  # of 180, 120, 90 and 12
    assert result.counts["events_exposed"] == sum(midpoint_6(r.counts().events_exposed) for r in by_site)
    assert result.counts_are == "midpoint_6"
    assert all(row.events % 3 == 0 for row in result.life_table)


def test_robust_variance_and_landmark(hospitals: Hospitals, post: Path) -> None:
    without_minimum(hospitals)
    approve_everywhere(hospitals, THREE, "other_models")
    table = hospitals.cohort(THREE, "other_models")
    for analysis, landmark, rows, robust in (
        (0, None, exposure_split(table, ["age", "ecog"]), True),
        (2, 90, landmark_split(table, 90, ["age"]), False),
    ):
        result = run_refresh(
            hospitals, THREE, post, study="other_models", analysis=analysis, landmark_day=landmark
        )
        fit = exposure_cox(rows, stratify_by_site=True, robust=robust)
        assert result.landmark_day == landmark
        assert [c.estimate for c in result.coefficients] == pytest.approx(fit.coefficients, abs=SAME)
        assert [c.se for c in result.coefficients] == pytest.approx(fit.se, abs=SAME)


def test_firth_takes_the_derivative_of_the_information_from_all_sites(
    hospitals: Hospitals, post: Path
) -> None:
    without_minimum(hospitals)
    approve_everywhere(hospitals, FOUR, "other_models")
    result = run_refresh(hospitals, FOUR, post, study="other_models", analysis=1)
    pooled = exposure_firth(
        exposure_split(hospitals.cohort(FOUR, "other_models"), ["age", "ecog"]), stratify_by_site=True
    )
    assert [c.estimate for c in result.coefficients] == pytest.approx(pooled.coefficients, abs=1e-7)
    assert [c.se for c in result.coefficients] == pytest.approx(pooled.se, abs=1e-7)
    assert any("Wald" in w for w in result.warnings)


def test_weights_are_fitted_at_each_site(hospitals: Hospitals, post: Path) -> None:
    """Clone-censor-weight: copies weighted where they are, then one Cox model stratified by site."""
    without_minimum(hospitals)
    approve_everywhere(hospitals, THREE, "other_models")
    result = run_refresh(hospitals, THREE, post, study="other_models", analysis=3)
    pieces = []
    for name in THREE:
        study = hospitals.study(name, "other_models")
        tables = own_tables(hospitals.workspace(name), study)
        pieces.append(site_rows(study, make_plan(study, 3), tables).model)
    sizes = [len(p) for p in pieces]
    offset = np.cumsum([0, *(int(p.cluster.max()) + 1 for p in pieces)])
    pooled = fit_cox(
        cox_data(
            np.concatenate([p.X for p in pieces]),
            np.concatenate([p.stop for p in pieces]),
            np.concatenate([p.event for p in pieces]),
            names=("exposed",),
            start=np.concatenate([p.start for p in pieces]),
            weights=np.concatenate([p.weight for p in pieces]),
            strata=np.repeat(THREE, sizes),
            cluster=np.concatenate([p.cluster + o for p, o in zip(pieces, offset, strict=False)]),
        ),
        robust=True,
    )
    assert len({round(float(w), 9) for p in pieces for w in p.weight}) > 10  # they are weighted
    assert result.coefficients[0].estimate == pytest.approx(float(pooled.coefficients[0]), abs=SAME)
    assert result.coefficients[0].se == pytest.approx(float(pooled.se[0]), abs=SAME)


def test_an_analysis_that_is_not_stratified_by_site_is_refused_at_the_hub(
    hospitals: Hospitals, post: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        hub.init(hospitals.workspace("hub"), hospitals.study("hub", "other_models"), THREE, post, analysis=5)
    assert "add `stratify_by: [site]` to it in the study file" in str(caught.value)
    assert not list(post.iterdir())
