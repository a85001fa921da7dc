"""Pseudonyms: a keyed hash in place of every record id. Who lacks the key cannot turn them back."""

from __future__ import annotations

import hashlib
import hmac
import re

#: 128 of the 256 bits: enough that no two of a thousand million records collide, half the bytes in each row.
PSEUDONYM_CHARS = 32

_REFERENCE = re.compile(
    r"(?:https?://[^?#]*/|/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.\-]{1,64})(?:/_history/[^/?#]+)?"
)
_URN = re.compile(r"urn:(?:uuid|oid):(?P<id>[A-Za-z0-9.\-]{1,64})")


class Pseudonymiser:
    """HMAC-SHA256 of `site|Type|id` under the workspace's key, as the first 32 hex characters.

    The site is part of the message: two hospitals may use the same id for two people. Each distinct id is
    hashed once for the lifetime of the object.
    """

    def __init__(self, key: bytes, site: str) -> None:
        self._key, self._site = key, site
        self._known: dict[tuple[str, str], str] = {}

    def of(self, resource_type: str, resource_id: str) -> str:
        """The pseudonym of one record."""
        known = self._known.get((resource_type, resource_id))
        if known is None:
            message = f"{self._site}|{resource_type}|{resource_id}".encode()
            known = hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_CHARS]
            self._known[resource_type, resource_id] = known
        return known

    def of_reference(self, reference: str | None, resource_type: str) -> str | None:
        """The pseudonym behind a literal reference to a `resource_type`, else None.

        Understood: `Type/id`, `https://…/Type/id`, either with `/_history/v`, and `urn:uuid:id` (the form
        inside Bundles). None for `#contained`, for another type and for a search (`Patient?identifier=…`).
        """
        target = reference_target(reference)
        if target is None or target[0] not in {resource_type, None}:
            return None
        return self.of(resource_type, target[1])


def reference_target(reference: str | None) -> tuple[str | None, str] | None:
    """(type, id) of a literal reference; the type is None for a urn. None where it is not a literal one."""
    if not reference:
        return None
    found = _REFERENCE.fullmatch(reference)
    if found:
        return found["type"], found["id"]
    urn = _URN.fullmatch(reference)
    return (None, urn["id"]) if urn else None


def key_fingerprint(key: bytes) -> str:
    """Tells two keys apart without giving one away: the hash of a fixed text under the key."""
    return hmac.new(key, b"rwe key fingerprint", hashlib.sha256).hexdigest()[:16]
