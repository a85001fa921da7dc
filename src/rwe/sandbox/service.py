"""A hospital's FHIR endpoint as an ASGI application: read, search, paging and a CapabilityStatement.

It behaves like servers seen in the field: unknown parameters are refused (400), next links are opaque and lie
on the endpoint itself, `total` is given where one page holds all or `_total=accurate` asks for it, resources
cut by `_elements` are tagged SUBSETTED. Page links never expire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rwe.sandbox.dialects import Dialect
from rwe.sandbox.hospital import Store, Stored
from rwe.sandbox.search import CONTROLS, PARAMETERS, BadSearchError, includes, split_values

DEFAULT_PAGE, LARGEST_PAGE = 50, 1000
_FHIR_JSON = "application/fhir+json;charset=utf-8"
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ISSUES = {400: "invalid", 404: "not-found", 405: "not-supported", 410: "not-found", 415: "not-supported"}


@dataclass(frozen=True)
class _Answer:
    """A search that was understood: its matches in order, and how they are to be cut into pages."""

    resource_type: str
    matches: Sequence[Stored]
    self_link: str
    token: str
    page: int
    include: tuple[str, ...]
    elements: tuple[str, ...]
    total: bool | None


class Service:
    """The endpoint of one hospital. `base_url` is what links are made of."""

    def __init__(self, store: Store, manner: Dialect, base_url: str) -> None:
        self.store, self.manner, self.base_url = store, manner, base_url
        self._pages: dict[str, _Answer] = {}

    # Requests

    async def metadata(self, _: Request) -> Response:
        return _json(msgspec.json.encode(capability_statement(self.manner, self.base_url)))

    async def search_get(self, request: Request) -> Response:
        return self._search(request.path_params["resource_type"], _pairs(request.url.query))

    async def search_post(self, request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
            raise HTTPException(415, "a search is posted as application/x-www-form-urlencoded")
        body = (await request.body()).decode("utf-8", "replace")
        query = _pairs(request.url.query) + _pairs(body)
        return self._search(request.path_params["resource_type"], query)

    async def read(self, request: Request) -> Response:
        stored = self.store.read(request.path_params["resource_type"], request.path_params["id"])
        if stored is None:
            raise HTTPException(404, "there is no such resource")
        return _json(stored.body, {"ETag": f'W/"{stored.version[1]}"'})

    async def page(self, request: Request) -> Response:
        """Further pages. The token names the search and where it goes on."""
        token, _, offset = request.query_params.get("_getpages", "").partition("-")
        answer = self._pages.get(token)
        if answer is None or not offset.isdecimal():
            raise HTTPException(410, "there is no such page")
        return self._bundle(answer, int(offset), f"{self.base_url}?_getpages={token}-{offset}")

    # Answers

    def _search(self, resource_type: str, query: Query) -> Response:
        if resource_type not in PARAMETERS:
            raise HTTPException(404, "this server has no resources of this type")
        controls = {name: text for name, text in query if name in CONTROLS and name != "_include"}
        filters = [(name, text) for name, text in query if name not in CONTROLS]
        matches = self.store.search(resource_type, filters)
        matches = self._sorted(matches, resource_type, controls.get("_sort"))
        is_count_only = controls.get("_summary") == "count"
        if controls.get("_summary", "false") not in ("count", "false"):
            raise BadSearchError("_summary has a value that is not supported")
        canonical = urlencode(query, safe=",|:/")
        digest = hashlib.sha256(f"{resource_type}?{canonical}".encode()).hexdigest()[:24]
        answer = _Answer(
            resource_type,
            matches,
            f"{self.base_url}/{resource_type}" + (f"?{canonical}" if canonical else ""),
            digest,
            0 if is_count_only else _page_size(controls.get("_count")),
            _includes(resource_type, query),
            tuple(split_values(controls["_elements"])) if controls.get("_elements") else (),
            {"accurate": True, "estimate": True, "none": False}.get(controls.get("_total", "")),
        )
        if answer.page and len(matches) > answer.page:
            self._pages[digest] = answer
        return self._bundle(answer, 0, answer.self_link)

    def _sorted(self, matches: list[Stored], resource_type: str, text: str | None) -> list[Stored]:
        """By dates, `-` downwards; what has no such date comes last. Ties stay in the order of filing."""
        for part in reversed(split_values(text)) if text else ():
            name = part.removeprefix("-")
            parameter = PARAMETERS[resource_type].get(name)
            if parameter is None or parameter.kind != "date":
                raise BadSearchError("_sort has a parameter that cannot be sorted by")
            spans = [(self.store.dates(stored, name), stored) for stored in matches]
            dated = [(span[0][0], stored) for span, stored in spans if span]
            dated.sort(key=lambda pair: pair[0], reverse=part.startswith("-"))
            matches = [stored for _, stored in dated] + [stored for span, stored in spans if not span]
        return matches

    def _bundle(self, answer: _Answer, offset: int, self_link: str) -> Response:
        shown = answer.matches[offset : offset + answer.page]
        has_more = bool(answer.page) and offset + answer.page < len(answer.matches)
        links = [{"relation": "self", "url": self_link}]
        if has_more:
            following = f"{self.base_url}?_getpages={answer.token}-{offset + answer.page}"
            links.append({"relation": "next", "url": following})
        head: dict[str, Any] = {
            "resourceType": "Bundle",
            "id": f"{answer.token}-{offset}",
            "meta": {"lastUpdated": datetime.now(UTC).isoformat(timespec="milliseconds")},
            "type": "searchset",
        }
        is_whole = not has_more and offset == 0
        if answer.total or (answer.total is None and (is_whole or not answer.page)):
            head["total"] = len(answer.matches)
        head["link"] = links
        entries = [self._entry(s, _cut(s, answer.elements), b"match") for s in shown]
        entries += [self._entry(s, s.body, b"include") for s in self._included(shown, answer)]
        body = msgspec.json.encode(head)
        if entries:
            body = body[:-1] + b',"entry":[' + b",".join(entries) + b"]}"
        return _json(body)

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


Query = list[tuple[str, str]]


def application(store: Store, manner: Dialect, base_url: str) -> Starlette:
    """The ASGI application of a hospital whose endpoint is `base_url` (…/fhir)."""
    service = Service(store, manner, base_url)
    routes = [
        Route("/fhir/metadata", service.metadata),
        Route("/fhir", service.page),
        Route("/fhir/{resource_type}/_search", service.search_post, methods=["POST"]),
        Route("/fhir/{resource_type}", service.search_get),
        Route("/fhir/{resource_type}/{id}", service.read),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, minimum_size=500, compresslevel=1)],
        exception_handlers={HTTPException: _refused, BadSearchError: _refused},
    )


async def _refused(_: Request, problem: Exception) -> Response:
    """An OperationOutcome that names parameters, never their values."""
    status = problem.status_code if isinstance(problem, HTTPException) else 400
    text = problem.detail if isinstance(problem, HTTPException) else str(problem)
    issue = {"severity": "error", "code": _ISSUES.get(status, "processing"), "diagnostics": text}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return _json(msgspec.json.encode(outcome), status=status)


def _json(body: bytes, headers: dict[str, str] | None = None, *, status: int = 200) -> Response:
    return Response(body, status_code=status, headers=headers, media_type=_FHIR_JSON)


def _pairs(text: str) -> Query:
    return parse_qsl(text, keep_blank_values=True)


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
    return msgspec.json.encode(kept)


def capability_statement(manner: Dialect, base_url: str) -> dict[str, Any]:
    """What the server says about itself (R4 CapabilityStatement)."""
    resources = [
        {
            "type": name,
            "interaction": [{"code": "read"}, {"code": "search-type"}],
            "versioning": "versioned",
            "readHistory": False,
            **({"searchInclude": sorted(includes(name))} if includes(name) else {}),
            "searchParam": [
                {"name": "_id", "type": "token"},
                *({"name": n, "type": p.kind} for n, p in sorted(parameters.items())),
            ],
        }
        for name, parameters in sorted(PARAMETERS.items())
    ]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-06-01",
        "kind": "instance",
        "software": {"name": manner.software, "version": manner.software_version},
        "implementation": {"description": manner.software, "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [{"mode": "server", "resource": resources}],
    }
