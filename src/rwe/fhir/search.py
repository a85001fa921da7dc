"""FHIR search: one query, page after page, along the links the server gives.

Source: HL7 FHIR R4, section 3.1.1 (search); what servers make of it: see each comment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode, urlsplit

from rwe.fhir.bundle import (
    Bundle,
    Found,
    NotAResourceError,
    parse_instant,
    read_bundle,
    read_type,
)
from rwe.fhir.client import Answer, FhirClient, RefusedError
from rwe.fhir.failures import PagingError

#: Longer addresses are refused by servers and proxies on the way (HAPI: 400 in HTML); they go by POST.
LONGEST_ADDRESS = 1_800
_NO_POST = frozenset({404, 405, 415, 501})
_NO_GET = frozenset({405, 414, 431})
_GONE = frozenset({404, 410})
_ATTEMPTS = 3
_ALIASES = {"patient": {"patient", "subject"}, "subject": {"patient", "subject"}}

Parameters = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """One page: its resources, and the parameters the server said on the first page that it ignored."""

    number: int
    found: tuple[Found, ...]
    ignored: frozenset[str]


@dataclass(frozen=True)
class SearchSummary:
    """What a search came to.

    `server_clock` is the server's time (UTC) at the first page: a safe watermark, since nothing that
    changed later can be missed. `subsetted` and `malformed` count entries that were refused: incomplete
    resources, and entries that are no resource.
    """

    pages: int
    resources: int
    subsetted: int
    malformed: int
    server_clock: datetime | None
    ignored: frozenset[str]


def escape(value: str) -> str:
    """A value for a search parameter, with FHIR's separators escaped (R4, 3.1.1.4.0.1)."""
    for char in "\\,|$":
        value = value.replace(char, "\\" + char)
    return value


def token(system: str, code: str) -> str:
    """The search value `system|code`."""
    return f"{escape(system)}|{escape(code)}"


def any_of(values: Iterable[str]) -> str:
    """One value that means any of several."""
    return ",".join(values)


def search(
    client: FhirClient,
    resource_type: str,
    parameters: Parameters,
    *,
    page_size: int,
    on_page: Callable[[Page], None],
    ids_only: bool = False,
) -> SearchSummary:
    """Search a type and hand each page on as it arrives, in order, in another thread; two are held at most.

    Entries with `search.mode=outcome` and resources tagged SUBSETTED never are versions of a resource and
    are left out; with `ids_only` the latter are what is asked for, and kept. Raises SiteError where the
    server refuses, answers what is no Bundle, or repeats a link.
    """
    query = [*parameters, ("_count", str(page_size))]
    answer, bundle = first_page(client, resource_type, query)
    ignored = ignored_parameters(bundle, parameters)
    clock = _clock(answer, bundle)
    seen = {_digest(answer.url)}
    intake = _Intake(on_page, ignored, ids_only)
    # While a page is cut and landed the next one is asked for: half the time is the server's. The landing has
    # the thread of its own: it gets Python's lock when the request is out, and not before.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="landing") as beside:
        while True:
            url = _next(client, resource_type, bundle, seen)
            taken = beside.submit(intake.take, bundle)
            try:
                if url is None:
                    break
                answer, bundle = _read(client, resource_type, url)
            except RefusedError as e:
                raise _expired(e) if e.status in _GONE else e from None
            finally:
                taken.result()
    return intake.summary(clock)


class _Intake:
    """Cuts pages and hands them on, one after the other, and counts what it saw."""

    def __init__(self, on_page: Callable[[Page], None], ignored: frozenset[str], ids_only: bool) -> None:
        self._on_page, self._ignored, self._ids_only = on_page, ignored, ids_only
        self._pages = self._resources = self._subsetted = self._malformed = 0

    def take(self, bundle: Bundle) -> None:
        found, subsetted, malformed = bundle.found(ids_only=self._ids_only)
        self._pages += 1
        self._resources += len(found)
        self._subsetted += subsetted
        self._malformed += malformed
        self._on_page(Page(self._pages, found, self._ignored))

    def summary(self, clock: datetime | None) -> SearchSummary:
        counts = self._pages, self._resources, self._subsetted, self._malformed
        return SearchSummary(*counts, clock, self._ignored)


