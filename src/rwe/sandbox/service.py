"""A hospital's FHIR endpoint: read, search, paging, history and a CapabilityStatement.

It behaves like servers seen in the field: unknown parameters are refused (400), next links are opaque and lie
on the endpoint itself, `total` is given where one page holds all or `_total=accurate` asks for it, resources
cut by `_elements` are tagged SUBSETTED. What else a server may do wrong is in rwe.sandbox.options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rwe.sandbox.answers import Query, encoded, fhir_json, on_origin, pairs
from rwe.sandbox.clock import Clock, instant_text
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.search import CONTROLS, KNOWN_PARAMETERS, BadSearchError, includes, split_values
from rwe.sandbox.statement import capability_statement
from rwe.sandbox.store import Change, Store, Stored

DEFAULT_PAGE, LARGEST_PAGE = 50, 1000
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_WARNING = (
    b'{"resource":{"resourceType":"OperationOutcome","id":"warning","issue":[{"severity":"warning",'
    b'"code":"informational","diagnostics":"some results may be withheld"}]},"search":{"mode":"outcome"}}'
)
_STATUS = {"POST": "201 Created", "PUT": "200 OK", "DELETE": "204 No Content"}


@dataclass(frozen=True)
class _Answer:
    """A search that was understood: its matches in order, and how they are to be cut into pages."""

    resource_type: str
    matches: Sequence[Stored]
    again: Callable[[], Sequence[Stored]]
    born: datetime
    self_link: str
    token: str
    page: int
    include: tuple[str, ...]
    elements: tuple[str, ...]
    total: bool | None


@dataclass(frozen=True)
class _History:
    """A history that was asked for, newest first."""

    changes: Sequence[Change]
    born: datetime
    self_link: str
    token: str
    page: int


class Service:
    """The endpoint of one hospital. `base_url` is what links are made of; `on_page` runs after each page."""

    def __init__(
        self, store: Store, spec: HospitalSpec, clock: Clock, base_url: str, token_endpoint: str
    ) -> None:
        self.store, self.spec, self.clock, self.base_url = store, spec, clock, base_url
        self.quirks, self.token_endpoint = spec.quirks, token_endpoint
        self.on_page: Callable[[], None] = lambda: None
        self._pages: dict[str, _Answer | _History] = {}

    def expire_pages(self) -> None:
        self._pages.clear()

    # Requests

    async def metadata(self, _: Request) -> Response:
        statement = capability_statement(self.spec, self.store.types, self.base_url, self.token_endpoint)
        return fhir_json(encoded(statement))

    async def search_get(self, request: Request) -> Response:
        return self._search(request.path_params["resource_type"], pairs(request.url.query))

    async def search_post(self, request: Request) -> Response:
        if self.quirks.no_post:
            raise HTTPException(405, "searches are not posted here")
        if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
            raise HTTPException(415, "a search is posted as application/x-www-form-urlencoded")
        body = (await request.body()).decode("utf-8", "replace")
        query = pairs(request.url.query) + pairs(body)
        return self._search(request.path_params["resource_type"], query)

    async def read(self, request: Request) -> Response:
        key = (request.path_params["resource_type"], request.path_params["id"])
        if self.quirks.read_status and key[0] != "Group":
            raise HTTPException(self.quirks.read_status, "no resource is read here")
        stored = self.store.read(*key)
        if stored is None:
            if self.store.is_deleted(*key) and not self.quirks.deleted_is_404:
                raise HTTPException(410, "the resource was deleted")
            raise HTTPException(404, "there is no such resource")
        return fhir_json(
            stored.body, {} if self.quirks.no_version_id else {"ETag": f'W/"{stored.version[1]}"'}
        )

    async def page(self, request: Request) -> Response:
        """Further pages. The token names the search and where it goes on."""
        token, _, offset = request.query_params.get("_getpages", "").partition("-")
        answer = self._pages.get(token)
        if answer is None or not offset.isdecimal() or self._is_too_old(answer.born):
            raise HTTPException(410, "there is no such page")
        self_link = f"{self.base_url}?_getpages={token}-{offset}"
        if isinstance(answer, _History):
            return self._history_bundle(answer, int(offset), self_link)
        return self._bundle(answer, int(offset), self_link)

    def _is_too_old(self, born: datetime) -> bool:
        limit = self.quirks.page_seconds
        return limit > 0 and self.clock.now() - born >= timedelta(seconds=limit)

    # Searches

    def _search(self, resource_type: str, query: Query) -> Response:
        if resource_type not in self.store.types:
            raise HTTPException(404, "this server has no resources of this type")
        query = self._heard(resource_type, query)
        self._demand(resource_type, query)
        controls = {name: text for name, text in query if name in CONTROLS and name != "_include"}
        filters = [(name, text) for name, text in query if name not in CONTROLS]

        def find() -> Sequence[Stored]:
            found = [] if self._finds_nothing(filters) else self.store.search(resource_type, filters)
            return self._sorted(found, resource_type, controls.get("_sort"))

        matches = find()
        is_count_only = controls.get("_summary") == "count"
        if controls.get("_summary", "false") not in ("count", "false"):
            raise BadSearchError("_summary has a value that is not supported")
        canonical = urlencode(query, safe=",|:/")
        text = f"{self.store.revision or ''}{resource_type}?{canonical}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        elements = controls.get("_elements") if not self.quirks.no_elements else None
        answer = _Answer(
            resource_type,
            matches,
            find,
            self.clock.now(),
            f"{self.base_url}/{resource_type}" + (f"?{canonical}" if canonical else ""),
            digest,
            0 if is_count_only else _page_size(controls.get("_count")),
            _includes(resource_type, query),
            tuple(split_values(elements)) if elements else (),
            {"accurate": True, "estimate": True, "none": False}.get(controls.get("_total", "")),
        )
        if answer.page and len(matches) > answer.page:
            self._pages[digest] = answer
        return self._bundle(answer, 0, answer.self_link)

    def _heard(self, resource_type: str, query: Query) -> Query:
        """What of the query this server takes notice of; the rest is missing from the self link too."""
        quirks = self.quirks
        known = {*KNOWN_PARAMETERS[resource_type], *CONTROLS, "_id"}
        if resource_type in quirks.no_last_updated and quirks.last_updated_answer == "ignored":
            query = [pair for pair in query if pair[0] != "_lastUpdated"]
        if quirks.unknown_ignored:
            query = [pair for pair in query if pair[0] in known]
        return query

    def _demand(self, resource_type: str, query: Query) -> None:
        """Raises BadSearchError for what this server cannot do, although others can."""
        names, quirks = {name for name, _ in query}, self.quirks
        if resource_type in quirks.no_last_updated and "_lastUpdated" in names:
            raise BadSearchError(f"{resource_type} has no search parameter _lastUpdated")
        if quirks.category_demanded and resource_type == "Observation" and not names & {"category", "_id"}:
            raise BadSearchError("a search for Observation needs the parameter category")
        if resource_type in quirks.code_refused and not names & {"patient", "subject", "_id"}:
            raise BadSearchError(f"a search for {resource_type} needs the parameter patient or _id")
        if quirks.no_include and "_include" in names:
            raise BadSearchError("_include is not supported")

    def _finds_nothing(self, filters: Query) -> bool:
        about = [split_values(text) for name, text in filters if name in ("patient", "subject")]
        if self.quirks.pairs_are_empty and any(len(wanted) > 1 for wanted in about):
            return True
        return self.quirks.bare_patient_is_empty and any("/" not in w for wanted in about for w in wanted)

    def _sorted(self, matches: list[Stored], resource_type: str, text: str | None) -> list[Stored]:
        """By dates, `-` downwards; what has no such date comes last. Ties stay in the order of filing."""
        for part in reversed(split_values(text)) if text else ():
            name = part.removeprefix("-")
            parameter = KNOWN_PARAMETERS[resource_type].get(name)
            if parameter is None or parameter.kind != "date":
                raise BadSearchError("_sort has a parameter that cannot be sorted by")
            spans = [(self.store.dates(stored, name), stored) for stored in matches]
            dated = [(span[0][0], stored) for span, stored in spans if span]
            dated.sort(key=lambda pair: pair[0], reverse=part.startswith("-"))
            matches = [stored for _, stored in dated] + [stored for span, stored in spans if not span]
        return matches

    def _bundle(self, answer: _Answer, offset: int, self_link: str) -> Response:
        matches = answer.again() if offset and self.quirks.live_paging else answer.matches
        shown = self._shown(matches, offset, answer.page)
        has_more = bool(answer.page) and offset + answer.page < len(matches)
        links = self._links(self_link, answer.token, offset + answer.page if has_more else None)
        is_whole = not has_more and offset == 0
        is_counted = answer.total or (answer.total is None and (is_whole or not answer.page))
        head = self._head("searchset", f"{answer.token}-{offset}", len(matches) if is_counted else None)
        entries = [self._entry(s, _cut(s, answer.elements), b"match") for s in shown]
        entries += [self._entry(s, s.body, b"include") for s in self._included(shown, answer)]
        if self.quirks.outcome_entries:
            entries.append(_WARNING)
        response = _bundled({**head, "link": links}, entries)
        self.on_page()
        return response

    def _shown(self, matches: Sequence[Stored], offset: int, size: int) -> list[Stored]:
        """One page, each resource as it is now."""
        start = offset
        if 0 < offset < len(matches) and self.quirks.ties != "kept":
            before, first = matches[offset - 1], matches[offset]
            if before.last_updated == first.last_updated:
                start += -1 if self.quirks.ties == "repeated" else 1
        current = (self.store.read(*stored.key) for stored in matches[start : offset + size])
        return [stored for stored in current if stored is not None]

    def _head(self, kind: str, bundle_id: str, total: int | None) -> dict[str, Any]:
        return {
            "resourceType": "Bundle",
            "id": bundle_id,
            "meta": {"lastUpdated": instant_text(self.clock.now())},
            "type": kind,
            **({} if total is None else {"total": total}),
        }

    def _links(self, self_link: str, token: str, following: int | None) -> list[dict[str, str]]:
        links = [{"relation": "self", "url": self_link}]
        if following is not None:
            url = on_origin(f"{self.base_url}?_getpages={token}-{following}", self.quirks.next_origin)
            links.append({"relation": "next", "url": url})
        return links

    def _entry(self, stored: Stored, body: bytes, mode: bytes) -> bytes:
        url = f"{self.base_url}/{stored.resource_type}/{stored.id}".encode()
        return b'{"fullUrl":"' + url + b'","resource":' + body + b',"search":{"mode":"' + mode + b'"}}'

    def _included(self, shown: Iterable[Stored], answer: _Answer) -> list[Stored]:
        """What the page's resources point at, once each, where an _include asked for it."""
        found: dict[str, Stored] = {}
        for stored in shown:
            for field in answer.include:
                for target in stored.targets.get(field, ()):
                    resource_type, _, resource_id = target.rpartition("/")
                    linked = self.store.read(resource_type, resource_id)
                    if linked is not None:
                        found[target] = linked
        return list(found.values())

    # History (R4, section 3.1.0.11)

    async def history(self, request: Request) -> Response:
        """All versions of a type or of everything since an instant, newest first."""
        resource_type = request.path_params.get("resource_type")
        if self.quirks.no_history or (resource_type and resource_type not in self.store.types):
            raise HTTPException(404, "there is no history here")
        query = dict(pairs(request.url.query))
        if unknown := set(query) - {"_since", "_count", "_format"}:
            raise BadSearchError(f"_history has no parameter of this name ({len(unknown)} given)")
        since = since_text(query["_since"]) if "_since" in query else ""
        changes = [
            c
            for c in self.store.history
            if c.at >= since and (resource_type is None or c.stored.resource_type == resource_type)
        ]
        changes.reverse()
        changes.sort(key=lambda c: c.at, reverse=True)
        path = f"{resource_type}/_history" if resource_type else "_history"
        canonical = urlencode(list(query.items()), safe=",|:/")
        text = f"{self.store.revision}{path}?{canonical}"
        digest = "h" + hashlib.sha256(text.encode()).hexdigest()[:24]
        self_link = f"{self.base_url}/{path}" + (f"?{canonical}" if canonical else "")
        size = _page_size(query.get("_count"))
        answer = _History(changes, self.clock.now(), self_link, digest, size)
        self._pages[digest] = answer
        return self._history_bundle(answer, 0, self_link)

    def _history_bundle(self, answer: _History, offset: int, self_link: str) -> Response:
        shown = answer.changes[offset : offset + answer.page]
        has_more = bool(answer.page) and offset + answer.page < len(answer.changes)
        links = self._links(self_link, answer.token, offset + answer.page if has_more else None)
        head = self._head("history", f"{answer.token}-{offset}", len(answer.changes))
        response = _bundled({**head, "link": links}, [self._change(c) for c in shown])
        self.on_page()
        return response

    def _change(self, change: Change) -> bytes:
        stored = change.stored
        where = f"{stored.resource_type}/{stored.id}"
        etag = {} if self.quirks.no_version_id else {"etag": f'W/"{change.version}"'}
        url = stored.resource_type if change.method == "POST" else where
        tail = {
            "request": {"method": change.method, "url": url},
            "response": {"status": _STATUS[change.method], "lastModified": change.at, **etag},
        }
        head = encoded({"fullUrl": f"{self.base_url}/{where}"})[:-1]
        body = b"" if change.method == "DELETE" else b',"resource":' + stored.body
        return head + body + b"," + encoded(tail)[1:]


