"""What a federated refresh leaves: a part of the evidence, a place in the report, a page of its own."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from rwe.analyse import analyse
from rwe.cli import main
from rwe.evidence.contract import read_evidence, write_evidence
from rwe.evidence.federated import (
    ESTIMATE,
    FederatedEstimate,
    federated_estimates,
    federated_sha256,
    read_estimate,
    write_estimate,
)
from rwe.evidence.outward import outward
from rwe.evidence.synthesis import PooledEffect, Synthesis
from rwe.federate import hub
from rwe.federate.evidence import evidence_of
from rwe.federate.result import FederatedResult
from rwe.history.manifest import Inputs, read_manifest, verify
from rwe.intake import import_folder
from rwe.report import render_report, write_report
from rwe.report.federated import how, sentences
from rwe.report.federated_page import render_federated
from rwe.study import load_studies
from rwe.warehouse.build import build
from tests.federate.hospitals import CASE, NO_MINIMUM, THREE, Hospitals, approve_everywhere, run_refresh
from tests.unit import evidence_example as example
from tests.unit.test_report_page import Page

STUDY = "three_sites"


@pytest.fixture(scope="module")
def made(copied: Hospitals) -> Hospitals:
    copied.forget()
    for name in THREE:
        copied.settings(name, **NO_MINIMUM)
    approve_everywhere(copied, THREE)
    return copied


@pytest.fixture(scope="module")
def ended(made: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> FederatedResult:
    return run_refresh(made, THREE, tmp_path_factory.mktemp("post"))


@pytest.fixture
def estimate(made: Hospitals, ended: FederatedResult) -> FederatedEstimate:
    found = read_estimate(folder_of(made, ended))
    assert found is not None
    return found


def folder_of(made: Hospitals, result: FederatedResult) -> Path:
    return hub.hub_folder(made.workspace("hub")) / result.refresh


def numbers_in(document: object) -> Iterator[float]:
    match document:
        case bool():
            return
        case int() | float():
            yield document
        case dict():
            for value in document.values():
                yield from numbers_in(value)
        case list():
            for value in document:
                yield from numbers_in(value)


def test_the_estimate_is_that_of_r_and_of_the_result(
    estimate: FederatedEstimate, ended: FederatedResult
) -> None:
    r = json.loads((CASE / "expected.json").read_text())["efron"]["stratified_ABC"]
    assert (estimate.estimate, estimate.ci_low, estimate.ci_high, estimate.se) == pytest.approx(
        (r["hr"], r["lo"], r["hi"], r["se"]), abs=1e-6
    )
    assert (estimate.analysis, estimate.role, estimate.place, estimate.adjusted_for) == (
        "time_dependent_cox",
        "primary",
        1,
        ["age", "ecog"],
    )
    assert (estimate.mode, estimate.sites, estimate.rounds) == ("masked", list(THREE), ended.steps)
    assert estimate.counts.patients == 177 + 117 + 87  # of 180, 120 and 90
    assert estimate.counts.counts_are == "midpoint_6"
    assert ended.logrank is not None
    assert estimate.logrank_chi_square == ended.logrank.chi_square


def test_nothing_stands_in_it_that_the_result_did_not_hold(
    made: Hospitals, ended: FederatedResult, estimate: FederatedEstimate
) -> None:
    """Exact sums of the log-rank test, the life table and the covariance stay where they were."""
    folder = folder_of(made, ended)
    result, part = (json.loads((folder / name).read_text()) for name in ("result.json", ESTIMATE))
    ratios = {v for c in ended.coefficients if c.hazard_ratio for v in c.hazard_ratio}
    known = {*numbers_in(result), *ratios, float(estimate.place)}
    assert {float(n) for n in numbers_in(part)} <= known
    assert len(list(numbers_in(part))) > 20
    exact = {*result["logrank"]["expected"], result["logrank"]["variance"]}  # observed: may round to itself
    assert not exact & set(numbers_in(part))
    shown = Page(render_federated(estimate, made.study())).text
    assert not [n for n in exact if f"{n:.2f}" in shown]
    assert not {"logrank", "observed", "life_table", "variance"} & part.keys()
    assert stat.S_IMODE((folder / ESTIMATE).stat().st_mode) == 0o600


def test_a_repeated_combine_leaves_again_what_was_removed(
    made: Hospitals, ended: FederatedResult, post: Path
) -> None:
    """Also how a refresh gets its estimate that ended under an older rwe."""
    path = folder_of(made, ended) / ESTIMATE
    before = path.read_bytes()
    path.unlink()
    assert hub.combine(made.workspace("hub"), ended.refresh, post, post) == ended
    assert path.read_bytes() == before


def test_a_hub_without_patients_gets_a_page_in_the_look_of_the_report(
    made: Hospitals, ended: FederatedResult, post: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["federate", "combine", ended.refresh, "--from", post, "--to", post, "-w", made.folder("hub")]
    with pytest.raises(SystemExit) as status:
        main([*map(str, words)])
    assert status.value.code == 0
    path = post / f"{STUDY}.{ended.refresh}.result.html"
    assert f"Page: {path}" in re.sub(r"\s+", " ", capsys.readouterr().out).replace("/ ", "/")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    html = path.read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert not [v for _, name, v in page.attributes if name in {"src", "href"} and not v.startswith("#")]
    r = json.loads((CASE / "expected.json").read_text())["efron"]["stratified_ABC"]
    for told in (
        f"{r['hr']:.2f} times that under",
        f"{r['lo']:.2f} to {r['hi']:.2f}",
        "about 381 patients",
        "adjusted for age at index (years) and ECOG performance status",
        "masked: the hub saw totals over all sites only",
        "rounded to midpoints of six at each site",
        "Mantel–Byar test stratified by site",
        "siteA, siteB, siteC",
        ended.request_sha256,
        "Time zero",
    ):
        assert told.lower() in page.text.lower(), told
    with pytest.raises(SystemExit):
        main([*map(str, words), "--json"])
    assert json.loads(capsys.readouterr().out) == {"is_result": True, "next": None, "page": str(path)}
    assert path.read_text() == html


def test_under_a_changed_protocol_there_is_a_result_and_no_page(
    made: Hospitals, ended: FederatedResult, post: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = made.folder("hub") / "studies" / f"{STUDY}.yaml"
    before = study.read_text()
    study.write_text(before.replace("horizons: [365]", "horizons: [400]"))
    try:
        changed = made.study()
        assert changed.protocol_sha256 != ended.protocol_sha256
        assert federated_estimates(made.folder("hub"), STUDY, changed.protocol_sha256).found == []
        words = ["federate", "combine", ended.refresh, "--from", post, "--to", post, "--json", "-w"]
        with pytest.raises(SystemExit) as status:
            main([*map(str, words), str(made.folder("hub"))])
        assert status.value.code == 0
        assert json.loads(capsys.readouterr().out)["page"] is None
        assert not list(post.glob("*.html"))
    finally:
        study.write_text(before)


def test_of_each_analysis_under_this_protocol_the_newest_counts(
    tmp_path: Path, estimate: FederatedEstimate
) -> None:
    def left(name: str, day: int, **changes: object) -> FederatedEstimate:
        folder = tmp_path / "federate" / "hub" / name
        folder.mkdir(parents=True)
        at = estimate.finished_at.replace(year=2030, month=1, day=day)
        found = estimate.model_copy(update={"refresh": name, "finished_at": at, **changes})
        write_estimate(found, folder)
        return found

    left("a", 3)
    newest = left("b", 9)
    left("c", 5, mode="plain")
    other = left("d", 1, place=2)
    days = [left(f"e{d}", 2, place=3, landmark_day=d, analysis="landmark_cox") for d in (90, 60)]
    (tmp_path / "federate" / "hub" / "a-note.txt").write_text("no refresh")
    left("f", 28, protocol_sha256="0" * 64)
    left("g", 28, study="another")
    (tmp_path / "federate" / "hub" / "unfinished").mkdir()
    found = federated_estimates(tmp_path, STUDY, estimate.protocol_sha256)
    assert found.found == [newest, other, *reversed(days)]
    assert not found.warnings
    assert federated_sha256(found.found) != federated_sha256(found.found[:3])
    assert federated_estimates(tmp_path / "elsewhere", STUDY, estimate.protocol_sha256).found == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "rwe federated estimate 9"}', b"\xff"])
def test_a_damaged_estimate_is_left_out_and_it_is_said_what_to_do(tmp_path: Path, content: bytes) -> None:
    """It may be of another study: that one's analysis goes on."""
    folder = tmp_path / "federate" / "hub" / "20261122T030000Z-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / ESTIMATE).write_bytes(content)
    found = federated_estimates(tmp_path, STUDY, "0" * 64)
    assert found.found == []
    [warning] = found.warnings
    assert f"repeat `rwe federate combine {folder.name}`" in warning
    assert str(tmp_path) not in warning