def _next(client: FhirClient, resource_type: str, bundle: Bundle, seen: set[bytes]) -> str | None:
    """The address of the next page, None after the last. A page already read is an error, not a loop.

    Where an answer was the page before once more, its link has been followed before, and nothing else tells.
    """
    link = bundle.link("next")
    if link is None:
        return None
    url = client.address(link, resource_type)
    if _digest(url) in seen:
        raise PagingError(
            "the server's next link leads back to a page already read",
            where=f"site {client.name}, {resource_type}",
            advice="try another page_size, and report it to the server's maker",
        )
    seen.add(_digest(url))
    return url


def _expired(refused: RefusedError) -> PagingError:
    return PagingError(
        f"the server gave a page and no more the next one: status {refused.status}",
        where=refused.where,
        advice="try again, with a larger page_size",
    )


def first_page(client: FhirClient, resource_type: str, query: Parameters) -> tuple[Answer, Bundle]:
    """The first page, by GET, or by POST where the address is too long; each stands in for the other.

    Raises SiteError where the server refuses (RefusedError) or answers what is no Bundle.
    """
    encoded = urlencode(query)
    by_get = (f"{client.base_url}/{resource_type}?{encoded}", None, _NO_GET)
    by_post = (f"{client.base_url}/{resource_type}/_search", encoded, _NO_POST)
    is_long = len(by_get[0]) > LONGEST_ADDRESS
    (url, form, refusals), other = (by_post, by_get) if is_long else (by_get, by_post)
    try:
        return _read(client, resource_type, url, form=form, accept=refusals)
    except _RefusedError:
        return _read(client, resource_type, other[0], form=other[1])


class _RefusedError(Exception):
    """The server does not take this way of asking."""


def _read(
    client: FhirClient,
    resource_type: str,
    url: str,
    *,
    form: str | None = None,
    accept: frozenset[int] = frozenset(),
) -> tuple[Answer, Bundle]:
    for attempt in range(1, _ATTEMPTS + 1):
        answer = client.request(resource_type, url, form=form, accept=accept)
        if answer.status in accept:
            raise _RefusedError
        try:
            answer.body.decode("utf-8")
            return answer, read_bundle(answer.body, with_heads=True)
        except (UnicodeDecodeError, NotAResourceError):
            if attempt < _ATTEMPTS and _may_pass(answer.body):
                client.pause(attempt)
                continue
            break
    what, advice = describe_non_fhir(answer.body)
    raise client.error(what, resource_type, advice=advice)


def _may_pass(body: bytes) -> bool:
    """Half a body under status 200 happens, and a page of the proxy on the way; asking again helps.

    A login page stays one, at the price of two requests.
    """
    try:
        read_type(body)
    except NotAResourceError:
        return True
    return False


def describe_non_fhir(body: bytes) -> tuple[str, str]:
    """What an answer is that is not the FHIR JSON asked for, and what to do about it."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "the answer is not UTF-8", "FHIR is; report it to the server's maker"
    start = body.lstrip()[:200].lower()
    if start.startswith(b"<"):
        if b"html" in start:
            return (
                "the server answers with a web page instead of FHIR",
                "check base_url; it may be a login page",
            )
        return "the server answers in XML", "the server must offer application/fhir+json"
    try:
        found = read_type(body)
    except NotAResourceError:
        return "the answer is no complete JSON", "try a smaller page_size, and ask the hospital if it stays"
    if found == "OperationOutcome":
        return (
            "the server answers with an OperationOutcome instead of results",
            "ask the hospital for its log",
        )
    return "the answer is another resource than the one asked for", "check base_url in rwe.yaml"


def ignored_parameters(bundle: Bundle, parameters: Parameters) -> frozenset[str]:
    """The parameters that the server's self link says were not applied.

    A self link without a query says nothing: some servers give the bare address after a POST.
    """
    query = urlsplit(bundle.link("self") or "").query
    if not query:
        return frozenset()
    applied = {name.partition(":")[0] for name, _ in parse_qsl(query, keep_blank_values=True)}
    asked = {name.partition(":")[0] for name, _ in parameters}
    return frozenset(name for name in asked if not applied & _ALIASES.get(name, {name}))


def _clock(answer: Answer, bundle: Bundle) -> datetime | None:
    clock = parse_instant(bundle.last_updated) or answer.date
    return clock.astimezone(UTC) if clock else None


def _digest(url: str) -> bytes:
    return sha256(url.encode()).digest()
