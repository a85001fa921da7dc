"""An export server in the hands of a test, and the export from it: real sockets, any answer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site, Workspace, init_workspace
from rwe.export import ExportOutcome, export_site, finish_export
from rwe.extraction_plan import WHOLE_TYPES, plan_extraction
from rwe.fhir import bulk
from rwe.fhir.client import FhirClient
from rwe.landing import Run, RunFacts, new_run
from rwe.study import Study
from tests.contract.quirky import records

TYPES = ("Patient", *WHOLE_TYPES, "Observation", "Medication")
SECRET = "canary-token-4711"


def workspace_for(tmp_path: Path, url: str, **fields: Any) -> Workspace:
    made = init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")
    settings = {
        "base_url": url,
        "max_retries": 0,
        "timeout_seconds": 5,
        "allow_plain_http": "loopback only",
        "min_export_interval_hours": 0,
        **fields,
    }
    sites = {"a": Site.model_validate(settings)}
    return Workspace(made.root, made.settings.model_copy(update={"sites": sites}))


def export(
    workspace: Workspace, study: Study, level: bulk.ExportLevel = "system", **options: Any
) -> tuple[ExportOutcome, Run]:
    site = workspace.site("a")
    with FhirClient("a", site) as client, new_run(workspace.landing, "a") as writer:
        plan = plan_extraction([study])
        outcome = export_site(workspace, "a", site, client, plan, writer, types=TYPES, level=level, **options)
        run = writer.commit(RunFacts(route="export", time_zone=site.time_zone))
    finish_export(workspace, "a")
    return outcome, run


def landed(run: Run) -> set[tuple[str, str]]:
    found = [
        (json.loads(line)["resourceType"], json.loads(line)["id"]) for t in run.types for line in run.open(t)
    ]
    assert len(found) == len(set(found))
    return set(found)


@dataclass
class Exporter:
    """A small export server: jobs, files and their answers are as the test says."""

    server: HTTPServer
    content: list[dict[str, Any]] = field(default_factory=records)
    answers_before: list[Response] = field(default_factory=list)
    """What the status says before the job is done, one after the other."""
    transaction_times: list[str] = field(default_factory=lambda: ["2026-05-01T02:00:00Z"])
    """Of the first job, the second …; the last one for ever."""
    start_status: dict[str, int] = field(default_factory=dict)
    """Kick-offs whose query has this text get this status."""
    delete_status: int = 202
    manifest: dict[str, Any] = field(default_factory=dict)
    bodies: dict[str, Response | bytes] = field(default_factory=dict)
    """Files by name, in place of the content's."""
    singles: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Medications to be searched and read, not exported."""
    seen: list[str] = field(default_factory=list)
    jobs: int = 0

    def serve(self) -> str:
        self.server.expect_request(re.compile(".*")).respond_with_handler(self._answer)
        return self.server.url_for("/fhir").rstrip("/")

    def _answer(self, request: Request) -> Response:
        query = request.query_string.decode()
        self.seen.append(f"{request.method} {request.path.removeprefix('/fhir/')}")
        if request.path.endswith("$export"):
            return self._start(request, query)
        kind, _, name = request.path.removeprefix("/fhir/").partition("/")
        if kind == "status":
            return Response(status=self.delete_status) if request.method == "DELETE" else self._status()
        if kind == "file":
            return self.file(name)
        if kind == "Medication" and name:
            return Response(json.dumps(self.singles[name])) if name in self.singles else Response(status=404)
        if kind == "Medication":
            wanted = json.dumps(request.args.get("code", "").partition("|")[2].partition(",")[0])
            found = [r for r in self.singles.values() if wanted in json.dumps(r)]
            bundle = {"resourceType": "Bundle", "entry": [{"resource": r} for r in found]}
            return Response(json.dumps(bundle))
        return Response(status=404)

    def _start(self, request: Request, query: str) -> Response:
        assert request.headers["Prefer"] == "respond-async"
        for text, status in self.start_status.items():
            if text in query:
                return Response(status=status)
        self.jobs += 1
        where = self.server.url_for(f"/fhir/status/{self.jobs}")
        return Response(status=202, headers={"Content-Location": where})

    def _status(self) -> Response:
        if self.answers_before:
            return self.answers_before.pop(0)
        types = sorted({r["resourceType"] for r in self.content})
        manifest = {
            "transactionTime": self.transaction_times[min(self.jobs, len(self.transaction_times)) - 1],
            "request": "x",
            "requiresAccessToken": False,
            "output": [{"type": t, "url": self.server.url_for(f"/fhir/file/{t}")} for t in types],
            "error": [],
            **self.manifest,
        }
        return Response(json.dumps(manifest), content_type="application/json")

    def file(self, name: str) -> Response:
        found = self.bodies.get(name)
        if isinstance(found, Response):
            return found
        lines = [json.dumps(r).encode() for r in self.content if r["resourceType"] == name]
        return Response(
            found if found is not None else b"\n".join(lines) + b"\n", mimetype="application/fhir+ndjson"
        )


def bearer(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SECRET)
    path.chmod(0o600)
    return {"auth": {"kind": "bearer", "token_file": str(path)}}
