"""Cohort tables from sites to a hub: what leaves, and that the numbers are the same."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwe.analyse.pool_tables import concatenated
from rwe.analyse.read import read_study
from rwe.analyse.refresh import make_evidence, study_tables
from rwe.analyse.safety import describe_kinetics, describe_safety
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import ConfigError
from rwe.evidence.contract import Estimate, Evidence
from rwe.evidence.synthesis import MetaResult
from rwe.identity import make_identity
from rwe.intake import import_folder
from rwe.resources import bundled
from rwe.sandbox.dialects import CART_COPIES, LOCAL_CODES
from rwe.sandbox.hospital import demo_specs, write_ndjson
from rwe.sharing.collect import collect
from rwe.sharing.files import shared_pseudonym
from rwe.sharing.frames import ShareError
from rwe.sharing.manifest import read_manifest
from rwe.sharing.share import outgoing, write_share
from rwe.study import load_studies
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split, no_changes
from rwe.warehouse.build import build
from tests.integration.sharing import (
    CASE,
    SITES,
    Network,
    R,
    publishing_anchored,
    share_all,
    three_sites,
    trust,
    workspace,
)

COX, META = 1e-6, 1e-5


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Four hospitals; what each shared has exact dates."""
    folder = tmp_path_factory.mktemp("network")
    sites, shares = {}, {}
    for name in SITES:
        made = sites[name] = workspace(folder, name)
        import_folder(made, CASE / "fhir" / name, name)
        build(made, load_studies(made.studies))
        make_identity(made)
        shares[name] = share_all(made, folder / "outbox", "exact")
    return Network(folder, sites, shares)


def evidence_of(hub: Workspace) -> Evidence:
    study = three_sites(hub)
    return make_evidence(study, study_tables(hub, study), created_at=datetime.now(UTC))[0]


