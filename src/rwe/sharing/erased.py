"""Patients of a site's shares whom the site erased: each later share names them, so that the hub erases too.

    WORKSPACE/private/shared/STUDY.SITE     0600, empty: this was shared at least once
    NAME-blocklist.shared                   0600, beside the list of the erased, outside the workspace

A patient is named by the pseudonym that the hub knows, and only for studies that the site had shared by then.
The list outlives a workspace that is restored and a change of the pseudonym key.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from rwe.blocklist import key_path
from rwe.config import Workspace
from rwe.durable import write_whole
from rwe.errors import ConfigError
from rwe.scratch import locked
from rwe.sharing.files import shared_pseudonym


def note_shared(workspace: Workspace, study: str, site: str) -> None:
    """Note that a site's cohort of a study is about to leave. Raises OSError."""
    folder = _marks(workspace)
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(folder / f"{study}.{site}", os.O_WRONLY | os.O_CREAT, 0o600))


def remember_erased(workspace: Workspace, site: str, pseudonyms: Collection[str]) -> None:
    """Keep what hubs know these patients of a site by, in every study that the site has shared.

    Raises ConfigError where the list cannot be read or written.
    """
    names = [mark.name.removesuffix(f".{site}") for mark in _marks(workspace).glob(f"*.{site}")]
    lines = set()
    for study in names:
        rename = shared_pseudonym(workspace, study, site)
        lines |= {f"{study} {site} {rename(p)}" for p in pseudonyms}
    if not lines:
        return
    path = _path(workspace)
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            known = sorted({*_lines(path), *lines})
            write_whole(path, "\n".join([*known, ""]).encode("ascii"))
    except OSError:
        raise _unusable("written", path) from None


def erased_of(workspace: Workspace, study: str, site: str) -> frozenset[str]:
    """The shared pseudonyms of patients of earlier shares who were erased since. Raises ConfigError."""
    path = _path(workspace)
    try:
        found = [line.split() for line in _lines(path)]
    except (OSError, UnicodeDecodeError):
        raise _unusable("read", path) from None
    return frozenset(words[2] for words in found if words[:2] == [study, site])


def _marks(workspace: Workspace) -> Path:
    folder: Path = workspace.private / "shared"
    return folder


def _path(workspace: Workspace) -> Path:
    return key_path(workspace).with_suffix(".shared")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def _unusable(verb: str, path: Path) -> ConfigError:
    return ConfigError(
        f"the list of erased patients of shares cannot be {verb}",
        where=str(path),
        advice="name a folder that can be read and written in pseudonyms.blocklist_key_file of rwe.yaml",
    )
