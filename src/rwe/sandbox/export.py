"""$export: kick-off, status, manifest and files, as Bulk Data Access IG 2.0 has it.

Source: https://hl7.org/fhir/uv/bulkdata/STU2/export.html. Exported is what the store holds at kick-off.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rwe.sandbox.answers import Query, come_back, encoded, on_origin, pairs
from rwe.sandbox.clock import Clock, instant_text
from rwe.sandbox.export_content import Wish, content, deleted, filters_of
from rwe.sandbox.options import COHORT_GROUP, Bulk, ExportLevel
from rwe.sandbox.service import since_text
from rwe.sandbox.smart import EVERYTHING, Grant
from rwe.sandbox.store import Store

_FORMATS = {"application/fhir+ndjson", "application/ndjson", "ndjson"}
_KNOWN = {"_type", "_since", "_typeFilter", "_outputFormat"}
_LONGEST_RUN_SECONDS = 600
_ENTRIES_PER_BUNDLE = 100


@dataclass(frozen=True)
class _File:
    kind: Literal["output", "deleted", "error"]
    resource_type: str
    lines: tuple[bytes, ...]


@dataclass
class _Job:
    """An export under way. `generation` counts the sets of links that its files had."""

    request_url: str
    key: str
    transaction_time: str
    born: datetime
    files: list[_File]
    polls_left: int
    fails: bool
    links_from: datetime | None = None
    generation: int = 1
    id: str = field(default_factory=lambda: secrets.token_hex(8))


class Exports:
    """The $export of one hospital."""

    def __init__(self, store: Store, bulk: Bulk, clock: Clock, base_url: str) -> None:
        self.store, self.bulk, self.clock, self.base_url = store, bulk, clock, base_url
        self._jobs: dict[str, _Job] = {}
        self._last_start: dict[str, datetime] = {}
        self._failures_left = bulk.failed_jobs
        self._started = 0

    def expire(self) -> None:
        """All links to files handed out so far are dead."""
        for job in self._jobs.values():
            if job.links_from is not None:
                job.links_from = datetime.min.replace(tzinfo=job.links_from.tzinfo)

    # Kick-off

    async def system(self, request: Request) -> Response:
        return await self._kick_off(request, "system")

    async def patients(self, request: Request) -> Response:
        return await self._kick_off(request, "patient")

    async def group(self, request: Request) -> Response:
        if request.path_params["id"] != COHORT_GROUP:
            raise HTTPException(404, "there is no such Group")
        return await self._kick_off(request, "group")

    async def _kick_off(self, request: Request, level: ExportLevel) -> Response:
        if level not in self.bulk.levels:
            raise HTTPException(404, "this server does not export at this level")
        prefer = [p.strip() for p in request.headers.get("prefer", "").split(",")]
        if "respond-async" not in prefer:
            raise HTTPException(400, "an export needs the header Prefer: respond-async")
        query = await _asked(request)
        wish = self._wish(level, query, is_lenient="handling=lenient" in prefer)
        wish = _permitted(wish, request.scope.get("grant", EVERYTHING))
        path = request.url.path.removeprefix("/fhir")
        key = f"{path}?{urlencode(sorted(query))}"
        job = self._repeated(key)
        if job is None:
            self._refuse_if_busy(key)
            job = self._start(f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else ""), key, wish)
        where = on_origin(f"{self.base_url}/$export-status/{job.id}", self.bulk.status_origin)
        return Response(status_code=202, headers={"Content-Location": where})

    def _wish(self, level: ExportLevel, query: Query, *, is_lenient: bool) -> Wish:
        given: dict[str, list[str]] = defaultdict(list)
        for name, text in query:
            given[name].append(text)
        known = _KNOWN if self.bulk.type_filter else _KNOWN - {"_typeFilter"}
        if set(given) - known and not is_lenient:
            raise HTTPException(400, "the export has a parameter that is not supported")
        if any(text not in _FORMATS for text in given["_outputFormat"]):
            raise HTTPException(400, "_outputFormat is not supported")
        types = tuple(dict.fromkeys(t for text in given["_type"] for t in text.split(",") if t))
        unknown = set(types) - self.store.types
        if unknown and not is_lenient:
            raise HTTPException(400, "_type has a type that this server does not have")
        return Wish(
            level,
            tuple(t for t in types if t not in unknown) if types else (),
            since_text(given["_since"][0]) if given["_since"] else "",
            filters_of(given["_typeFilter"] if self.bulk.type_filter else []),
        )

    def _repeated(self, key: str) -> _Job | None:
        if not self.bulk.repeats_job:
            return None
        return next((job for job in self._jobs.values() if job.key == key), None)

    def _refuse_if_busy(self, key: str) -> None:
        now = self.clock.now()
        longest = timedelta(seconds=_LONGEST_RUN_SECONDS)
        running = any(job.polls_left > 0 and now - job.born < longest for job in self._jobs.values())
        if self.bulk.one_at_a_time and running:
            raise HTTPException(429, "another export is running", come_back("seconds", self.clock))
        last = self._last_start.get(key)
        wait = self.bulk.min_interval_seconds - (now - last).total_seconds() if last else 0.0
        if wait > 0:
            headers = come_back("seconds", self.clock, max(1, round(wait)))
            raise HTTPException(429, "this export was asked for a short while ago", headers)

    def _start(self, request_url: str, key: str, wish: Wish) -> _Job:
        now = self.clock.now()
        fails, self._failures_left = self._failures_left > 0, max(0, self._failures_left - 1)
        files = self._files(wish)
        job = _Job(request_url, key, instant_text(now), now, files, self.bulk.polls, fails)
        self._jobs[job.id] = job
        self._last_start[key] = now
        self._started += 1
        return job

    def _files(self, wish: Wish) -> list[_File]:
        found = content(self.store, wish, self.bulk)
        if self._started:
            found = {t: some for t, some in found.items() if t not in self.bulk.hidden_types}
        files = []
        lost = [t for t in found if t in self.bulk.failed_types]
        for resource_type, stored in found.items():
            if resource_type not in lost:
                lines = [s.body for s in stored]
                files += [
                    _File("output", resource_type, cut) for cut in _cuts(lines, self.bulk.lines_per_file)
                ]
        if wish.since and self.bulk.deleted:
            gone = [_delete_bundle(cut) for cut in _cuts(deleted(self.store, wish), _ENTRIES_PER_BUNDLE)]
            files += [_File("deleted", "Bundle", cut) for cut in _cuts(gone, self.bulk.lines_per_file)]
        if lost:
            files.append(_File("error", "OperationOutcome", tuple(map(_lost_outcome, lost))))
        return files

    # Status and manifest

    async def status(self, request: Request) -> Response:
        job = self._job(request)
        if job.polls_left > 0:
            job.polls_left -= 1
            headers = come_back(self.bulk.retry_after, self.clock, self.bulk.retry_seconds)
            if self.bulk.progress:
                headers["X-Progress"] = f"{round(100 * (1 - (job.polls_left + 1) / (self.bulk.polls + 1)))}%"
            return Response(status_code=202, headers=headers)
        if job.fails:
            raise HTTPException(500, "the export failed")
        if job.links_from is None or (self.bulk.fresh_links and self._is_expired(job)):
            job.generation += job.links_from is not None
            job.links_from = self.clock.now()
        page = request.query_params.get("page", "1")
        if not page.isdecimal():
            raise HTTPException(404, "there is no such page")
        body = encoded(self._manifest(job, int(page)))
        return Response(body, media_type="application/json")

    async def forget(self, request: Request) -> Response:
        """DELETE of the job."""
        del self._jobs[self._job(request).id]
        return Response(status_code=202)

    def _job(self, request: Request) -> _Job:
        try:
            return self._jobs[request.path_params["job"]]
        except KeyError:
            raise HTTPException(404, "there is no such export") from None

    def _manifest(self, job: _Job, page: int) -> dict[str, Any]:
        size = self.bulk.files_per_page
        output = [(n, f) for n, f in enumerate(job.files) if f.kind == "output"]
        last = max(1, -(-len(output) // size)) if size else 1
        if not 1 <= page <= last:
            raise HTTPException(404, "there is no such page")
        shown = output[(page - 1) * size : page * size] if size else output
        others = [(n, f) for n, f in enumerate(job.files) if f.kind != "output"] if page == last else []
        manifest: dict[str, Any] = {
            "transactionTime": job.transaction_time,
            "request": job.request_url,
            "requiresAccessToken": self.bulk.requires_access_token,
            "output": [self._item(job, n, f) for n, f in shown],
            "deleted": [self._item(job, n, f) for n, f in others if f.kind == "deleted"],
            "error": [self._item(job, n, f) for n, f in others if f.kind == "error"],
        }
        if page < last:
            url = f"{self.base_url}/$export-status/{job.id}?page={page + 1}"
            manifest["link"] = [{"relation": "next", "url": url}]
        return manifest

    def _item(self, job: _Job, n: int, file: _File) -> dict[str, Any]:
        path = f"{self.base_url}/$export-file/{job.id}/{n}-{job.generation}.ndjson"
        item: dict[str, Any] = {"type": file.resource_type, "url": on_origin(path, self.bulk.file_origin)}
        if self.bulk.counts:
            is_wrong = self.bulk.wrong_count and n == 0
            item["count"] = len(file.lines) + is_wrong
        return item

    # Files

    async def file(self, request: Request) -> Response:
        if not self.bulk.requires_access_token and "authorization" in request.headers:
            raise HTTPException(400, "only one way to authenticate is allowed: the address is signed")
        job = self._job(request)
        number, _, generation = request.path_params["name"].removesuffix(".ndjson").partition("-")
        if not (number.isdecimal() and int(number) < len(job.files)):
            raise HTTPException(404, "there is no such file")
        if generation != str(job.generation) or self._is_expired(job):
            raise HTTPException(self.bulk.expired_status, "the file is gone")
        lines = job.files[int(number)].lines
        return Response(b"\n".join(lines) + b"\n", media_type="application/fhir+ndjson")

    def _is_expired(self, job: _Job) -> bool:
        limit = timedelta(seconds=self.bulk.file_seconds)
        return job.links_from is None or self.clock.now() - job.links_from >= limit


def _permitted(wish: Wish, grant: Grant) -> Wish:
    """The wish, types that the token does not reach left out; 403 where they were asked for by name."""
    if all(grant.allows(t, "r") for t in wish.types) and (wish.types or grant is EVERYTHING):
        return wish
    if wish.types:
        raise HTTPException(403, "the token's scopes do not allow a type that is asked for")
    return Wish(wish.level, (), wish.since, wish.filters, lambda t: grant.allows(t, "r"))


async def _asked(request: Request) -> Query:
    """The parameters, from the query or from a posted Parameters resource."""
    query = pairs(request.url.query)
    if request.method != "POST":
        return query
    try:
        posted = msgspec.json.decode(await request.body() or b"{}")
        for each in posted.get("parameter", []):
            value = next(v for k, v in each.items() if k.startswith("value"))
            query.append((each["name"], str(value)))
    except (msgspec.DecodeError, AttributeError, KeyError, StopIteration, TypeError):
        raise HTTPException(400, "the body is no Parameters resource") from None
    return query


def _cuts(lines: Iterable[bytes] | list[str], size: int) -> list[tuple[Any, ...]]:
    held = list(lines)
    return [tuple(held[i : i + size]) for i in range(0, len(held), size)]


def _delete_bundle(urls: Iterable[str]) -> bytes:
    entries = [{"request": {"method": "DELETE", "url": url}} for url in urls]
    return encoded({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def _lost_outcome(resource_type: str) -> bytes:
    text = f"{resource_type} could not be exported"
    issue = {"severity": "error", "code": "exception", "diagnostics": text}
    return encoded({"resourceType": "OperationOutcome", "issue": [issue]})
