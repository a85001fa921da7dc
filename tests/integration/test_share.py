"""Cohort tables from sites to a hub: what leaves, what arrives, what is refused, and the same numbers."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rwe.analyse.pool_tables import concatenated
from rwe.analyse.read import read_study
from rwe.analyse.refresh import make_evidence, study_tables
from rwe.cli import app
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.errors import ConfigError, RweError, UsageError
from rwe.evidence.contract import Estimate, Evidence
from rwe.evidence.synthesis import MetaResult
from rwe.identity import SignatureError, make_identity, pin, read_identity
from rwe.intake import import_folder
from rwe.linking import read_tokens
from rwe.sharing.collect import PartlyCollectedError, collect, read_collected
from rwe.sharing.frames import ShareError
from rwe.sharing.manifest import Manifest, read_manifest, write_manifest
from rwe.sharing.share import outgoing, write_share
from rwe.study import Study, find_study, load_studies
from rwe.survival.cox import exposure_cox
from rwe.survival.data import CohortTable, exposure_split, no_changes
from rwe.warehouse.build import build
from tests.support import ROOT

CASE = ROOT / "tests" / "cases" / "e_three_sites"
STUDIES = ROOT / "tests" / "cases_studies"
SITES = ("siteA", "siteB", "siteC", "siteD")
R: dict[str, Any] = json.loads((CASE / "expected.json").read_text())
COX, META = 1e-6, 1e-5


def workspace(folder: Path, name: str) -> Workspace:
    made = init_workspace(folder / name, key_file=folder / f"{name}.key")
    shutil.copytree(STUDIES / "codelists", made.studies / "codelists", dirs_exist_ok=True)
    shutil.copy(STUDIES / "three_sites.yaml", made.studies)
    return made


def with_settings(made: Workspace, old: str, new: str) -> Workspace:
    path = made.root / "rwe.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return open_workspace(made.root)


def publishing_anchored(made: Workspace) -> Workspace:
    return with_settings(made, "dates: exact ", "dates: anchored ")


def three_sites(made: Workspace) -> Study:
    return find_study("three_sites", made.studies)


def share_all(made: Workspace, out: Path, dates: Any = "anchored") -> Path:
    """Share what the workspace has; returns the last share's folder."""
    return [write_share(made, g, out).path for g in outgoing(made, three_sites(made), dates=dates)][-1]


def trust(hub: Workspace, site: str, made: Workspace) -> None:
    public = read_identity(made).public
    pin(hub, site, public, public.fingerprint)


@dataclass(frozen=True)
class Network:
    """Four hospitals, each with a workspace of its own, and what each shared with exact dates."""

    folder: Path
    sites: dict[str, Workspace]
    shares: dict[str, Path]

    def hub(self, folder: Path, names: tuple[str, ...]) -> Workspace:
        hub = workspace(folder, "hub")
        for name in names:
            trust(hub, name, self.sites[name])
        if names:
            collect(hub, [self.shares[n] for n in names], load_studies(hub.studies))
        return hub


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
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
        if (e.site, e.parameters.ties, bool(e.parameters.stratified_by)) == (site, ties, stratified)
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
    assert evidence.synthesis is not None
    assert "whole years at siteA, siteB, siteC" in " ".join(evidence.synthesis.notes)


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


# Who is at two sites


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Two hospitals with one link key. Three patients of site D were treated at `north` as well, 40 days
    later; everybody's records are kept under other ids there."""
    folder = tmp_path_factory.mktemp("linked")
    key = folder / "link.key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    sites = {}
    for name in ("north", "siteD"):
        made = workspace(folder, name)
        import_folder(made, _handed_over(folder / f"handed-{name}", copies=3 if name == "north" else 0), name)
        link = f"{name}:\n    link: {{key_file: {key}, inputs: [birth_date, gender, family]}}"
        made = sites[name] = with_settings(open_workspace(made.root), f"{name}: {{}}", link)
        build(made, load_studies(made.studies))
        make_identity(made)
    shares = {n: share_all(w, folder / "outbox") for n, w in sites.items()}
    return Network(folder, sites, shares)