def since_text(text: str) -> str:
    """A `_since` as a text that compares with `lastUpdated`. Raises BadSearchError if it is no instant."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadSearchError("_since has a value that is no instant") from None
    if at.tzinfo is None:
        raise BadSearchError("_since has a value that is no instant")
    return instant_text(at)


def _bundled(head: dict[str, Any], entries: list[bytes]) -> Response:
    body = encoded(head)
    if entries:
        body = body[:-1] + b',"entry":[' + b",".join(entries) + b"]}"
    return fhir_json(body)


def _page_size(text: str | None) -> int:
    """Resources a page; a client's wish is granted up to LARGEST_PAGE, 0 asks for the total only."""
    if text is None:
        return DEFAULT_PAGE
    if not text.isdecimal():
        raise BadSearchError("_count has a value that is no number")
    return min(int(text), LARGEST_PAGE)


def _includes(resource_type: str, query: Query) -> tuple[str, ...]:
    """The fields whose references `_include` asks for."""
    known = includes(resource_type)
    fields = []
    for name, text in query:
        if name == "_include":
            if text not in known:
                raise BadSearchError("_include asks for a reference that is not there")
            fields.append(known[text])
    return tuple(dict.fromkeys(fields))


def _cut(stored: Stored, elements: tuple[str, ...]) -> bytes:
    """The body with the elements asked for only, tagged as cut."""
    if not elements:
        return stored.body
    resource = msgspec.json.decode(stored.body)
    kept = {k: v for k, v in resource.items() if k in {"resourceType", "id", *elements}}
    kept["meta"] = {**resource["meta"], "tag": [_SUBSETTED]}
    return encoded(kept)
