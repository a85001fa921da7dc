"""Bulk Data export (`$export`): kick-off, status, manifest, files, and the job's end.

Source: HL7 FHIR Bulk Data Access IG 2.0, "Bulk Data Export Operation Request Flow"; what servers make of it:
see each comment. Nothing here knows workspaces: `rwe.export` keeps what must outlive the process.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Literal
from urllib.parse import quote, urlencode, urljoin

import msgspec

from rwe.crypt import Cipher
from rwe.errors import SiteError
from rwe.fhir.budget import QuietHoursError
from rwe.fhir.bulk_files import IncompleteFileError, Stored, store
from rwe.fhir.bulk_manifest import (
    ExportFile,
    ExportManifest,
    NotAManifestError,
    describe_severities,
    is_manifest,
    issue_severities,
    join_pages,
    read_manifest_page,
)
from rwe.fhir.client import BrokenAnswerError, FhirClient, RefusedError, TokenRule
from rwe.fhir.search import LONGEST_ADDRESS, Parameters, any_of, describe_non_fhir, token

ExportLevel = Literal["system", "patient", "group"]
#: Seconds between two looks at the status. A server may ask for more or less; not for ever, nor at once.
FIRST_POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 300.0
#: A server that says "try again in so many seconds" at kick-off is waited for only this long.
LONGEST_KICK_OFF_PAUSE_SECONDS = 60.0
_EPOCH_SECONDS = 1_000_000_000  # a Retry-After beyond this is an absolute time (seen)
_MOST_PAGES = 100_000
_ATTEMPTS = 3
_MOST_BUSY = 20
_REFUSED = frozenset({400, 404, 405, 415, 422, 501})
_GONE = frozenset({403, 404, 410})
_BUSY = frozenset({429, 502, 503, 504})
_ANY_STATUS = frozenset(range(400, 600)) - {401}
_MOST_SILENT = 5
_CHUNK = 1 << 20
_LABEL = "$export"
_Method = Literal["GET", "POST", "DELETE"]
_START_HEADERS = {
    "Accept": "application/fhir+json",
    "Prefer": "respond-async",
    # HAPI answers an identical request with the old job, unless it is told not to.
    "Cache-Control": "no-cache",
}
_STATUS_HEADERS = {"Accept": "application/json"}
# Asked for FHIR JSON, HAPI wraps the file in a Binary resource.
_FILE_HEADERS = {"Accept": "application/fhir+ndjson"}


@dataclass(frozen=True)
class ExportRequest:
    """What to export. `group` is the Group's id at that level; `since` is by the server's clock, inclusive.

    `observation_codes` become `_typeFilter`s: alternatives, of which a server that knows them sends any.
    """

    level: ExportLevel
    types: tuple[str, ...]
    since: datetime | None = None
    group: str | None = None
    observation_codes: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        if self.level == "group":
            return f"Group/{quote(self.group or '', safe='')}/$export"
        return "Patient/$export" if self.level == "patient" else "$export"

    @property
    def template(self) -> str:
        """The request without ids and codes, for a manifest."""
        path = "Group/{group}/$export" if self.level == "group" else self.path
        since = "&_since={since}" if self.since else ""
        filters = "&_typeFilter=Observation?code={codes}" if self.observation_codes else ""
        return f"{path}?_type={','.join(self.types)}{since}{filters}"

    def parameters(self) -> Parameters:
        found = [("_type", ",".join(self.types))]
        if self.since:
            found.append(("_since", self.since.astimezone(UTC).isoformat(timespec="milliseconds")))
        if self.observation_codes:
            # Encoded inside too, so that no server takes the commas between codes for those between filters.
            codes = any_of(token(*c) for c in self.observation_codes)
            found.append(("_typeFilter", f"Observation?{urlencode({'code': codes})}"))
        return found

    def fingerprint(self, base_url: str) -> str:
        """A hash of what is asked for of whom, `since` aside: the same request gives the same."""
        text = repr((base_url, self.level, self.group, self.types, self.observation_codes))
        return sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class KickedOff:
    """A started job: where its status is, what was really asked for, and the server's clock then."""

    status_url: str = field(repr=False)
    request: ExportRequest
    server_clock: datetime | None
    warnings: tuple[str, ...] = ()


