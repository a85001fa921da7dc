"""Which records of several sites are of one person, as a hub keeps it once the tokens are gone.

WORKSPACE/shared/study=S/links.json     by shared pseudonyms; 0600, sealed where the workspace is encrypted
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from rwe.config import Workspace
from rwe.sharing.frames import ShareError
from rwe.sharing.storage import get, put

FILE: Final = "links.json"


class Links(msgspec.Struct):
    """`persons` are the groups known so far as (site, patient, offset); `met` the pairs that were linked,
    each site with the name of its content."""

    persons: list[list[tuple[str, str, int]]] = []
    met: list[tuple[str, str]] = []


def known_links(workspace: Workspace, folder: Path) -> Links:
    """What is known in the folder of a study's shares. Raises ShareError where it cannot be read."""
    path = folder / FILE
    content = get(workspace, path)
    try:
        return msgspec.json.decode(content, type=Links) if content is not None else Links()
    except msgspec.DecodeError:
        raise ShareError(
            "what is known of patients at two sites cannot be read",
            where=str(path),
            advice="delete it and have the sites share again",
        ) from None


def remember_links(workspace: Workspace, folder: Path, links: Links) -> None:
    """Write it anew, in one step."""
    path = folder / FILE
    part = path.with_name(f".{path.name}.part")
    for stale in path.parent.glob(f"{part.name}*"):
        stale.unlink()
    written = put(workspace, part, msgspec.json.encode(links), bound_to=path)
    written.replace(path.with_name(path.name + written.name.removeprefix(part.name)))


def forget_persons(workspace: Workspace, folder: Path, patients: Collection[str]) -> None:
    """Take the records of erased patients out; who is left with one record is no person of several sites."""
    links = known_links(workspace, folder)
    gone = set(patients)
    kept = [[r for r in person if r[1] not in gone] for person in links.persons]
    if kept != links.persons:
        remember_links(workspace, folder, Links([p for p in kept if len(p) > 1], links.met))
