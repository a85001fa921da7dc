"""What a server no longer has: `_history` tells, ids that are listed no more tell, a read says so for sure.

A deletion lands as one line of the type `_deleted`:

    {"resourceType": TYPE, "id": ID, "deletedAt": instant or null, "source": "export|history|reconcile|read"}

With an instant, a version written after it is alive again. Without, the resource was looked for and missing.
Sources: HL7 FHIR R4, 3.1.0.9 (history), 3.1.0.2.1 (410 Gone for a deleted resource).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

import msgspec

from rwe.fhir.bundle import parse_instant, reference_id
from rwe.fhir.client import FhirClient

Source = Literal["export", "history", "reconcile", "read"]
_NO_HISTORY = frozenset({400, 403, 404, 405, 410, 422, 501})


@dataclass(frozen=True)
class Change:
    """The last change of a resource. `at` is the server's instant, aware; `patient` whose it is now."""

    resource_id: str
    at: datetime
    is_deletion: bool
    patient: str | None = None


class _Meta(msgspec.Struct):
    last_updated: str | None = msgspec.field(default=None, name="lastUpdated")


class _Request(msgspec.Struct):
    method: str | None = None
    url: str | None = None


class _Response(msgspec.Struct):
    last_modified: str | None = msgspec.field(default=None, name="lastModified")


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Resource(msgspec.Struct):
    subject: _Reference | None = None
    patient: _Reference | None = None
    meta: _Meta | None = None


class _Entry(msgspec.Struct):
    resource: _Resource | None = None
    full_url: str | None = msgspec.field(default=None, name="fullUrl")
    request: _Request | None = None
    response: _Response | None = None


class _Link(msgspec.Struct):
    relation: str | None = None
    url: str | None = None


class _History(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    entry: list[_Entry] | None = None
    link: list[_Link] | None = None
    meta: _Meta | None = None


def tombstone(resource_type: str, resource_id: str, at: datetime | None, source: Source) -> bytes:
    """The line that a deletion lands as."""
    content = {
        "resourceType": resource_type,
        "id": resource_id,
        "deletedAt": at.isoformat() if at else None,
        "source": source,
    }
    return msgspec.json.encode(content)


def changes_since(
    client: FhirClient, resource_type: str, since: datetime, *, page_size: int, most_pages: int
) -> list[Change] | None:
    """What `TYPE/_history` says changed since; None where it cannot be read, or is too long to be read.

    The history is that of the whole hospital: beyond `most_pages` it costs more than listing the ids of a
    cohort; so does one whose pages expire. A change without an instant is left to that listing as well.
    Raises SiteError.
    """
    query = urlencode({"_since": since.isoformat(timespec="milliseconds"), "_count": page_size})
    url = f"{client.base_url}/{resource_type}/_history?{query}"
    found: dict[str, Change] = {}
    for _ in range(most_pages):
        answer = client.request(resource_type, url, accept=_NO_HISTORY)
        if answer.status in _NO_HISTORY:
            return None
        try:
            page = msgspec.json.decode(answer.body, type=_History)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if page.type != "Bundle":
            return None
        for entry in page.entry or ():
            change = _change(entry, resource_type)
            known = found.get(change.resource_id) if change else None
            if change and (known is None or change.at > known.at):
                found[change.resource_id] = change
        following = next((link.url for link in page.link or () if link.relation == "next" and link.url), None)
        if following is None:
            return list(found.values())
        url = client.address(following, resource_type)
    return None


def _change(entry: _Entry, resource_type: str) -> Change | None:
    is_deletion = entry.request is not None and entry.request.method == "DELETE"
    addresses = (entry.request.url if entry.request else None, entry.full_url)
    ids = [i for a in addresses if a and (i := reference_id(a.partition("?")[0], resource_type))]
    resource = entry.resource or _Resource()
    meta = resource.meta or _Meta()
    told = (entry.response.last_modified if entry.response else None) or meta.last_updated
    at = parse_instant(told)
    if not ids or at is None:
        return None
    references = [r.reference for r in (resource.subject, resource.patient) if r and r.reference]
    patients = [i for r in references if (i := reference_id(r, "Patient"))]
    return Change(ids[0], at, is_deletion, patients[0] if patients else None)