class ExportTooEarlyError(SiteError):
    """The site allows no export yet."""


class JobFailedError(SiteError):
    """The server gave the export up."""


class DeadlineError(SiteError):
    """The export was not ready in time."""


class JobGoneError(Exception):
    """The server does not know the job any more."""


class FileGoneError(Exception):
    """A file of the export is not there any more, or not for us."""


def kick_off(client: FhirClient, request: ExportRequest) -> KickedOff:
    """Start an export. A server that refuses a filter, or Medication in a patient's export, gets it without.

    Raises ExportTooEarlyError where it says that it is busy or that it is too early, SiteError else.
    """
    warnings: list[str] = []
    while True:
        reply = _ask_to_start(client, request)
        if reply.status == 202:
            break
        if reply.status in (400, 422) and request.observation_codes:
            request = replace(request, observation_codes=())
            warnings.append("$export: the server refuses _typeFilter; filtered here")
        elif reply.status in (400, 422) and "Medication" in request.types and request.level != "system":
            request = replace(request, types=tuple(t for t in request.types if t != "Medication"))
            warnings.append(
                "$export: the server refuses Medication in it; what is referred to is read singly"
            )
        else:
            raise _not_started(client, reply, request.level)
    location = reply.headers.get("Content-Location")
    if not location:
        raise client.error("the server starts an export and does not say where its status is", _LABEL)
    return KickedOff(urljoin(reply.url, location), request, reply.date, tuple(warnings))


@dataclass(frozen=True)
class _Answered:
    status: int
    url: str
    headers: Mapping[str, str]
    date: datetime | None
    body: bytes


def _ask_to_start(client: FhirClient, request: ExportRequest) -> _Answered:
    """Kick off by GET, or by POST where the address is too long; each stands in for the other."""
    url, parameters = f"{client.base_url}/{request.path}", request.parameters()
    address = f"{url}?{urlencode(parameters)}"
    ways: list[tuple[str, bytes | None]] = [(address, None), (url, _as_resource(parameters))]
    if len(address) > LONGEST_ADDRESS:
        ways.reverse()
    for attempt in range(1, _ATTEMPTS + 1):
        for address, body in ways:
            reply = _read(client, address, body=body, method="GET" if body is None else "POST", is_start=True)
            if reply.status not in (405, 414, 415, 431, 501):
                break
        pause = _retry_after(reply)
        if reply.status not in _BUSY or attempt == _ATTEMPTS:
            break
        if pause is None or pause > LONGEST_KICK_OFF_PAUSE_SECONDS:
            break
        sleep(pause)
    return reply


def _as_resource(parameters: Parameters) -> bytes:
    kinds = {"_since": "valueInstant"}
    listed = [{"name": name, kinds.get(name, "valueString"): value} for name, value in parameters]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": listed})


def _not_started(client: FhirClient, reply: _Answered, level: ExportLevel) -> SiteError:
    where = f"site {client.name}, {_LABEL}"
    if reply.status in _BUSY:
        pause = _retry_after(reply)
        when = f" for another {_in_words(pause)}" if pause else ""
        return ExportTooEarlyError(
            f"the server takes no export{when} (status {reply.status})",
            where=where,
            advice="another may be running, or the last one was too short ago: "
            "try later, or set a longer min_export_interval_hours",
        )
    if reply.status in _REFUSED:
        return SiteError(
            f"the server does not export at {level} level this way (status {reply.status}"
            f"{_severities(reply.body)})",
            where=where,
            advice="see what `rwe sites check` says of it, and export_level, cohort and route in rwe.yaml",
        )
    if reply.status < 400:
        return client.error(
            f"the server does not start an export: it answers with status {reply.status}",
            _LABEL,
            advice="ask the hospital whether it offers Bulk Data export",
        )
    advice = "ask the hospital for the right to export" if reply.status in (401, 403) else "try later"
    return SiteError(f"the server refuses the export (status {reply.status})", where=where, advice=advice)