def _handed_over(folder: Path, *, copies: int) -> Path:
    """Site D's records with family names; with `copies`, of so many patients only, 40 days later."""
    folder.mkdir()
    patients = [json.loads(t) for t in (CASE / "fhir/siteD/Patient.ndjson").read_text().splitlines()]
    chosen = [p["id"] for p in patients][: copies or None]
    for source in (CASE / "fhir/siteD").glob("*.ndjson"):
        lines = []
        for text in source.read_text().splitlines():
            if not any(f"{i}" in text for i in chosen):
                continue
            record = json.loads(text)
            if record["resourceType"] == "Patient":
                record["name"] = [{"family": f"Family{chr(65 + chosen.index(record['id']))}"}]
            changed = json.dumps(record)
            if copies:
                born = record.get("birthDate", "")
                changed = re.sub(r"\d{4}-\d{2}-\d{2}", lambda m, born=born: _later(m[0], born), changed)
                changed = changed.replace("SD", "NORTH")
            lines.append(changed)
        (folder / source.name).write_text("\n".join(lines) + "\n")
    return folder


def _later(day: str, unmoved: str) -> str:
    return day if day == unmoved else (date.fromisoformat(day) + timedelta(days=40)).isoformat()


def test_patients_of_two_sites_count_once_by_their_first_index_event(linked: Network, tmp_path: Path) -> None:
    hub = linked.hub(tmp_path, ("north", "siteD"))
    tables = study_tables(hub, three_sites(hub))
    assert tables.survival["site"].value_counts().to_dict() == {"siteD": 12}
    assert tables.pooling is not None
    assert tables.pooling.counted_once == 3
    assert {s.site: s.patients for s in tables.pooling.sources} == {"north": 0, "siteD": 12}


def test_tokens_are_gone_after_use_and_who_is_one_is_still_known(linked: Network, tmp_path: Path) -> None:
    hub = linked.hub(tmp_path, ("north", "siteD"))
    tokens = pq.read_table(linked.shares["siteD"] / "link.parquet")["token"].to_pylist()
    assert len(tokens) == 12
    study = three_sites(hub)
    first = study_tables(hub, study)
    for file in hub.root.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [t for t in tokens if t.encode() in content], file.name
    assert not list(hub.root.rglob("link.parquet*"))
    second = study_tables(hub, study)
    assert second.survival.equals(first.survival)
    assert second.content_sha256 == first.content_sha256


def test_the_sites_own_link_tokens_never_leave(linked: Network) -> None:
    own = read_tokens(linked.sites["siteD"], "siteD")
    assert len(own) == 12
    shared = pq.read_table(linked.shares["siteD"] / "link.parquet")["token"].to_pylist()
    assert not set(own.values()) & set(shared)


def test_a_newcomer_who_cannot_be_linked_is_named(linked: Network, network: Network, tmp_path: Path) -> None:
    """Site A has no link key: who was treated there and elsewhere counts twice, and the evidence says so."""
    hub = linked.hub(tmp_path, ("north", "siteD"))
    trust(hub, "siteA", network.sites["siteA"])
    collect(hub, [network.shares["siteA"]], load_studies(hub.studies))
    tables = study_tables(hub, three_sites(hub))
    assert tables.pooling is not None
    assert tables.pooling.counted_once == 3
    assert "Not linked by tokens: north and siteA, siteA and siteD." in tables.pooling.notes[0]


# What is taken


@dataclass(frozen=True)
class Arrived:
    """A share of site D in a folder of its own, and a hub that trusts site D."""

    hub: Workspace
    site: Workspace
    path: Path

    def take(self) -> object:
        return collect(self.hub, [self.path], load_studies(self.hub.studies))

    def resign(self, **changes: Any) -> None:
        """As site D itself would sign it, with another manifest."""
        old = read_manifest((self.path / "manifest.json").read_bytes(), "")
        new: Manifest = msgspec.structs.replace(old, **changes)
        content, signature = write_manifest(new, read_identity(self.site))
        (self.path / "manifest.json").write_bytes(content)
        (self.path / "manifest.sig").write_bytes(signature)


@pytest.fixture
def arrived(network: Network, tmp_path: Path) -> Arrived:
    hub = network.hub(tmp_path, ())
    trust(hub, "siteD", network.sites["siteD"])
    path = tmp_path / "inbox" / network.shares["siteD"].name
    shutil.copytree(network.shares["siteD"], path)
    return Arrived(hub, network.sites["siteD"], path)


