"""The refreshes of a study as they lie on disk: read, verified, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rwe.config import Workspace
from rwe.errors import EvidenceError, UsageError
from rwe.evidence.contract import Evidence
from rwe.evidence.history import Look, SiteNews
from rwe.history.manifest import EVIDENCE, UNFINISHED, Manifest, manifest_sha256, verify


@dataclass(frozen=True)
class Past:
    """The refreshes of a study that can be believed, oldest first, and a sentence for each that cannot."""

    looks: tuple[Look, ...]
    newest: Path | None
    notes: tuple[str, ...]


def refresh_folders(workspace: Workspace, study: str) -> tuple[Path, ...]:
    """The folders of a study's refreshes, oldest first: their names begin with their time."""
    found = (workspace.evidence / study).glob(f"*/{EVIDENCE}")
    folders = (p.parent for p in found)
    return tuple(sorted(f for f in folders if not f.is_symlink() and not f.name.startswith(UNFINISHED)))


def read_past(workspace: Workspace, study: str) -> Past:
    """Every look of a study. A refresh that was altered is named and left out; one of before there were
    manifests is told as far as its evidence says."""
    looks: list[Look] = []
    notes: list[str] = []
    folders = refresh_folders(workspace, study)
    for at, folder in enumerate(folders):
        found = verify(folder)
        notes += found.problems
        if found.problems:
            continue
        if found.manifest is None:
            look = _older(folder, looks[-1] if looks else None)
            notes.append(f"refresh {folder.name} has no manifest: nothing shows that it is as it was made")
        else:
            look = found.manifest.the_look()
            notes += _broken_chain(found.manifest, folders[:at])
        if look is None:
            notes.append(f"refresh {folder.name} was written by another rwe and cannot be told here")
        else:
            looks.append(look)
    return Past(tuple(looks), folders[-1] if folders else None, tuple(notes))


def _broken_chain(manifest: Manifest, before: Sequence[Path]) -> list[str]:
    if manifest.before_refresh is None:
        return []
    folder = next((f for f in before if f.name == manifest.before_refresh), None)
    if folder is None:
        return [f"refresh {manifest.before_refresh}, before {manifest.refresh}, is no longer here"]
    if manifest_sha256(folder) != manifest.before:
        return [f"refresh {manifest.refresh} was made after another {folder.name} than the one here"]
    return []


def resolve(workspace: Workspace, name: str, study: str | None = None) -> Path:
    """The folder of a refresh by its name or the beginning of it, by `latest`, or by `#3` for the third
    refresh. With `study` among its refreshes, else among all.

    Raises UsageError where there is none, or several.
    """
    root: Path = workspace.evidence
    studies = [study] if study else sorted(p.name for p in root.glob("*") if p.is_dir())
    found = [f for s in studies for f in _chosen(refresh_folders(workspace, s), name)]
    if len(found) == 1:
        return found[0]
    problem = "there is no refresh" if not found else f"{len(found)} refreshes are called"
    advice = "see `rwe history STUDY`" if not found else "name more of it, or the study with --study"
    raise UsageError(f"{problem} {name!r}", where=str(root), advice=advice)


def _chosen(folders: Sequence[Path], name: str) -> list[Path]:
    if name == "latest":
        return list(folders[-1:])
    if name.startswith("#"):
        number = int(name[1:]) if name[1:].isdigit() else 0
        return [folders[number - 1]] if 0 < number <= len(folders) else []
    return [f for f in folders if name and f.name.startswith(name)]


def lenient_evidence(folder: Path) -> dict[str, Any]:
    """The evidence of a refresh without its schema: older ones are of older schemas.

    Raises EvidenceError where it is no JSON object.
    """
    try:
        found = json.loads((folder / EVIDENCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise EvidenceError(
            "the evidence is not readable JSON",
            where=str(folder / EVIDENCE),
            advice="restore the folder from a backup, or make a new refresh with `rwe analyse --force`",
        )
    return found


def older_evidence(folder: Path) -> Evidence:
    """The evidence of a refresh that an older rwe may have written: what came to the contract since has its
    default. Raises EvidenceError where it is none, or of a newer rwe."""
    try:
        return Evidence.model_validate(lenient_evidence(folder))
    except ValidationError:
        raise EvidenceError(
            "the evidence is of another version of the contract",
            where=str(folder / EVIDENCE),
            advice="make a new refresh with `rwe analyse --force`",
        ) from None


def ratio_of(evidence: dict[str, Any], *, naive: bool = False) -> dict[str, Any]:
    """The primary hazard ratio of all sites, or the first naive one; empty where there is none."""
    for e in evidence.get("estimates", []):
        is_asked = e.get("is_biased") if naive else e.get("role") == "primary"
        is_ratio = e.get("estimand") == "hazard_ratio" and e.get("site") is None
        if is_asked and is_ratio and e.get("estimate") is not None:
            return dict(e)
    return {}


def _older(folder: Path, before: Look | None) -> Look | None:
    try:
        evidence = lenient_evidence(folder)
        refresh, study = evidence["refresh"], evidence["study"]
        primary = ratio_of(evidence)
        return Look(
            number=(before.number if before else 0) + 1,
            refresh=folder.name,
            created_at=datetime.fromisoformat(refresh["created_at"]).astimezone(UTC),
            data_cutoff=refresh.get("data_cutoff"),
            code_version=refresh["code_version"],
            protocol_version=study["version"],
            protocol_sha256=study["protocol_sha256"],
            n=evidence["cohort"]["n"],
            events=sum(evidence["cohort"]["events_by_strategy"].values()),
            analysis=primary.get("analysis"),
            estimate=primary.get("estimate"),
            ci_low=primary.get("ci_low"),
            ci_high=primary.get("ci_high"),
            naive=ratio_of(evidence, naive=True).get("estimate"),
            sites=[SiteNews(site=s["name"], new_patients=None, new_events=None) for s in evidence["sites"]],
        )
    except (EvidenceError, KeyError, TypeError, ValueError, ValidationError):
        return None