def _severities(body: bytes) -> str:
    try:
        found = issue_severities(body) if b"OperationOutcome" in body else Counter[str]()
    except ValueError:
        return ""
    return f"; {describe_severities(found)}" if found else ""


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{math.ceil(seconds)} seconds"
    return f"{math.ceil(seconds / 60)} minutes" if seconds < 7200 else f"{math.ceil(seconds / 3600)} hours"


def wait_for_manifest(
    client: FhirClient,
    status_url: str,
    *,
    until: datetime,
    on_percent: Callable[[int], None] = lambda _: None,
) -> ExportManifest:
    """Look at the status until the job is done, and read all pages of its manifest.

    `until` (by this machine's clock) is the deadline. Raises JobGoneError where the server does not know the
    job, JobFailedError where it gave it up, SiteError at the deadline or where the answer makes no sense.
    """
    client.address(status_url, _LABEL)  # another origin is refused at once
    pause, busy, silence = FIRST_POLL_SECONDS, 0, 0
    while True:
        reply = _look(client, status_url, silence)
        silence = silence + 1 if reply is None else 0
        if reply is None:
            reply = _Answered(503, status_url, {}, None, b"")
        if reply.status == 200:
            return read_manifest(client, status_url, first=reply)
        if reply.status in (404, 410):
            raise JobGoneError
        busy = busy + 1 if reply.status in _BUSY else 0
        if reply.status != 202 and (reply.status not in _BUSY or busy > _MOST_BUSY):
            raise JobFailedError(
                f"the server gave the export up (status {reply.status}{_severities(reply.body)})",
                where=f"site {client.name}, {_LABEL}",
                advice="try later, and ask the hospital if it stays",
            )
        percent = _percent(reply.headers.get("X-Progress"))
        if percent is not None:
            on_percent(percent)
        asked = _retry_after(reply)
        wait = min(pause if asked is None else max(asked, 0.1), LONGEST_POLL_SECONDS)
        pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
        if datetime.now(UTC) + timedelta(seconds=wait) > until:
            raise DeadlineError(
                "the export was not ready by its deadline",
                where=f"site {client.name}, {_LABEL}",
                advice="set a longer export_deadline_hours, or ask the hospital how long exports take",
            )
        sleep(wait)


def _percent(text: str | None) -> int | None:
    """X-Progress is free text; only a percentage is taken from it."""
    found = re.search(r"(\d{1,3})(?:\.\d+)?\s*%", text or "")
    return min(int(found[1]), 100) if found else None


def read_manifest(client: FhirClient, status_url: str, *, first: _Answered | None = None) -> ExportManifest:
    """All pages of a finished job's manifest. Raises JobGoneError, SiteError."""
    url, pages, seen = status_url, [], set[str]()
    while True:
        for attempt in range(1, _ATTEMPTS + 1):
            reply, first = first or _look(client, url, _MOST_SILENT * (attempt == _ATTEMPTS)), None
            if reply is None:
                client.pause(attempt)
                continue
            if reply.status in (404, 410):
                raise JobGoneError
            if reply.status >= 400 and reply.status not in _BUSY:
                raise client.error(f"the manifest cannot be read (status {reply.status})", _LABEL)
            try:
                pages.append(read_manifest_page(reply.body, reply.url))
                break
            except NotAManifestError as e:
                if attempt < _ATTEMPTS:
                    client.pause(attempt)
                    continue
                raise _no_manifest(client, reply.body, e) from None
        else:
            raise client.error("the manifest cannot be read", _LABEL, advice="try later")
        seen.add(url)
        following = pages[-1].next_url
        if following is None:
            break
        if following in seen or len(pages) > _MOST_PAGES:
            raise client.error("the pages of the export's manifest lead in a circle", _LABEL)
        url = following
    try:
        return join_pages(pages)
    except NotAManifestError as e:
        raise client.error(f"the export's manifest is no such: {e}", _LABEL) from None


