"""What a Bulk Data server hands out: the manifest, its errors and its deletions.

Source: HL7 FHIR Bulk Data Access IG 2.0, section "Bulk Data Output Manifest".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Literal
from urllib.parse import urljoin, urlsplit

import msgspec

from rwe.fhir.bundle import RESOURCE_TYPE, NotAResourceError, parse_instant

FileKind = Literal["output", "deleted", "error"]
Source = Literal["export", "history", "reconcile", "read"]
#: The type that tombstones land as.
DELETED = "_deleted"
_KNOWN_SEVERITIES = frozenset({"fatal", "error", "warning", "information", "success"})
_HARMLESS = frozenset({"warning", "information", "success"})
_DELETE_URL = re.compile(r"(?:^|/)([A-Z][A-Za-z]{0,63})/([A-Za-z0-9\-.]{1,64})/?$")


class NotAManifestError(ValueError):
    """The bytes are no export manifest. The message names the field, never a value."""


@dataclass(frozen=True)
class ExportFile:
    """A file of an export: what it holds, where it lies, and how many resources it has (None: not said).

    `key` names the file across manifests of one job without naming its address, which may be a secret.
    """

    kind: FileKind
    type: str
    url: str = field(repr=False)
    count: int | None
    key: str


@dataclass(frozen=True)
class ExportManifest:
    """All pages of a manifest together. `requires_access_token` is None where the server does not say."""

    transaction_time: datetime
    requires_access_token: bool | None
    files: tuple[ExportFile, ...]

    def of(self, kind: FileKind) -> tuple[ExportFile, ...]:
        return tuple(f for f in self.files if f.kind == kind)


@dataclass(frozen=True)
class ManifestPage:
    """One page: a manifest of its files, and the address of the next page (None: this is the last)."""

    manifest: ExportManifest
    next_url: str | None = field(repr=False)


@dataclass(frozen=True)
class Tombstone:
    """A deletion. `deleted_at` is the latest moment it can have happened, None where nothing says it.

    `source` is how it became known: an export's `deleted`, `_history`, a comparison of ids, a read (410).
    """

    resource_type: str
    id: str = field(repr=False)
    deleted_at: datetime | None
    source: Source = "export"

    def line(self) -> bytes:
        """The JSON line that lands as the type `_deleted`."""
        at = self.deleted_at.isoformat() if self.deleted_at else None
        content = {"resourceType": self.resource_type, "id": self.id, "deletedAt": at, "source": self.source}
        return msgspec.json.encode(content)


class _File(msgspec.Struct):
    url: str
    type: str | None = None
    count: int | None = None


class _Link(msgspec.Struct):
    relation: str | None = None
    url: str | None = None


class _Page(msgspec.Struct):
    transaction_time: str = msgspec.field(name="transactionTime")
    output: list[_File]
    requires_access_token: bool | None = msgspec.field(default=None, name="requiresAccessToken")
    deleted: list[_File] | None = None
    error: list[_File] | None = None
    link: list[_Link] | None = None


class _Request(msgspec.Struct):
    method: str | None = None
    url: str | None = None


class _Response(msgspec.Struct):
    last_modified: str | None = msgspec.field(default=None, name="lastModified")


class _Entry(msgspec.Struct):
    request: _Request | None = None
    response: _Response | None = None


class _Deletions(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    entry: list[_Entry] | None = None


class _Issue(msgspec.Struct):
    severity: str | None = None


class _Outcome(msgspec.Struct):
    type: str = msgspec.field(name="resourceType")
    issue: list[_Issue] | None = None


_PAGE = msgspec.json.Decoder(_Page)
_DELETIONS = msgspec.json.Decoder(_Deletions)
_OUTCOME = msgspec.json.Decoder(_Outcome)


def is_manifest(raw: bytes) -> bool:
    """Whether a JSON document is an export's manifest, as it lies beside files that were handed over.

    A FHIR resource never is one. Files named in it as `deleted` hold tombstones, not resources.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(content, dict)
        and "resourceType" not in content
        and isinstance(content.get("transactionTime"), str)
        and isinstance(content.get("output"), list)
    )


def names_in_manifest(raw: bytes, kind: FileKind) -> frozenset[str]:
    """The file names (last part of the path) that a handed-over manifest lists as a kind.

    With `is_manifest` this tells an import which of the files beside it hold tombstones or errors, not
    resources. Raises NotAManifestError.
    """
    files = read_manifest_page(raw, "").manifest.of(kind)
    return frozenset(urlsplit(f.url).path.rpartition("/")[2] for f in files)


