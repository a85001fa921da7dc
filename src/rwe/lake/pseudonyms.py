"""Pseudonyms: a keyed hash in place of every record id. Who lacks the key cannot turn them back.

Nothing else that is kept is a function of an id: it could be found by trying all that are likely, if a hash
without a key stood beside its pseudonym.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

#: 128 of the 256 bits: enough that no two of a thousand million records collide, half the bytes in each row.
PSEUDONYM_CHARS = 32

_REFERENCE = re.compile(
    r"(?:(?P<base>https?://[^?#]*)/|/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.\-]{1,64})"
    r"(?:/_history/[^/?#]+)?"
)
_URN = re.compile(r"urn:(?:uuid|oid):(?P<id>[A-Za-z0-9.\-]{1,64})")


#: How many pseudonyms are remembered: a record is referred to much more often than there are records.
_MOST_REMEMBERED = 500_000


class Pseudonymiser:
    """HMAC-SHA256 of `site|Type|id` under the workspace's key, as the first 32 hex characters.

    The site is part of the message: two hospitals may use the same id for two people. What is asked for
    again is remembered. `base_url` is the site's server: with it, an absolute reference is to a record of
    the site only if it begins with it (http and https are one); without it, which is a site that hands over
    files, every absolute reference is taken for one of its own.
    """

    def __init__(self, key: bytes, site: str, base_url: str | None = None) -> None:
        self._site = site
        self._base = _without_scheme(base_url) if base_url else None
        self._inner, self._outer = _keyed(key)
        self._known: dict[tuple[str, str], str] = {}

    def of(self, resource_type: str, resource_id: str) -> str:
        """The pseudonym of one record."""
        known = self._known.get((resource_type, resource_id))
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[resource_type, resource_id] = self.hasher(resource_type)(resource_id)
        return known

    def hasher(self, resource_type: str) -> Callable[[str], str]:
        """A function from ids of one type to pseudonyms, which remembers none: for ids that come once."""
        begun, outer = self._inner.copy(), self._outer
        begun.update(f"{self._site}|{resource_type}|".encode())

        def pseudonym(resource_id: str) -> str:
            inner, end = begun.copy(), outer.copy()
            inner.update(resource_id.encode())
            end.update(inner.digest())
            return end.hexdigest()[:PSEUDONYM_CHARS]

        return pseudonym

    def of_reference(self, reference: str | None, resource_type: str) -> str | None:
        """The pseudonym behind a literal reference to a `resource_type`, else None.

        Understood: `Type/id`, `https://…/Type/id`, either with `/_history/v`, and `urn:uuid:id` (the form
        inside Bundles). None for `#contained`, for another type and for a search (`Patient?identifier=…`).
        """
        target = reference_target(reference)
        if target is None or target[0] not in {resource_type, None} or self.is_elsewhere(reference):
            return None
        return self.of(resource_type, target[1])

    def is_elsewhere(self, reference: str | None) -> bool:
        """Whether an absolute literal reference is to a record on another server than the site's."""
        found = _REFERENCE.fullmatch(reference or "")
        if self._base is None or found is None or found["base"] is None:
            return False
        return _without_scheme(found["base"]) != self._base


def reference_target(reference: str | None) -> tuple[str | None, str] | None:
    """(type, id) of a literal reference; the type is None for a urn. None where it is not a literal one."""
    if not reference:
        return None
    found = _REFERENCE.fullmatch(reference)
    if found:
        return found["type"], found["id"]
    urn = _URN.fullmatch(reference)
    return (None, urn["id"]) if urn else None


def _without_scheme(base_url: str) -> str:
    """Host in lower case, port and path: what tells two servers apart."""
    host, slash, path = base_url.partition("://")[2].rstrip("/").partition("/")
    return host.lower() + slash + path


def _keyed(key: bytes) -> tuple[_Hash, _Hash]:
    """The two hashes of HMAC (RFC 2104) after their block of the key: the work that all messages share."""
    block = hashlib.sha256().block_size
    padded = (key if len(key) <= block else hashlib.sha256(key).digest()).ljust(block, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
    return inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))


def key_fingerprint(key: bytes) -> str:
    """Tells two keys apart without giving one away: the hash of a fixed text under the key."""
    return hmac.new(key, b"rwe key fingerprint", hashlib.sha256).hexdigest()[:16]
