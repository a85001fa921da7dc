"""Hospitals and hubs that share the cohort of case e, for the tests of share and collect."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.identity import pin, read_identity
from rwe.sharing.collect import collect
from rwe.sharing.share import outgoing, write_share
from rwe.study import Study, find_study, load_studies
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