@pytest.fixture(scope="module")
def of_three(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return evidence_of(network.hub(tmp_path_factory.mktemp("abc"), SITES[:3]))


@pytest.fixture(scope="module")
def of_four(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return evidence_of(network.hub(tmp_path_factory.mktemp("abcd"), SITES))


def cox(evidence: Evidence, *, ties: str, site: str | None = None, stratified: bool = False) -> Estimate:
    (found,) = [
        e
        for e in evidence.estimates
        if e.analysis == "time_dependent_cox"
        and (e.site, e.parameters.ties, bool(e.parameters.stratified_by)) == (site, ties, stratified)
    ]
    return found


def same_cox(e: Estimate, r: dict[str, Any]) -> None:
    assert (e.log_estimate, e.se) == pytest.approx((r["log_hr"], r["se"]), abs=COX)
    assert e.p_value == pytest.approx(r["p_wald"], abs=COX)
    assert e.events == r["events"]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_shared_and_collected_three_sites_give_rs_figures(of_three: Evidence, ties: str) -> None:
    r = R[ties]
    same_cox(cox(of_three, ties=ties, stratified=True), r["stratified_ABC"])
    same_cox(cox(of_three, ties=ties), r["unstratified_ABC"])
    for site, own in r["per_site"].items():
        same_cox(cox(of_three, ties=ties, site=site), own)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_site_without_an_event_on_treatment_neither_breaks_nor_vanishes(
    of_four: Evidence, ties: str
) -> None:
    same_cox(cox(of_four, ties=ties, stratified=True), R[ties]["stratified_ABCD"])
    for site, own in R[ties]["per_site"].items():
        same_cox(cox(of_four, ties=ties, site=site), own)
    d = cox(of_four, ties=ties, site="siteD")
    assert (d.n, d.estimate, d.status) == (12, None, "did_not_converge")


def test_a_hub_of_shares_is_one_workspace_of_all_sites(network: Network, of_four: Evidence) -> None:
    """The same rows read from the sites' own databases and put together, without sharing anything."""
    own = [read_study(w.private_database, three_sites(w)) for w in (network.sites[name] for name in SITES)]
    rows = exposure_split(concatenated(own, ()).cohort(), ["age", "ecog"])
    fit = exposure_cox(rows, stratify_by_site=True)
    pooled = cox(of_four, ties="efron", stratified=True)
    assert pooled.log_estimate == pytest.approx(fit.hazard_ratio().log_estimate, abs=1e-10)
    assert pooled.se == pytest.approx(fit.hazard_ratio().se, abs=1e-10)
    counts = {s.name: s.patients for s in of_four.sites}
    assert counts == {site: c["n"] for site, c in R["counts"].items()}


def test_a_hub_takes_its_own_sites_and_shares_together(network: Network, tmp_path: Path) -> None:
    """Site D extracted by the hub, the others shared: R's figures of four sites."""
    hub = network.hub(tmp_path, SITES[:3])
    import_folder(hub, CASE / "fhir" / "siteD", "siteD")
    build(hub, load_studies(hub.studies))
    evidence = evidence_of(hub)
    same_cox(cox(evidence, ties="efron", stratified=True), R["efron"]["stratified_ABCD"])
    assert evidence.synthesis is not None
    assert {s.site: s.source for s in evidence.synthesis.sources} == {
        **dict.fromkeys(SITES[:3], "shared"),
        "siteD": "extracted",
    }
    assert [r.site for r in evidence.runs if r.route == "shared"] == list(SITES[:3])


_MODELS = {"FE": "common", "DL": "dl", "REML": "reml"}
_INTERVALS = {"": "wald", "HKSJ": "hksj", "HKSJ_adhoc": "hksj_adhoc"}


@pytest.mark.parametrize(
    "key", ["FE", *(f"{m}{i}" for m in ("DL", "REML") for i in ("", "_HKSJ", "_HKSJ_adhoc"))]
)
@pytest.mark.parametrize("which", ["of_three", "of_four"])
def test_meta_analyses_of_a_hub_are_metafors(key: str, which: str, request: pytest.FixtureRequest) -> None:
    """Site D has no estimate, so those of four sites are those of three."""
    evidence: Evidence = request.getfixturevalue(which)
    assert evidence.synthesis is not None
    model, _, interval = key.partition("_")
    (m,) = [
        m for m in evidence.synthesis.meta if (m.model, m.interval) == (_MODELS[model], _INTERVALS[interval])
    ]
    _same_meta(m, R["meta_ABC"][key])


def _same_meta(m: MetaResult, r: dict[str, Any]) -> None:
    assert m.sites == 3
    assert (m.log_estimate, m.se, m.tau2) == pytest.approx((r["log_hr"], r["se"], r["tau2"]), abs=META)
    assert (m.ci_low, m.ci_high) == pytest.approx((r["lo"], r["hi"]), rel=META)
    assert (m.q, m.q_p_value) == pytest.approx((r["Q"], r["Q_p"]), abs=META)
    if r["pi_lo"] != {}:
        assert (m.prediction_low, m.prediction_high) == pytest.approx((r["pi_lo"], r["pi_hi"]), rel=META)


#: R 4.2, survival 3.5-3, on tests/cases/e_three_sites: coxph(Surv(tstart, tstop, death) ~ trt +
#: (age + ecog):site + strata(site)), and twice the difference in loglik of trt:site against trt.
SITE_COEFFICIENTS = {3: (-0.352289771162, 0.167195045432), 4: (-0.401204581523, 0.165024080545)}
INTERACTION_OF_THREE, INTERACTION_OF_FOUR = 8.15026197801, 13.38883148


def test_the_site_without_an_estimate_counts_by_its_likelihood(of_three: Evidence, of_four: Evidence) -> None:
    for sites, evidence in ((3, of_three), (4, of_four)):
        assert evidence.synthesis is not None
        found = {w.method: w for w in evidence.synthesis.with_every_site}
        whole = found["profile_likelihood"]
        assert whole.sites == sites
        assert (whole.log_estimate, whole.se) == pytest.approx(SITE_COEFFICIENTS[sites], abs=COX)
    assert of_four.synthesis is not None
    d = of_four.synthesis.sites[-1]
    assert (d.site, d.counted, d.weight_common) == ("siteD", "likelihood", None)
    assert d.events_by_strategy["maintenance"] == 0
    three = {w.method: w.log_estimate for w in of_three.synthesis.with_every_site}  # type: ignore[union-attr]
    for w in of_four.synthesis.with_every_site:  # five control deaths, none on treatment: all move down
        assert w.log_estimate < three[w.method]  # type: ignore[operator]


def test_whether_sites_differ_is_a_likelihood_ratio(of_three: Evidence, of_four: Evidence) -> None:
    three, four = (e.synthesis.interaction for e in (of_three, of_four))  # type: ignore[union-attr]
    assert three is not None
    assert four is not None
    assert (three.chi_square, three.df) == (pytest.approx(INTERACTION_OF_THREE, abs=1e-8), 2)
    # R stops on the way to D's infinite coefficient, a little below the limit of the likelihood.
    assert (four.chi_square, four.df) == (pytest.approx(INTERACTION_OF_FOUR, abs=1e-5), 3)


def test_leaving_out_the_site_that_disagrees_leaves_no_heterogeneity(of_four: Evidence) -> None:
    assert of_four.synthesis is not None
    left = {one.site: one for one in of_four.synthesis.leave_one_out}
    assert set(left) == {"siteA", "siteB", "siteC"}
    assert left["siteB"].tau2 == 0 < left["siteA"].tau2


FRAMES = ("changes", "toxicity", "intercurrent", "copies", "expansion", "response")


CLINICAL = """
toxicities: [{name: neutropenia, adverse_event: neutropenia, codelist: neutrophils}]
cart_copies: {codelist: copies, unit: "{copies}/ug"}
"""
CODES = {"neutrophils": "http://loinc.org,751-8", "copies": f"{LOCAL_CODES},{CART_COPIES}"}


def _clinical_studies(made: Workspace) -> None:
    """The bundled study, which also asks for a toxicity and for copies of the transgene."""
    shutil.copytree(bundled("studies"), made.studies, dirs_exist_ok=True)
    (path,) = made.studies.glob("*.yaml")
    path.write_text(path.read_text() + CLINICAL)
    for name, code in CODES.items():
        lines = f"system,code,display,source,valid_from,valid_to\n{code},{name},test,,\n"
        (made.studies / "codelists" / f"{name}.csv").write_text(lines)


def test_every_table_of_a_large_study_arrives_as_it_was(tmp_path: Path) -> None:
    """Toxicities, copies of the transgene, response, disease status: 60 made-up patients, row by row."""
    site = init_workspace(tmp_path / "site", key_file=tmp_path / "site.key")
    hub = init_workspace(tmp_path / "hub", key_file=tmp_path / "hub.key")
    for made in (site, hub):
        _clinical_studies(made)
    spec = demo_specs(seed=1, patients=60)[0]
    (tmp_path / "handed").mkdir()
    write_ndjson(spec, tmp_path / "handed")
    import_folder(site, tmp_path / "handed", spec.name)
    build(site, load_studies(site.studies))
    make_identity(site)
    (study,) = load_studies(site.studies)
    for going in outgoing(site, study, dates="exact"):
        write_share(site, going, tmp_path / "out")
    trust(hub, spec.name, site)
    collect(hub, [tmp_path / "out"], load_studies(hub.studies))

    own = read_study(site.private_database, study)
    rename = shared_pseudonym(site, study.name, spec.name)
    arrived = study_tables(hub, study)
    whole = pd.concat([own.survival, own.covariates], axis=1)
    assert len(whole) > 30
    _same_rows(pd.concat([arrived.survival, arrived.covariates], axis=1), whole, rename)
    cohort = set(own.survival["patient_id"])
    for name in FRAMES:
        sent = getattr(own, name)
        _same_rows(getattr(arrived, name), sent[sent["patient_id"].isin(cohort)], rename)
    filled = [n for n in FRAMES if len(getattr(arrived, n))]
    assert {"changes", "toxicity", "copies", "expansion", "response"} <= set(filled)
    assert describe_kinetics(study, arrived) == describe_kinetics(study, own)
    assert describe_safety(study, arrived) == describe_safety(study, own)


def _same_rows(found: pd.DataFrame, sent: pd.DataFrame, rename: Callable[[str], str]) -> None:
    sent = sent.assign(patient_id=sent["patient_id"].map(rename))
    columns = list(sent.columns)
    assert list(found.columns) == columns
    a, b = (f.sort_values(columns, ignore_index=True) for f in (found, sent))
    pd.testing.assert_frame_equal(a, b, check_dtype=False, check_exact=True)


# What leaves


@pytest.fixture(scope="module")
def anchored(network: Network) -> Path:
    return share_all(network.sites["siteD"], network.folder / "anchored")


def test_without_an_agreement_no_date_leaves(network: Network, anchored: Path) -> None:
    manifest = read_manifest((anchored / "manifest.json").read_bytes(), "")
    assert (manifest.dates, manifest.ages) == ("anchored", "whole_years")
    for file in anchored.glob("*.parquet"):
        kinds = [f.type for f in pq.read_schema(file)]
        assert not [k for k in kinds if pa.types.is_temporal(k)], file.name
    text = (anchored / "manifest.json").read_text()
    with (CASE / "cohort.csv").open(newline="") as f:
        dates = {
            r[c]
            for r in csv.DictReader(f)
            for c in ("birth_date", "index_date", "death_date", "last_seen_date")
            if r["site"] == "siteD" and r[c]
        }
    assert len(dates) > 20
    assert not [d for d in dates if d in text]
    covariates = pq.read_table(anchored / "covariate.parquet").to_pandas()
    ages = covariates[covariates["covariate"] == "age"]["value"]
    assert sorted(ages) == sorted(math.floor(a) for a in _ages("siteD"))


def _ages(site: str) -> list[float]:
    with (CASE / "cohort.csv").open(newline="") as f:
        return [float(r["age_years_exact"]) for r in csv.DictReader(f) if r["site"] == site]


def test_pseudonyms_are_made_for_the_study(network: Network, anchored: Path) -> None:
    site = network.sites["siteD"]
    own = set(read_study(site.private_database, three_sites(site)).survival["patient_id"])
    shared = set(pq.read_table(anchored / "survival.parquet")["patient_id"].to_pylist())
    assert len(own) == len(shared) == 12
    assert not own & shared
    for file in anchored.iterdir():
        content = file.read_bytes()
        assert not [p for p in own if p.encode() in content], file.name
    again = pq.read_table(network.shares["siteD"] / "survival.parquet")["patient_id"].to_pylist()
    assert set(again) == shared  # the same person tomorrow, so that the hub sees who is new


def test_no_hash_of_the_private_database_leaves(network: Network, anchored: Path) -> None:
    site = network.sites["siteD"]
    private = read_study(site.private_database, three_sites(site)).content_sha256
    for file in anchored.iterdir():
        assert private[:8].encode() not in file.read_bytes()


def test_who_was_left_out_leaves_as_rounded_counts_only(anchored: Path) -> None:
    manifest = read_manifest((anchored / "manifest.json").read_bytes(), "")
    assert manifest.attrition
    assert {(n - 3) % 6 for s in manifest.attrition for n in (s.n_before, s.n_after) if n} == {0}


def test_whole_ages_are_the_only_change_of_the_estimate(network: Network, tmp_path: Path) -> None:
    """Against cohort.csv itself, ages floored, fitted without warehouse, share or hub."""
    hub = workspace(tmp_path, "hub")
    for name in SITES[:3]:
        trust(hub, name, network.sites[name])
        share_all(network.sites[name], tmp_path / "anchored")
    collect(hub, [tmp_path / "anchored"], load_studies(hub.studies))
    rows = pd.read_csv(CASE / "cohort.csv")
    rows = rows[rows["site"] != "siteD"]
    patients = pd.DataFrame(
        {
            "patient_id": rows["patient_id"],
            "site": rows["site"],
            "time_days": rows["time_days"],
            "is_event": rows["event"] == 1,
            "start_day": rows["maint_day"],
            "age": rows["age_years_exact"].map(math.floor).astype(float),
            "ecog": rows["cov_ecog"],
        }
    ).reset_index(drop=True)
    table = CohortTable(patients, no_changes())
    fit = exposure_cox(exposure_split(table, ["age", "ecog"]), stratify_by_site=True).hazard_ratio()
    evidence = evidence_of(hub)
    found = cox(evidence, ties="efron", stratified=True)
    assert (found.log_estimate, found.se) == pytest.approx((fit.log_estimate, fit.se), abs=1e-9)
    assert found.log_estimate == pytest.approx(R["efron"]["stratified_ABC"]["log_hr"], abs=5e-3)
    assert found.log_estimate != pytest.approx(R["efron"]["stratified_ABC"]["log_hr"], abs=1e-6)
    assert "whole years at siteA, siteB, siteC" in " ".join(evidence.warnings)


def test_files_are_for_nobody_else(anchored: Path) -> None:
    assert anchored.stat().st_mode & 0o077 == 0
    assert {f.stat().st_mode & 0o777 for f in anchored.iterdir()} == {0o600}


def test_exact_dates_need_a_workspace_that_publishes_them(network: Network, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(network.sites["siteD"].root, copy)
    made = publishing_anchored(open_workspace(copy))
    with pytest.raises(ConfigError, match="exact ones are not shared"):
        outgoing(made, three_sites(made), dates="exact")
    assert outgoing(made, three_sites(made))[0].patients == 12


def test_evidence_of_anchored_dates_does_not_carry_the_private_hash(network: Network, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(network.sites["siteD"].root, copy)
    plain = open_workspace(copy)
    private = read_study(plain.private_database, three_sites(plain)).content_sha256
    assert evidence_of(plain).refresh.content_sha256 == private
    made = publishing_anchored(plain)
    first, second = evidence_of(made), evidence_of(made)
    assert private[:8] not in first.model_dump_json()
    assert first.refresh.content_sha256 == second.refresh.content_sha256


CUTOFF = ("horizons: [365]", "horizons: [365]\ncensoring: {rule: data_cutoff, data_cutoff: 2022-01-01}")
YEAR = ("role: primary, adjusted_for: [age, ecog]", "role: primary, adjusted_for: [age, year]")


@pytest.mark.parametrize(
    ("change", "told"), [(CUTOFF, "every index date back"), (YEAR, "tells the calendar")]
)
def test_a_protocol_that_gives_dates_back_is_not_shared_anchored(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    made = workspace(tmp_path, "site")
    path = made.studies / "three_sites.yaml"
    text = path.read_text().replace(
        "covariates:\n", "covariates:\n  - {name: year, kind: years_since, label: Year, origin: 2018-01-01}\n"
    )
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ShareError, match=told):
        outgoing(made, three_sites(made))
