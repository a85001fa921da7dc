"""A small hospital that answers over a real socket, with the quirks that real servers were seen to have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.codes import ATC, ICD_10_PCS, LOINC
from rwe.study import Study, load_study

INDEX_DRUG, INDEX_PROCEDURE, LDH = (ATC, "L01XL03"), (ICD_10_PCS, "XW033H7"), (LOINC, "2532-0")
COHORT = {"p1", "p2", "p3", "p4"}
PLAIN_TYPES = ("Encounter", "Condition", "MedicationRequest", "MedicationDispense", "MedicationStatement")

Json = dict[str, Any]


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def records() -> list[Json]:
    """Six patients: p1 and p2 by the drug's code, p3 through a Medication, p4 by procedure, p5 and p6 not."""
    out: list[Json] = [
        {"resourceType": "Medication", "id": "m1", "code": concept(*INDEX_DRUG)},
        {"resourceType": "Medication", "id": "m2", "code": concept(ATC, "L04AX04")},
        {"resourceType": "Medication", "id": "m3", "code": concept(ATC, "A01AA01")},
    ]
    for n in range(1, 7):
        who = {"reference": f"Patient/p{n}"}
        out.append({"resourceType": "Patient", "id": f"p{n}", "name": [{"family": f"Secretname{n}"}]})
        for i, kind in enumerate(PLAIN_TYPES):
            out += [{"resourceType": kind, "id": f"r{n}-{i}-{k}", "subject": who} for k in range(3)]
        out += [
            {"resourceType": "Observation", "id": f"l{n}-{k}", "subject": who, "code": concept(*LDH)}
            for k in range(4)
        ]
        out.append(
            {"resourceType": "Observation", "id": f"w{n}", "subject": who, "code": concept(LOINC, "718-7")}
        )
        drug = {1: INDEX_DRUG, 2: INDEX_DRUG}.get(n, (ATC, "L04AX04"))
        out += [
            {
                "resourceType": "MedicationAdministration",
                "id": f"a{n}-{k}",
                "subject": who,
                "medicationCodeableConcept": concept(*drug),
            }
            for k in range(2)
        ]
        reference = "Medication/m1" if n == 3 else "Medication/m2"
        out.append(
            {
                "resourceType": "MedicationAdministration",
                "id": f"b{n}",
                "subject": who,
                "medicationReference": {"reference": reference},
            }
        )
        code = INDEX_PROCEDURE if n == 4 else (ICD_10_PCS, "0DTJ4ZZ")
        out.append({"resourceType": "Procedure", "id": f"c{n}", "subject": who, "code": concept(*code)})
    return out


def expected_to_land() -> set[tuple[str, str]]:
    """What belongs to the cohort: all but Observations of another code; Medications referred to."""
    return {
        (r["resourceType"], r["id"])
        for r in records()
        if (r["resourceType"] == "Patient" and r["id"] in COHORT)
        or (r["resourceType"] == "Medication" and r["id"] in {"m1", "m2"})
        or (
            r.get("subject", {}).get("reference", "").removeprefix("Patient/") in COHORT
            and not r["id"].startswith("w")
        )
    }