def read_manifest_page(raw: bytes, address: str) -> ManifestPage:
    """One page of a manifest that was served from `address`. Raises NotAManifestError."""
    try:
        page = _PAGE.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotAManifestError("it lacks a field, or has one of another shape") from None
    at = parse_instant(page.transaction_time)
    if at is None:
        raise NotAManifestError("its transactionTime is no instant")
    kinds: tuple[tuple[FileKind, list[_File]], ...] = (
        ("output", page.output),
        ("deleted", page.deleted or []),
        ("error", page.error or []),
    )
    listed = [(kind, f, urljoin(address, f.url)) for kind, files in kinds for f in files]
    files = tuple(_file(kind, f, url) for kind, f, url in listed)
    following = next((link.url for link in page.link or () if link.relation == "next" and link.url), None)
    return ManifestPage(
        ExportManifest(at, page.requires_access_token, files),
        urljoin(address, following) if following else None,
    )


def _file(kind: FileKind, file: _File, url: str) -> ExportFile:
    default = {"output": "", "deleted": "Bundle", "error": "OperationOutcome"}[kind]
    resource_type = file.type or default
    if not RESOURCE_TYPE.fullmatch(resource_type):
        raise NotAManifestError("an output names no type")
    return ExportFile(kind, resource_type, url, file.count, "")


def join_pages(pages: Sequence[ManifestPage]) -> ExportManifest:
    """One manifest of all pages. Raises NotAManifestError if they are not of one export."""
    first = pages[0].manifest
    if any(p.manifest.transaction_time != first.transaction_time for p in pages):
        raise NotAManifestError("its pages differ in transactionTime")
    tokens = {p.manifest.requires_access_token for p in pages}
    if len(tokens) > 1:
        raise NotAManifestError("its pages differ in requiresAccessToken")
    files = [f for p in pages for f in p.manifest.files]
    # A signed link changes its query when it is renewed; its path, if that tells files apart, stays.
    paths = Counter(_path(f.url) for f in files)
    keyed = [(f, _path(f.url) if paths[_path(f.url)] == 1 else f.url) for f in files]
    return ExportManifest(
        first.transaction_time,
        first.requires_access_token,
        tuple(
            ExportFile(f.kind, f.type, f.url, f.count, sha256(name.encode()).hexdigest()) for f, name in keyed
        ),
    )


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def tombstones(raw: bytes, at: datetime | None = None) -> Iterator[Tombstone]:
    """The deletions in one line of a `deleted` file: the DELETE entries of a transaction Bundle.

    `at` is the export's transactionTime: a deletion without a time of its own happened by then.
    Raises NotAResourceError if the line is no such Bundle, or an entry names no resource.
    """
    try:
        bundle = _DELETIONS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotAResourceError("no Bundle of deletions") from None
    if bundle.type != "Bundle":
        raise NotAResourceError("no Bundle of deletions")
    for entry in bundle.entry or ():
        if entry.request is None or entry.request.method != "DELETE":
            continue
        found = _DELETE_URL.search(entry.request.url or "")
        if found is None:
            raise NotAResourceError("a deletion that names no resource")
        own = parse_instant(entry.response.last_modified) if entry.response else None
        yield Tombstone(found[1], found[2], own or at)


def issue_severities(raw: bytes) -> Counter[str]:
    """How many issues of which severity an OperationOutcome holds; `error: 1` for what is none.

    Only the severity is read: the texts of issues name patients.
    """
    try:
        outcome = _OUTCOME.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Counter({"error": 1})
    if outcome.type != "OperationOutcome" or not outcome.issue:
        return Counter({"error": 1})
    severities = [issue.severity for issue in outcome.issue]
    return Counter(s if s in _KNOWN_SEVERITIES else "error" for s in severities)


def is_harmless(severities: Counter[str]) -> bool:
    """Whether nothing is missing: warnings and information only."""
    return all(s in _HARMLESS for s, n in severities.items() if n)


def describe_severities(severities: Counter[str]) -> str:
    """`2 error, 1 warning`, the worst first."""
    order = ["fatal", "error", "warning", "information", "success"]
    return ", ".join(f"{severities[s]} {s}" for s in order if severities[s])
