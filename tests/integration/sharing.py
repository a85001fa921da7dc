"""Hospitals and hubs that share the cohort of case e, for the tests of share and collect."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from typer.testing import CliRunner

from rwe.cli import app
from rwe.config import Workspace, init_workspace, open_workspace
from rwe.identity import make_identity, pin, read_identity
from rwe.intake import import_folder
from rwe.sharing.collect import collect
from rwe.sharing.manifest import Manifest, read_manifest, write_manifest
from rwe.sharing.share import outgoing, write_share
from rwe.study import Study, find_study, load_studies
from rwe.warehouse.build import build
from tests.support import ROOT

CASE = ROOT / "tests" / "cases" / "e_three_sites"
STUDIES = ROOT / "tests" / "cases_studies"
SITES = ("siteA", "siteB", "siteC", "siteD")
R: dict[str, Any] = json.loads((CASE / "expected.json").read_text())


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


def share_all(made: Workspace, out: Path, dates: Literal["anchored", "exact"] = "anchored") -> Path:
    """Share what the workspace has; returns the last share's folder."""
    return [write_share(made, g, out).path for g in outgoing(made, three_sites(made), dates=dates)][-1]


def trust(hub: Workspace, site: str, made: Workspace) -> None:
    public = read_identity(made).public
    pin(hub, site, public, public.fingerprint)


@dataclass(frozen=True)
class Network:
    """Hospitals, each with a workspace of its own, and what each shared."""

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


def linked_hospitals(folder: Path) -> Network:
    """Two hospitals with one link key. Three patients of site D were treated at `north` as well, 40 days
    later; everybody's records are kept under other ids there."""
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


def arrived_at(hub: Workspace, linked: Network, folder: Path) -> Arrived:
    """Site D's share in an inbox of this hub, not collected yet."""
    trust(hub, "siteD", linked.sites["siteD"])
    path = folder / "inbox" / linked.shares["siteD"].name
    shutil.copytree(linked.shares["siteD"], path)
    return Arrived(hub, linked.sites["siteD"], path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def rwe(*words: object) -> str:
    """What a command says; an error is raised, as the entry point gets it."""
    done = CliRunner().invoke(app, [str(w) for w in words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output