@dataclass
class Hospital:
    """The server's quirks, and what it was asked."""

    one_patient_a_request: bool = False
    typed_patient_only: bool = False
    ignored: frozenset[str] = frozenset()
    tells_ignored: bool = True
    no_post: bool = False
    no_id_search: bool = False
    refuses: dict[str, int] = field(default_factory=dict)
    types: tuple[str, ...] | None = None
    fail_after: int = 10**9
    asked: list[str] = field(default_factory=list)
    content: list[Json] = field(default_factory=records)

    def serve(self, server: HTTPServer) -> str:
        server.expect_request(re.compile(r"/fhir/.*")).respond_with_handler(self.answer)
        return server.url_for("/fhir").rstrip("/")

    def answer(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.path}")
        path = request.path.removeprefix("/fhir/").split("/")
        if path == ["metadata"]:
            return _json(self._capability())
        if len(self.asked) > self.fail_after:
            return Response("busy with secret-p1", status=500)
        if request.method == "POST" and self.no_post:
            return Response(status=405)
        parameters = {**request.args.to_dict(), **request.form.to_dict()}
        if path[0] in self.refuses and ("code" in parameters or "patient" in parameters):
            return Response("no", status=self.refuses[path[0]])
        if len(path) == 2 and path[1] != "_search":
            return self._read(*path)
        return self._search(request, path[0], parameters)

    def _capability(self) -> Json:
        resources = [{"type": t, "searchParam": [{"name": "patient"}]} for t in self.types or ()]
        return {
            "resourceType": "CapabilityStatement",
            "fhirVersion": "4.0.1",
            "software": {"name": "Quirky", "version": "1"},
            "rest": [{"mode": "server", **({"resource": resources} if resources else {})}],
        }

    def _read(self, kind: str, name: str) -> Response:
        found = [r for r in self.content if (r["resourceType"], r["id"]) == (kind, name)]
        return _json(found[0]) if found else Response(status=404)

    def _search(self, request: Request, kind: str, parameters: dict[str, str]) -> Response:
        matches = [r for r in self.content if r["resourceType"] == kind and self._matches(r, parameters)]
        size, start = int(parameters.get("_count", 10)), int(parameters.get("_from", 0))
        base = f"{request.host_url}fhir/{kind}"
        told = {k: v for k, v in parameters.items() if k not in self.ignored}
        links = [{"relation": "self", "url": f"{base}?{urlencode(told)}"}] if self.tells_ignored else []
        if start + size < len(matches):
            links.append(
                {"relation": "next", "url": f"{base}?{urlencode({**parameters, '_from': start + size})}"}
            )
        entries = [{"resource": r, "search": {"mode": "match"}} for r in matches[start : start + size]]
        return _json({"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries})

    def _matches(self, resource: Json, parameters: dict[str, str]) -> bool:
        return all(check for name, check in self._checks(resource, parameters) if name not in self.ignored)

    def _checks(self, resource: Json, parameters: dict[str, str]) -> Iterator[tuple[str, bool]]:
        if "_id" in parameters:
            yield "_id", not self.no_id_search and resource["id"] in parameters["_id"].split(",")
        if "patient" in parameters:
            wanted = parameters["patient"].split(",")
            typed = all(w.startswith("Patient/") for w in wanted)
            known = (typed or not self.typed_patient_only) and not (
                self.one_patient_a_request and len(wanted) > 1
            )
            ids = {w.removeprefix("Patient/") for w in wanted}
            yield "patient", known and _subject(resource) in ids
        if "medication" in parameters:
            reference = resource.get("medicationReference", {}).get("reference")
            yield "medication", reference in parameters["medication"].split(",")
        if "code" in parameters:
            held = resource.get("code") or resource.get("medicationCodeableConcept") or {"coding": []}
            codes = {f"{c['system']}|{c['code']}" for c in held["coding"]}
            yield "code", bool(codes & set(parameters["code"].split(",")))


def _subject(resource: Json) -> str:
    return str(resource["subject"].get("reference", "")).removeprefix("Patient/")


def _json(content: Json) -> Response:
    return Response(json.dumps(content), content_type="application/fhir+json")


def write_study(folder: Path, *, index_code: str = "L01XL03") -> Study:
    """A study file with an index drug and procedure, one exposure and one observed covariate."""
    (folder / "codelists").mkdir(parents=True)
    lists = {
        "index": [f"{ATC},{index_code},,,,", f"{ICD_10_PCS},XW033H7,,,,"],
        "exposure": [f"{ATC},L04AX04,,,,"],
        "ldh": [f"{LOINC},2532-0,,,,"],
    }
    for name, rows in lists.items():
        text = "\n".join(["system,code,display,source,valid_from,valid_to", *rows]) + "\n"
        (folder / "codelists" / f"{name}.csv").write_text(text)
    path = folder / "quirky.yaml"
    path.write_text(
        "name: quirky\nversion: 1.0.0\ntitle: t\nquestion: q\n"
        "index_event: {codelist: index}\nexposure: {codelist: exposure, tiers: [administration]}\n"
        "strategies:\n  treated: {name: yes_drug, label: y, grace_days: 30, unless_progressed: false}\n"
        "  control: {name: no_drug, label: n}\n"
        "covariates:\n  - {name: ldh, kind: observation, label: LDH, codelist: ldh}\n"
        "analyses: [{analysis: mantel_byar}]\n"
    )
    return load_study(path)