def _no_manifest(client: FhirClient, body: bytes, error: NotAManifestError) -> SiteError:
    if is_manifest(body) or body.lstrip().startswith(b'{"'):
        advice = "report it to the server's maker"
        return client.error(f"the export's manifest is no such: {error}", _LABEL, advice=advice)
    what, advice = describe_non_fhir(body)
    return client.error(what, _LABEL, advice=advice)


def download(
    client: FhirClient,
    file: ExportFile,
    path: Path,
    *,
    requires_access_token: bool | None,
    cipher: Cipher | None = None,
) -> Stored:
    """Stream one file to disk as it comes and verify it: its `count`, its length, its compression.

    A file that needs the token gets it only on its own origin or a listed one; one that says it needs none
    never gets it. Raises FileGoneError where it expired, IncompleteFileError where it never comes whole,
    SiteError.
    """
    rule = _token_rule(client, file, requires_access_token)
    label = file.type if file.kind == "output" else f"{_LABEL} {file.kind}"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with client.fetch(
                file.url, label=label, token=rule, headers=_FILE_HEADERS, accept=_GONE | {400}
            ) as reply:
                if reply.status in _GONE or (reply.status == 400 and rule == "never"):
                    raise FileGoneError  # an expired signature is 403, or 400
                if reply.status >= 400:
                    raise client.error(f"the file is refused (status {reply.status})", label)
                # Bytes as they come: a JSON type with charset=ISO-8859-1 is still UTF-8 (seen).
                return store(reply.chunks(_CHUNK, decode=False), path, expected=file.count, cipher=cipher)
        except (IncompleteFileError, BrokenAnswerError) as e:
            if attempt == _ATTEMPTS:
                raise IncompleteFileError(getattr(e, "what", "the answer broke off")) from None
            client.pause(attempt)
    raise AssertionError("the last attempt returns or raises")  # pragma: no cover


def _token_rule(client: FhirClient, file: ExportFile, requires_access_token: bool | None) -> TokenRule:
    """Where the server does not say, only its own origin (or a listed one) gets the token."""
    if requires_access_token is None:
        try:
            client.address(file.url, _LABEL)
        except SiteError:
            return "never"
        return "required"
    return "required" if requires_access_token else "never"


def delete_job(client: FhirClient, status_url: str) -> bool:
    """Tell the server that the job and its files are not needed any more. False where it does not listen."""
    try:
        return _read(client, status_url, method="DELETE").status < 300
    except SiteError:
        return False  # what we need is here


def _read(
    client: FhirClient,
    url: str,
    *,
    body: bytes | None = None,
    method: _Method = "GET",
    is_start: bool = False,
) -> _Answered:
    """One answer read to its end, whatever its status but 401. Busy answers come back at once.

    The credential goes with it, so that an address on another origin that is not listed is refused.
    """
    headers = dict(_START_HEADERS if is_start else _STATUS_HEADERS)
    if body is not None:
        headers["Content-Type"] = "application/fhir+json"
    with client.fetch(
        url, label=_LABEL, method=method, headers=headers, body=body, accept=_ANY_STATUS, may_retry=False
    ) as reply:
        return _Answered(reply.status, reply.url, reply.headers, reply.date, reply.read())


def _look(client: FhirClient, status_url: str, silence: int) -> _Answered | None:
    """The status; None where there was no answer, which happens to a job of hours. Raises at the last."""
    try:
        return _read(client, status_url)
    except (QuietHoursError, RefusedError):
        raise
    except SiteError:
        if silence >= _MOST_SILENT:
            raise
        return None


def _retry_after(reply: _Answered) -> float | None:
    """Seconds the server wants us to wait: told in seconds, as a date, as an epoch (seen), or not at all."""
    text = (reply.headers.get("Retry-After") or "").strip()
    now = reply.date or datetime.now(UTC)
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text) if text else None
        except ValueError:
            return None
        if at is None:
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    if not math.isfinite(seconds):
        return None
    if seconds > _EPOCH_SECONDS:
        seconds -= now.timestamp()
    return max(seconds, 0.0)