def test_exact_totals_stay_in_the_result(ended: FederatedResult, made: Hospitals) -> None:
    """The evidence has more readers than the result: 17 of 100 there are 15 of 99 in it."""
    counts = {**ended.counts, "patients": 100.0, "events": 17.0}
    shown = evidence_of(replace(ended, counts=counts, counts_are="exact"), made.study(), 0).counts
    assert (shown.patients, shown.events) == (99, 15)
    assert shown.counts_are == "midpoint_6 of the totals"


def test_a_hub_with_patients_of_its_own_has_it_in_evidence_and_report(
    made: Hospitals, ended: FederatedResult, post: Path
) -> None:
    """A hospital that is a hub for others: its own twelve patients beside the sums of three hospitals."""
    workspace, study = made.workspace("hub"), made.study()
    import_folder(workspace, CASE / "fhir" / "siteD", "siteD")
    build(workspace, load_studies(workspace.studies))
    first = analyse(workspace, study)
    assert [f.refresh for f in first.evidence.federated] == [ended.refresh]
    assert read_evidence(first.path) == first.evidence
    assert first.evidence.cohort.n == 12  # those of the sites are counted nowhere else
    assert not analyse(workspace, study).is_new

    page = post / "report.html"
    write_report(first.path, page)
    text = Page(page.read_text()).text
    assert "Hospitals that kept their patients" in text
    assert "3: siteA, siteB and siteC" in text
    assert '<a href="#sites">Sites</a>' in page.read_text()

    again = run_refresh(made, THREE, post)
    second = analyse(workspace, study)
    assert second.is_new
    assert [f.refresh for f in second.evidence.federated] == [again.refresh]
    looks = second.evidence.history.looks if second.evidence.history else []
    assert [look.number for look in looks] == [1, 1]  # nobody looked at new data of this hub
    at = second.evidence.refresh.created_at
    assert outward(second.evidence, "a-release", at, None).federated == []  # no more leaves than before
    manifests = [read_manifest(found.path.parent) for found in (first, second)]
    assert len({m.inputs.federated_sha256 for m in manifests if m}) == 2
    assert not verify(second.path.parent).problems


