"""Files of kept shares at the hub: written for their owner alone, sealed where the workspace is encrypted."""

from __future__ import annotations

from pathlib import Path

from rwe.config import Workspace
from rwe.crypt import SUFFIX, UnsealError, place
from rwe.durable import write_new
from rwe.sharing.frames import ShareError


def put(workspace: Workspace, path: Path, content: bytes, *, bound_to: Path | None = None) -> Path:
    """Write a new file of the kept shares, sealed where the workspace is encrypted; returns its path.

    `bound_to` is where it will lie, if that is elsewhere.
    """
    cipher = workspace.cipher()
    final = path.with_name(path.name + SUFFIX) if cipher else path
    write_new(final, cipher.seal(content, _bound(bound_to or path)) if cipher else content)
    return final


def get(workspace: Workspace, path: Path) -> bytes | None:
    """What `put` wrote; None where there is nothing. Raises ShareError where it cannot be read."""
    sealed = path.with_name(path.name + SUFFIX)
    try:
        if sealed.is_file():
            cipher = workspace.cipher()
            if cipher is None:
                raise UnsealError("no key is set")
            return cipher.unseal(sealed.read_bytes(), _bound(path))
        return path.read_bytes() if path.is_file() else None
    except (OSError, UnsealError):
        raise ShareError(
            "a kept share cannot be read", where=f"{path.parent.name}/{path.name}", advice="collect it again"
        ) from None


def _bound(path: Path) -> str:
    """What a sealed file is bound to; while it is written its folder has another name."""
    folder = path.parent.name.removeprefix(".").removesuffix(".part")
    return place(path.parent.with_name(folder) / path.name)
