"""What both ends of a share need: the pseudonyms of a study, and files that nobody else reads."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from rwe.config import Workspace

_PSEUDONYM_CHARS: Final = 32


def shared_pseudonym(workspace: Workspace, study: str, site: str) -> Callable[[str], str]:
    """A function from the site's own pseudonyms to those of the shares of the study with this name.

    The same each time, another for another study, not to be turned back without the site's key. The protocol
    is no part of it: with each change everybody would be new to the hub, and nothing would show that its next
    release is of the same patients less one.
    """
    purpose = f"rwe share|{study}|{site}".encode()
    key = hmac.digest(workspace.pseudonym_key(), purpose, "sha256")
    return lambda own: hmac.digest(key, own.encode(), "sha256").hex()[:_PSEUDONYM_CHARS]