def test_manifests_from_before_there_was_a_federated_part_keep_their_hashes() -> None:
    """A chain of refreshes hashes the manifests as they are written."""
    inputs = Inputs("a", "b", "c", "d", "e")
    assert msgspec.json.encode(inputs) == (
        b'{"tables_sha256":"a","protocol_sha256":"b","code_version":"c","code_sha256":"d","lock_sha256":"e"}'
    )


def synthesis(found: FederatedEstimate) -> Synthesis:
    return Synthesis(
        analysis=found.analysis,
        role="primary",
        adjusted_for=found.adjusted_for,
        ci_level=0.95,
        pooled=PooledEffect(method="Cox model", is_stratified=True, estimate=0.77, ci_low=0.6, ci_high=0.99),
        sites=[],
        meta=[],
        leave_one_out=[],
        with_every_site=[],
        interaction=None,
        sources=[],
        counted_once=None,
        notes=[],
    )


def test_beside_the_hubs_own_sites_it_is_a_line_of_their_forest_plot(estimate: FederatedEstimate) -> None:
    label = "Federated: masked sums of 3 sites"
    asked = {"analysis": "time_dependent_cox", "adjusted_for": estimate.adjusted_for, "by_site": True}
    asked |= {"stratify_by": ["site"]}
    rows = [{**asked, "role": "primary"}, {**asked, "ties": "breslow"}]
    covariates = [{"name": n, "label": n, "kind": "age_at_index"} for n in estimate.adjusted_for]
    protocol = example.evidence().protocol | {"analyses": rows, "covariates": covariates, "subgroups": []}

    def report(found: FederatedEstimate) -> str:
        own = synthesis(estimate)
        return render_report(example.evidence(federated=[found], synthesis=own, protocol=protocol))

    html = report(estimate)
    assert label in html
    assert 'aria-label="Figure: federated hazard ratios"' not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    html = report(estimate.model_copy(update={"place": 2, "role": "sensitivity"}))
    assert html.count(label) == 0, "another analysis is no line beside these"
    assert 'aria-label="Figure: federated hazard ratios"' in html
    assert render_report(example.evidence()).count("Hospitals that kept their patients") == 0


