"""What a hub takes of what sites shared, what it refuses, and that patients of two sites count once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwe.analyse.refresh import study_tables
from rwe.config import open_workspace
from rwe.errors import RweError, UsageError
from rwe.identity import SignatureError
from rwe.intake import import_folder
from rwe.linking import read_tokens
from rwe.sharing.collect import PartlyCollectedError, collect, of_other_protocols, read_collected
from rwe.sharing.frames import ShareError, from_parquet, schema, to_parquet
from rwe.sharing.manifest import read_manifest
from rwe.study import load_studies
from rwe.warehouse.build import build
from tests.integration.sharing import (
    CASE,
    Arrived,
    Network,
    arrived_at,
    flip,
    linked_hospitals,
    rwe,
    share_all,
    three_sites,
    trust,
    with_settings,
    workspace,
)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return linked_hospitals(tmp_path_factory.mktemp("linked"))


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


def test_a_hub_that_extracts_from_both_counts_once_too(linked: Network, tmp_path: Path) -> None:
    """Both sites in one workspace: nothing is shared, the tokens stay where they are."""
    hub = workspace(tmp_path, "hub")
    settings = (linked.sites["north"].root / "rwe.yaml").read_text()
    link = re.search(r"    link: .*", settings)
    assert link is not None
    for name in ("north", "siteD"):
        import_folder(hub, linked.folder / f"handed-{name}", name)
        hub = with_settings(open_workspace(hub.root), f"{name}: {{}}", f"{name}:\n{link[0]}")
    build(hub, load_studies(hub.studies))
    tables = study_tables(hub, three_sites(hub))
    assert tables.survival["site"].value_counts().to_dict() == {"siteD": 12}
    assert tables.pooling is not None
    assert (tables.pooling.counted_once, tables.pooling.notes) == (3, ())
    last = tables.attrition[-1]
    assert (last.n_before, last.n_excluded, last.n_after) == (15, 3, 12)
    assert not (hub.root / "shared").exists()
    assert len(read_tokens(hub, "siteD")) == 12


def test_sites_that_cannot_be_linked_are_named(linked: Network, tmp_path: Path) -> None:
    """Without a link key at north its patients count twice, and the evidence says so."""
    copy = tmp_path / "north"
    shutil.copytree(linked.sites["north"].root, copy)
    text = (copy / "rwe.yaml").read_text()
    (copy / "rwe.yaml").write_text(re.sub(r"north:\n    link: .*", "north: {}", text))
    hub = linked.hub(tmp_path, ("siteD",))
    trust(hub, "north", linked.sites["north"])
    collect(hub, [share_all(open_workspace(copy), tmp_path / "out")], load_studies(hub.studies))
    tables = study_tables(hub, three_sites(hub))
    assert len(tables.survival) == 15
    assert tables.pooling is not None
    assert tables.pooling.counted_once is None
    assert "Not linked by tokens: north and siteD." in tables.pooling.notes[0]


def test_a_site_that_shares_again_is_linked_with_what_is_known(linked: Network, tmp_path: Path) -> None:
    """North's tokens are gone when site D shares a second time: who was one person before still is."""
    hub = linked.hub(tmp_path, ("north", "siteD"))
    first = study_tables(hub, three_sites(hub))
    collect(hub, [share_all(linked.sites["siteD"], tmp_path / "again")], load_studies(hub.studies))
    second = study_tables(hub, three_sites(hub))
    assert second.survival.equals(first.survival)
    assert second.pooling is not None
    assert "Not linked by tokens: north and siteD." in second.pooling.notes[0]  # for who is new since


# What is taken


@pytest.fixture
def arrived(linked: Network, tmp_path: Path) -> Arrived:
    return arrived_at(linked.hub(tmp_path, ()), linked, tmp_path)


