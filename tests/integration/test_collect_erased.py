"""Who was erased at a site is erased at the hub, and what stays behind once a share was collected."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rwe.analyse import analyse
from rwe.analyse.refresh import study_tables
from rwe.config import Workspace, open_workspace
from rwe.intake import import_folder
from rwe.keeping.erase import erase
from rwe.sharing.collect import collect, read_collected
from rwe.sharing.frames import ShareError, laid_out, to_parquet
from rwe.sharing.manifest import TableEntry, read_manifest
from rwe.sharing.share import outgoing
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
    with_settings,
)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return linked_hospitals(tmp_path_factory.mktemp("linked"))


@pytest.fixture
def arrived(linked: Network, tmp_path: Path) -> Arrived:
    return arrived_at(linked.hub(tmp_path, ()), linked, tmp_path)


# Who was erased at a site


def _holding(root: Path, pseudonym: str) -> list[str]:
    """The files of a workspace that hold a pseudonym, whatever they are packed with."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.name.endswith(".zst"):
            content = zstandard.ZstdDecompressor().decompress(content)
        elif path.suffix == ".parquet":
            content = str(pq.read_table(path).to_pydict()).encode()
        if pseudonym.encode() in content:
            found.append(path.name)
    return found


def _erasing(linked: Network, tmp_path: Path) -> Workspace:
    """Site D's workspace again, with a list of the erased of its own."""
    shutil.copytree(linked.sites["siteD"].root, tmp_path / "siteD")
    path = tmp_path / "siteD" / "rwe.yaml"
    text = path.read_text()
    listed = f"pseudonyms:\n  blocklist_key_file: {tmp_path / 'siteD-blocklist.key'}"
    assert text.count("pseudonyms:") == 1
    path.write_text(text.replace("pseudonyms:", listed))
    return open_workspace(path.parent)


def test_a_patient_erased_at_a_site_is_erased_at_the_hub(linked: Network, tmp_path: Path) -> None:
    """One who was treated at north, too: out of the share, the ledgers, the bundles and who is one person."""
    hub = linked.hub(tmp_path, ("north", "siteD"))
    study = three_sites(hub)
    analyse(hub, study)
    site = _erasing(linked, tmp_path)
    first = json.loads((CASE / "fhir/siteD/Patient.ndjson").read_text().splitlines()[0])["id"]
    erase(site, "siteD", load_studies(site.studies), patient_ids=[first])
    going = outgoing(site, three_sites(site))
    assert going[0].patients == 11
    again = share_all(site, tmp_path / "again")
    (gone,) = pq.read_table(again / "erased.parquet")["patient_id"].to_pylist()
    assert gone in pq.read_table(linked.shares["siteD"] / "survival.parquet")["patient_id"].to_pylist()

    held = _holding(hub.root, gone)
    assert "links.json" in held
    assert "survival.parquet" in held
    assert any(name.endswith(".json.zst") for name in held)
    kept = hub.root / "shared" / "study=three_sites" / "site=siteD"
    shutil.copytree(kept, tmp_path / "backup")
    (hub.evidence / "three_sites" / "r" / "reproduce").mkdir(parents=True)

    (taken,) = collect(hub, [again], load_studies(hub.studies))
    assert (taken.patients, taken.erased) == (11, 1)
    assert _holding(hub.root, gone) == []
    assert not list(hub.evidence.glob("*/*/reproduce"))
    tables = study_tables(hub, study)
    assert tables.survival["site"].value_counts().to_dict() == {"siteD": 11, "north": 1}
    third = share_all(site, tmp_path / "third")  # a hub may have missed the one before
    assert pq.read_table(third / "erased.parquet")["patient_id"].to_pylist() == [gone]

    shutil.rmtree(kept)
    with pytest.raises(ShareError, match="a patient who was erased since"):
        collect(hub, [linked.shares["siteD"]], load_studies(hub.studies))
    shutil.copytree(tmp_path / "backup", kept)
    with pytest.raises(ShareError, match="a patient who was erased since"):
        read_collected(hub, study)


def test_who_was_erased_before_the_first_share_is_not_named(linked: Network, tmp_path: Path) -> None:
    site = _erasing(linked, tmp_path)
    shutil.rmtree(site.private / "shared")  # as if nothing had been shared yet
    first = json.loads((CASE / "fhir/siteD/Patient.ndjson").read_text().splitlines()[0])["id"]
    erase(site, "siteD", load_studies(site.studies), patient_ids=[first])
    path = share_all(site, tmp_path / "out")
    assert not (path / "erased.parquet").exists()
    assert (site.private / "shared" / "three_sites.siteD").stat().st_mode & 0o777 == 0o600


def test_who_is_named_as_erased_cannot_be_in_the_share(arrived: Arrived) -> None:
    patients = pq.read_table(arrived.path / "survival.parquet")["patient_id"]
    raw = to_parquet(laid_out("erased", pa.table({"patient_id": patients[:1]})))
    (arrived.path / "erased.parquet").write_bytes(raw)
    old = read_manifest((arrived.path / "manifest.json").read_bytes(), "")
    arrived.resign(
        tables={**old.tables, "erased": TableEntry(rows=1, sha256=hashlib.sha256(raw).hexdigest())}
    )
    with pytest.raises(ShareError, match="erased is in the table survival"):
        arrived.take()


# What stays behind


def test_what_arrived_is_named_and_removed_when_asked(arrived: Arrived) -> None:
    said = " ".join(rwe("collect", arrived.path.parent, "-w", arrived.hub.root).split())
    assert "Delete what arrived (--remove does): rows of patients, link tokens too" in said
    assert (arrived.path / "link.parquet").exists()
    said = rwe("collect", arrived.path.parent, "--remove", "-w", arrived.hub.root)
    assert "Delete what arrived" not in said
    assert list(arrived.path.parent.iterdir()) == []


def test_a_share_that_is_refused_is_not_removed(arrived: Arrived) -> None:
    flip(arrived.path / "survival.parquet")
    with pytest.raises(ShareError):
        rwe("collect", arrived.path.parent, "--remove", "-w", arrived.hub.root)
    assert (arrived.path / "manifest.json").exists()


def test_a_hub_with_the_link_key_is_told_what_it_could_do(arrived: Arrived, linked: Network) -> None:
    """It could try names against the tokens of an anchored share, and so learn index dates."""
    hub = arrived.hub
    (before,) = collect(hub, [arrived.path], load_studies(hub.studies))
    assert before.warning is None
    import_folder(hub, linked.folder / "handed-north", "north")
    link = re.search(r"    link: .*", (linked.sites["north"].root / "rwe.yaml").read_text())
    assert link is not None
    hub = with_settings(open_workspace(hub.root), "north: {}", f"north:\n{link[0]}")
    (after,) = collect(hub, [arrived.path], load_studies(hub.studies))
    assert after.warning is not None
    assert "whoever has it can try names" in after.warning
    build(hub, load_studies(hub.studies))
    pooling = study_tables(hub, three_sites(hub)).pooling
    assert pooling is not None
    assert [n for n in pooling.notes if "against the tokens of siteD" in n]