def test_a_refresh_without_an_estimate_says_why_and_the_test_stands(
    made: Hospitals, estimate: FederatedEstimate
) -> None:
    why = "The likelihood may have no maximum: <b>exposed</b>."
    nothing = {"estimate": None, "log_estimate": None, "se": None, "ci_low": None, "ci_high": None}
    coefficients = [
        c.model_copy(
            update={"estimate": None, "se": None, "hazard_ratio": None, "ci_low": None, "ci_high": None}
        )
        for c in estimate.coefficients
    ]
    found = estimate.model_copy(
        update={
            **nothing,
            "p_value": None,
            "coefficients": coefficients,
            "has_converged": False,
            "warnings": [why],
        }
    )
    page = Page(render_federated(found, made.study()))
    for text in (page.text, Page(render_report(example.evidence(federated=[found]))).text):
        assert "not estimable" in text
        assert why.rstrip(".") in text
    assert "Mantel–Byar test stratified by site" in page.text
    assert "nan" not in page.text.lower().split()
    assert "b" not in page.tags


def test_a_naive_estimate_is_marked_as_biased(made: Hospitals, estimate: FederatedEstimate) -> None:
    found = estimate.model_copy(update={"analysis": "naive_cox", "is_biased": True})
    html = render_federated(found, made.study())
    assert "Biased: immortal time." in html
    assert "BIASED: Naive Cox model" in Page(html).text
    assert "BIASED: Naive Cox model" in Page(render_report(example.evidence(federated=[found]))).text


def test_what_an_analysis_does_otherwise_is_said(made: Hospitals, estimate: FederatedEstimate) -> None:
    other = made.study("hub", "other_models").protocol
    clones = estimate.model_copy(update={"place": 4, "analysis": "clone_censor_weight"})
    assert "“Maintenance: start by day 180”" in sentences(clones, other)[0]
    assert how(clones, other).startswith("weighted for age at index (years) and ECOG")
    p = made.study().protocol
    changed = {"endpoint": "progression_free_survival", "salvage": "counts_as_start", "role": "sensitivity"}
    first = p.analyses[0].model_copy(update=changed)
    free = p.model_copy(update={"analyses": [first, *p.analyses[1:]]})
    assert how(estimate, free).startswith("progression-free survival; adjusted for ")
    assert how(estimate, free).endswith("; salvage counts as a start")
    assert "297 events, the hazard of death or progression under" in sentences(estimate, free)[0]
    assert "297 deaths, the hazard of death under" in sentences(estimate, p)[0]


def test_evidence_without_a_hub_is_as_it_was(tmp_path: Path, estimate: FederatedEstimate) -> None:
    write_evidence(example.evidence(), tmp_path / "evidence.json")
    assert "federated" not in json.loads((tmp_path / "evidence.json").read_text())
    write_evidence(example.evidence(federated=[estimate]), tmp_path / "evidence.json")
    assert read_evidence(tmp_path / "evidence.json").federated == [estimate]