def test_an_untouched_share_is_taken_once(arrived: Arrived) -> None:
    (first,) = collect(arrived.hub, [arrived.path.parent], load_studies(arrived.hub.studies))
    (second,) = collect(arrived.hub, [arrived.path], load_studies(arrived.hub.studies))
    assert (first.site, first.patients, first.is_new, second.is_new) == ("siteD", 12, True, False)
    (kept,) = read_collected(arrived.hub, three_sites(arrived.hub))
    assert kept.tables["survival"].num_rows == 12
    assert all(p.stat().st_mode & 0o077 == 0 for p in (arrived.hub.root / "shared").rglob("*"))


def _change(table: pd.DataFrame, day: tuple[int, ...]) -> pd.DataFrame:
    """Changes of a covariate of one patient on these days."""
    rows = [{"patient_id": "0" * 32, "covariate": "x", "day": d, "value": 1.0} for d in day]
    return pd.DataFrame(rows).astype({"day": "int32"})[list(table.columns)]


def _rewrite(path: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> bytes:
    table = pq.read_table(path / f"{name}.parquet")
    changed = pa.Table.from_pandas(change(table.to_pandas()), preserve_index=False)
    pq.write_table(
        changed.cast(table.schema) if changed.schema.names == table.schema.names else changed,
        path / f"{name}.parquet",
    )
    return (path / f"{name}.parquet").read_bytes()


def test_a_changed_table_is_refused(arrived: Arrived) -> None:
    flip(arrived.path / "survival.parquet")
    with pytest.raises(ShareError, match="not the file that was signed"):
        arrived.take()


def test_a_changed_manifest_is_refused(arrived: Arrived) -> None:
    path = arrived.path / "manifest.json"
    path.write_text(path.read_text().replace('"siteD"', '"siteD" '))
    with pytest.raises(SignatureError):
        arrived.take()


def test_a_site_that_is_not_pinned_is_refused(arrived: Arrived, linked: Network) -> None:
    arrived.resign(site="siteE")
    with pytest.raises(UsageError, match="no key is pinned"):
        arrived.take()


def test_a_site_cannot_speak_for_another(arrived: Arrived, linked: Network) -> None:
    trust(arrived.hub, "north", linked.sites["north"])
    arrived.resign(site="north")
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
        ("covariate", lambda t: t.head(1).assign(patient_id="0" * 32), "rows of nobody"),
        ("covariate", lambda t: pd.concat([t, t.head(1).assign(value=1.0)]), "two rows of one covariate"),
        ("change", lambda t: _change(t, day=(3, 3)), "two rows of one covariate and day"),
        (
            "survival",
            lambda t: t.assign(time_days=-1, start_day=None),
            "time_days of survival has days before",
        ),
        ("survival", lambda t: t.assign(start_day=t["time_days"] + 1), "start_day has days after the end"),
        ("survival", lambda t: t.assign(progression_day=-5), "progression_day of survival has days before"),
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


def test_the_good_ones_are_taken_and_the_others_named(arrived: Arrived, linked: Network) -> None:
    trust(arrived.hub, "north", linked.sites["north"])
    bad = arrived.path.with_name("share=bad")
    shutil.copytree(linked.shares["north"], bad)
    flip(bad / "survival.parquet")
    with pytest.raises(PartlyCollectedError, match="share=bad") as caught:
        collect(arrived.hub, [arrived.path.parent], load_studies(arrived.hub.studies))
    assert [r.site for r in caught.value.results] == ["siteD"]


def test_a_kept_share_that_was_altered_is_noticed(arrived: Arrived) -> None:
    arrived.take()
    flip(arrived.hub.root / "shared" / "study=three_sites" / "site=siteD" / "survival.parquet")
    with pytest.raises(ShareError, match="not as it was collected"):
        read_collected(arrived.hub, three_sites(arrived.hub))


def test_an_encrypted_hub_keeps_shares_sealed(linked: Network, tmp_path: Path) -> None:
    hub = workspace(tmp_path, "hub")
    key = tmp_path / "encryption.key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    hub = with_settings(hub, "version: 1", f"version: 1\nencryption:\n  key_file: {key}")
    trust(hub, "siteD", linked.sites["siteD"])
    collect(hub, [linked.shares["siteD"]], load_studies(hub.studies))
    patients = pq.read_table(linked.shares["siteD"] / "survival.parquet")["patient_id"].to_pylist()
    for file in (hub.root / "shared").rglob("*"):
        if file.is_file():
            assert not [p for p in patients if p.encode() in file.read_bytes()], file.name
    (kept,) = read_collected(hub, three_sites(hub))
    assert kept.tables["survival"]["patient_id"].to_pylist() == sorted(patients)


def test_the_command_line_shares_and_collects(linked: Network, tmp_path: Path) -> None:
    site, hub = linked.sites["siteD"].root, workspace(tmp_path, "hub").root
    document = tmp_path / "siteD.json"
    shown = rwe("keys", "show", "--out", document, "-w", site)
    fingerprint = shown.split("Fingerprint:")[1].split("\n")[0].strip()
    with pytest.raises(UsageError, match="fingerprint"):
        rwe("keys", "pin", "siteD", document, "--fingerprint", "0" * 32, "-w", hub)
    rwe("keys", "pin", "siteD", document, "--fingerprint", fingerprint, "-w", hub)
    told = rwe("share", "three_sites", "--to", tmp_path / "out", "--dry-run", "-w", site)
    assert "No date leaves" in told
    assert not (tmp_path / "out").exists()
    rwe("share", "three_sites", "--to", tmp_path / "out", "-w", site)
    assert "12 patients" in rwe("collect", tmp_path / "out", "-w", hub)
    log = [json.loads(line) for line in (site / "audit.ndjson").read_text().splitlines()]
    assert ("share --dates anchored", "siteD", "three_sites") in {
        (e["command"], e["site"], e["study"]) for e in log
    }


def test_a_killed_collection_leaves_the_share_of_before(arrived: Arrived) -> None:
    """Killed between the two renames, the old share lies aside: it is found again, whole."""
    arrived.take()
    kept = arrived.hub.root / "shared" / "study=three_sites" / "site=siteD"
    kept.rename(kept.with_name(".site=siteD.old"))
    arrived.take()
    (share,) = read_collected(arrived.hub, three_sites(arrived.hub))
    assert share.tables["survival"].num_rows == 12


def test_after_a_finished_swap_the_share_of_before_is_gone_at_the_next_look(arrived: Arrived) -> None:
    """Killed just after the swap: whoever was erased since may be in the old one."""
    arrived.take()
    kept = arrived.hub.root / "shared" / "study=three_sites" / "site=siteD"
    old = kept.with_name(".site=siteD.old")
    shutil.copytree(kept, old)
    arrived.take()
    assert not old.exists()
    assert kept.is_dir()


def test_after_a_killed_collection_the_share_of_before_is_analysed(arrived: Arrived) -> None:
    arrived.take()
    kept = arrived.hub.root / "shared" / "study=three_sites" / "site=siteD"
    kept.rename(kept.with_name(".site=siteD.old"))
    (share,) = read_collected(arrived.hub, three_sites(arrived.hub))
    assert (share.site, share.tables["survival"].num_rows) == ("siteD", 12)
    assert kept.is_dir()


def test_a_share_of_an_older_protocol_is_named_and_not_analysed(linked: Network, tmp_path: Path) -> None:
    hub = linked.hub(tmp_path, ("north", "siteD"))
    path = hub.studies / "three_sites.yaml"
    path.write_text(path.read_text().replace("grace_days: 180", "grace_days: 181"))
    study = three_sites(hub)
    assert read_collected(hub, study) == ()
    assert of_other_protocols(hub, study) == ("north", "siteD")


def test_a_covariate_may_change_before_index_and_on_two_days(arrived: Arrived) -> None:
    """What is known at index changed before it: not every negative day is a mistake."""
    table = pq.read_table(arrived.path / "change.parquet").to_pandas()
    changes = pa.Table.from_pandas(_change(table, day=(-30, 4)), preserve_index=False)
    found = from_parquet("change", to_parquet(changes.cast(schema("change"))), "")
    assert found["day"].to_pylist() == [-30, 4]


def test_errors_are_sentences(arrived: Arrived) -> None:
    with pytest.raises(RweError, match="there is no share here"):
        collect(arrived.hub, [arrived.hub.root], [])