def test_an_untouched_share_is_taken_once(arrived: Arrived) -> None:
    (first,) = collect(arrived.hub, [arrived.path.parent], load_studies(arrived.hub.studies))
    (second,) = collect(arrived.hub, [arrived.path], load_studies(arrived.hub.studies))
    assert (first.site, first.patients, first.is_new, second.is_new) == ("siteD", 12, True, False)
    (kept,) = read_collected(arrived.hub, three_sites(arrived.hub))
    assert kept.tables["survival"].num_rows == 12
    assert all(p.stat().st_mode & 0o077 == 0 for p in (arrived.hub.root / "shared").rglob("*"))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _rewrite(path: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> bytes:
    table = pq.read_table(path / f"{name}.parquet")
    changed = pa.Table.from_pandas(change(table.to_pandas()), preserve_index=False)
    pq.write_table(
        changed.cast(table.schema) if changed.schema.names == table.schema.names else changed,
        path / f"{name}.parquet",
    )
    return (path / f"{name}.parquet").read_bytes()


def test_a_changed_table_is_refused(arrived: Arrived) -> None:
    _flip(arrived.path / "survival.parquet")
    with pytest.raises(ShareError, match="not the file that was signed"):
        arrived.take()


def test_a_changed_manifest_is_refused(arrived: Arrived) -> None:
    path = arrived.path / "manifest.json"
    path.write_text(path.read_text().replace('"siteD"', '"siteD" '))
    with pytest.raises(SignatureError):
        arrived.take()


def test_a_site_that_is_not_pinned_is_refused(arrived: Arrived, network: Network) -> None:
    arrived.resign(site="siteE")
    with pytest.raises(UsageError, match="no key is pinned"):
        arrived.take()


def test_a_site_cannot_speak_for_another(arrived: Arrived, network: Network) -> None:
    trust(arrived.hub, "siteA", network.sites["siteA"])
    arrived.resign(site="siteA")
    with pytest.raises(SignatureError):
        arrived.take()


def test_another_protocol_is_refused_with_a_sentence(arrived: Arrived) -> None:
    arrived.resign(protocol_sha256="0" * 64)
    with pytest.raises(ShareError, match="another protocol of three_sites than the hub's version"):
        arrived.take()


def test_an_older_share_does_not_replace_a_newer(arrived: Arrived) -> None:
    arrived.take()
    made = read_manifest((arrived.path / "manifest.json").read_bytes(), "").created_at
    arrived.resign(created_at=made - timedelta(days=1))
    with pytest.raises(ShareError, match="a newer share of siteD is here"):
        arrived.take()
    arrived.resign(created_at=made + timedelta(minutes=1))
    arrived.take()
    arrived.resign(created_at=datetime.now(UTC) + timedelta(days=400))
    with pytest.raises(ShareError, match="future"):
        arrived.take()


def test_a_site_that_the_hub_extracts_from_is_not_taken_twice(arrived: Arrived) -> None:
    import_folder(arrived.hub, CASE / "fhir" / "siteD", "siteD")
    with pytest.raises(ShareError, match="extracts from this site itself"):
        arrived.take()


def test_nor_analysed_where_extraction_came_later(arrived: Arrived) -> None:
    arrived.take()
    import_folder(arrived.hub, CASE / "fhir" / "siteD", "siteD")
    with pytest.raises(ShareError, match="count its patients twice"):
        study_tables(arrived.hub, three_sites(arrived.hub))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("survival", lambda t: t.assign(name="x"), "other columns"),
        ("survival", lambda t: t.assign(patient_id="Doe, John"), "no pseudonym"),
        ("survival", lambda t: pd.concat([t, t.head(1)]), "two rows"),
        ("covariate", lambda t: t.assign(value=float("inf")), "infinite"),
        ("covariate", lambda t: t.assign(patient_id="0" * 32), "rows of nobody"),
    ],
)
def test_what_no_site_should_send_is_refused_though_signed(
    arrived: Arrived, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], told: str
) -> None:
    raw = _rewrite(arrived.path, name, change)
    old = read_manifest((arrived.path / "manifest.json").read_bytes(), "")
    entry = msgspec.structs.replace(
        old.tables[name],
        sha256=hashlib.sha256(raw).hexdigest(),
        rows=pq.read_metadata(arrived.path / f"{name}.parquet").num_rows,
    )
    arrived.resign(tables={**old.tables, name: entry})
    with pytest.raises(ShareError, match=told) as caught:
        arrived.take()
    assert "Doe" not in str(caught.value)


