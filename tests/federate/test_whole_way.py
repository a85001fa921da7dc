"""Case e over hub and sites that exchange nothing but files: the known answers, plain and masked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwe.audit import entries
from rwe.errors import UsageError
from rwe.federate import hub
from rwe.federate.documents import Mode, read_answer
from rwe.federate.ledger import Answered, read_ledger
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


STUDIES = {"three_sites": THREE, "four_sites": FOUR}
MODES: tuple[Mode, ...] = ("masked", "plain")


@pytest.fixture(scope="module")
def by_commands(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Mode, str], Ended]:
    """Two studies, sites A to C and A to D, each over workspaces and so with ledgers of its own, masked and
    plain. Hub and sites are processes of their own, with the command line; files go between them."""
    found = {}
    for study, sites in STUDIES.items():
        root = tmp_path_factory.mktemp("workspaces") / study
        shutil.copytree(pristine, root, symlinks=True)
        made = Hospitals(root)
        with parties(made, ("hub", *sites)) as processes:
            for name in sites:
                words = ("federate", "approve", study, "--protocol")
                processes[name].rwe(*words, made.study(name, study).protocol_sha256)
            for mode in MODES:
                allowed = "allowed" if mode == "plain" else "refused"
                without_minimum(made, plain_sums=allowed)
                post = tmp_path_factory.mktemp(f"{study}-{mode}")
                found[mode, study] = Ended(_refreshed(made, processes, mode, study, post), post)
        _is_recorded_at_each_site(made, study, [found[mode, study].result for mode in MODES])
    return found


@pytest.fixture(scope="module")
def masked(by_commands: dict[tuple[Mode, str], Ended]) -> dict[str, Ended]:
    return {study: by_commands["masked", study] for study in STUDIES}


def _refreshed(
    made: Hospitals, processes: dict[str, Party], mode: Mode, study: str, post: Path
) -> FederatedResult:
    """A refresh by the command line, every step of it: `init`, then `answer` at all sites and `combine`."""
    sites = STUDIES[study]
    asked = [word for name in sites for word in ("--site", name)]
    plain = ["--plain"] if mode == "plain" else []
    processes["hub"].rwe("federate", "init", study, *asked, *plain, "--to", post)
    (request,) = post.glob("*.request.0.json")
    refresh = request.name.split(".")[1]
    while True:
        for name in sites:
            processes[name].start("federate", "answer", request, "--to", post)
        for name in sites:
            assert ("PLAIN" if mode == "plain" else "masked") in processes[name].finish()
        words = ("federate", "combine", refresh, "--from", post, "--to", post, "--json")
        told = json.loads(processes["hub"].rwe(*words))
        if told["is_result"]:
            return hub.read_result(made.workspace("hub"), refresh)
        request = Path(told["next"])


def _is_recorded_at_each_site(made: Hospitals, study: str, results: Sequence[FederatedResult]) -> None:
    """Ledger and audit log of each site hold every step of these refreshes, and of nothing else."""
    of = {r.refresh: r for r in results}
    for name in FOUR:
        ledger = read_ledger(made.workspace(name)).entries
        given = [(e.study, e.refresh, e.mode, e.step) for e in ledger if isinstance(e, Answered)]
        log = [e for e in entries(made.folder(name)) if e.command == "federate answer"]
        if name not in STUDIES[study]:
            assert (ledger, log) == ((), [])
            continue
        assert given == [(study, r.refresh, r.mode, step) for r in results for step in range(r.steps)]
        assert [(e.run, e.counts["step"]) for e in log] == [(refresh, step) for _, refresh, _, step in given]
        assert all(e.counts[f"{of[str(e.run)].mode}_answers"] == 1 for e in log)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("study", "key"), [("three_sites", "stratified_ABC"), ("four_sites", "stratified_ABCD")]
)
def test_sums_give_the_pooled_estimate(
    by_commands: dict[tuple[Mode, str], Ended],
    copied: Hospitals,
    expected: dict[str, Any],
    mode: Mode,
    study: str,
    key: str,
) -> None:
    result, r = by_commands[mode, study].result, expected["efron"]
    assert (result.mode, result.sites) == (mode, STUDIES[study])
    same_as_pooled(copied, result, STUDIES[study])
    found = numbers(result)
    assert found["exposed"] == pytest.approx((r[key]["log_hr"], r[key]["se"]), abs=OF_R)
    assert {KEYS[n]: b for n, (b, _) in found.items()} == pytest.approx(r[f"{key}_coef"], abs=OF_R)
    exposure = result.coefficients[0]
    assert exposure.p_value == pytest.approx(r[key]["p_wald"], abs=OF_R)
    limits = (r[key]["hr"], r[key]["lo"], r[key]["hi"])
    assert exposure.hazard_ratio == pytest.approx(limits, abs=OF_R)


@pytest.mark.parametrize("study", STUDIES)
def test_masked_is_plain_to_the_last_bits(by_commands: dict[tuple[Mode, str], Ended], study: str) -> None:
    plain, masked = (by_commands[mode, study].result for mode in ("plain", "masked"))
    for name, found in numbers(plain).items():
        assert numbers(masked)[name] == pytest.approx(found, abs=1e-15)
    assert (plain.counts, plain.life_table) == (masked.counts, masked.life_table)


def test_only_masked_numbers_left_the_sites(masked: dict[str, Ended], copied: Hospitals) -> None:
    patients = set(copied.cohort(FOUR).patients["patient_id"])
    for ended in masked.values():
        answers = [read_answer(p).document for p in ended.post.glob("answer-*.json")]
        assert len(answers) == ended.result.steps * len(ended.result.sites)
        assert all(a.masked and not a.plain for a in answers)
        text = "".join(p.read_text() for p in ended.post.iterdir())
        assert len(patients) == 402
        assert not [p for p in patients if p in text]


def test_plain_sums_of_each_site_are_those_of_r(
    hospitals: Hospitals,
    by_commands: dict[tuple[Mode, str], Ended],
    post: Path,
    expected: dict[str, Any],
) -> None:
    without_minimum(hospitals, plain_sums="allowed")
    approve_everywhere(hospitals, FOUR)
    breslow = run_refresh(hospitals, FOUR, post, mode="plain", analysis=1)
    for ties, ended in (("efron", by_commands["plain", "four_sites"]), ("breslow", Ended(breslow, post))):
        result, r = ended.result, expected[ties]
        stratified = r["stratified_ABCD"]
        assert numbers(result)["exposed"] == pytest.approx((stratified["log_hr"], stratified["se"]), abs=OF_R)
        _same_sums(ended.post, result, 0, r["federated_at_zero"], tolerance=1e-9)
        _same_sums(ended.post, result, result.steps - 1, r["federated_at_optimum"], tolerance=1e-5)


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