def test_content_that_the_manifest_does_not_name_is_refused(arrived: Arrived) -> None:
    arrived.resign(content_sha256="0" * 64)
    with pytest.raises(ShareError, match="not what the manifest says"):
        arrived.take()


def test_a_name_in_a_manifest_is_no_path(arrived: Arrived) -> None:
    path = arrived.path / "manifest.json"
    path.write_text(path.read_text().replace('"siteD"', '"../../evil"'))
    with pytest.raises(ShareError, match="not that of a share"):
        arrived.take()


def test_the_good_ones_are_taken_and_the_others_named(arrived: Arrived, network: Network) -> None:
    trust(arrived.hub, "siteA", network.sites["siteA"])
    bad = arrived.path.with_name("share=bad")
    shutil.copytree(network.shares["siteA"], bad)
    _flip(bad / "survival.parquet")
    with pytest.raises(PartlyCollectedError, match="share=bad") as caught:
        collect(arrived.hub, [arrived.path.parent], load_studies(arrived.hub.studies))
    assert [r.site for r in caught.value.results] == ["siteD"]


def test_a_kept_share_that_was_altered_is_noticed(arrived: Arrived) -> None:
    arrived.take()
    _flip(arrived.hub.root / "shared" / "study=three_sites" / "site=siteD" / "survival.parquet")
    with pytest.raises(ShareError, match="not as it was collected"):
        read_collected(arrived.hub, three_sites(arrived.hub))


def test_an_encrypted_hub_keeps_shares_sealed(network: Network, tmp_path: Path) -> None:
    hub = workspace(tmp_path, "hub")
    key = tmp_path / "encryption.key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    hub = with_settings(hub, "version: 1", f"version: 1\nencryption:\n  key_file: {key}")
    trust(hub, "siteD", network.sites["siteD"])
    collect(hub, [network.shares["siteD"]], load_studies(hub.studies))
    patients = pq.read_table(network.shares["siteD"] / "survival.parquet")["patient_id"].to_pylist()
    for file in (hub.root / "shared").rglob("*"):
        if file.is_file():
            assert not [p for p in patients if p.encode() in file.read_bytes()], file.name
    (kept,) = read_collected(hub, three_sites(hub))
    assert kept.tables["survival"]["patient_id"].to_pylist() == sorted(patients)


def test_the_command_line_shares_and_collects(network: Network, tmp_path: Path) -> None:
    site, hub = network.sites["siteD"].root, workspace(tmp_path, "hub").root
    document = tmp_path / "siteD.json"
    shown = _rwe("keys", "show", "--out", document, "-w", site)
    fingerprint = shown.split("Fingerprint:")[1].split("\n")[0].strip()
    with pytest.raises(UsageError, match="fingerprint"):
        _rwe("keys", "pin", "siteD", document, "--fingerprint", "0" * 32, "-w", hub)
    _rwe("keys", "pin", "siteD", document, "--fingerprint", fingerprint, "-w", hub)
    told = _rwe("share", "three_sites", "--to", tmp_path / "out", "--dry-run", "-w", site)
    assert "No date leaves" in told
    assert not (tmp_path / "out").exists()
    _rwe("share", "three_sites", "--to", tmp_path / "out", "-w", site)
    assert "12 patients" in _rwe("collect", tmp_path / "out", "-w", hub)
    log = [json.loads(line) for line in (site / "audit.ndjson").read_text().splitlines()]
    assert ("share --dates anchored", "siteD", "three_sites") in {
        (e["command"], e["site"], e["study"]) for e in log
    }


def _rwe(*words: object) -> str:
    """What a command says; an error is raised, as the entry point gets it."""
    done = CliRunner().invoke(app, [str(w) for w in words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


def test_errors_are_sentences(arrived: Arrived) -> None:
    with pytest.raises(RweError, match="there is no share here"):
        collect(arrived.hub, [arrived.hub.root], [])
