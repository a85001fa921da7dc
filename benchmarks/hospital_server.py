"""A hospital of any size that costs no memory: every resource is made when it is asked for, on loopback.

    python benchmarks/hospital_server.py --patients 100 --observations 50 [--latency 0.2]

Each patient has one index Procedure, two Encounters, two Conditions and so many Observations. It answers
searches by code, `patient` and `_id`, and `$export`. Prints its base URL, then serves until its standard
input closes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, islice
from urllib.parse import parse_qs, urlencode, urlsplit

from pages_server import observation_text

_PATIENT = '{"resourceType":"Patient","id":"pat-%d","gender":"female","birthDate":"1960-01-01"}'
_PROCEDURE = (
    '{"resourceType":"Procedure","id":"proc-%d-%d","meta":{"lastUpdated":"2024-05-04T03:02:01Z"},'
    '"status":"completed","code":{"coding":[{"system":"http://www.cms.gov/Medicare/Coding/ICD10",'
    '"code":"XW033H7"}]},"subject":{"reference":"Patient/pat-%d"},"performedDateTime":"2024-03-01"}'
)
_ENCOUNTER = (
    '{"resourceType":"Encounter","id":"enc-%d-%d","meta":{"lastUpdated":"2024-05-04T03:02:01Z"},'
    '"status":"finished","class":{"code":"IMP"},"subject":{"reference":"Patient/pat-%d"}}'
)
_CONDITION = (
    '{"resourceType":"Condition","id":"cond-%d-%d","meta":{"lastUpdated":"2024-05-04T03:02:01Z"},'
    '"code":{"coding":[{"system":"http://hl7.org/fhir/sid/icd-10","code":"C83.3"}]},'
    '"subject":{"reference":"Patient/pat-%d"}}'
)
_INDEX_CODE, _OBSERVED_CODE = "XW033H7", "2532-0"
_SEARCHED = ("code", "patient", "_id", "_lastUpdated", "category", "medication")
_EMPTY = ("MedicationAdministration", "MedicationRequest", "MedicationDispense", "MedicationStatement")
_TYPES = ("Patient", "Procedure", "Encounter", "Condition", "Observation", "Medication", *_EMPTY)


class Hospital:
    """What the hospital holds. `per_patient` is how many resources of a type one patient has."""

    def __init__(self, patients: int, observations: int) -> None:
        self.patients = patients
        self.per_patient = {"Procedure": 1, "Encounter": 2, "Condition": 2, "Observation": observations}

    def resource(self, kind: str, patient: int, number: int) -> str:
        """One resource as JSON."""
        if kind == "Patient":
            return _PATIENT % patient
        if kind == "Observation":
            name = f"{patient}-{number}"
            return observation_text(name, f"pat-{patient}", patient * 997 + number)
        texts = {"Procedure": _PROCEDURE, "Encounter": _ENCOUNTER, "Condition": _CONDITION}
        return texts[kind] % (patient, number, patient)

    def everything(self, kind: str) -> tuple[int, Iterator[str]]:
        """All resources of a type, for an export, and how many."""
        each = self._each(kind)
        found = (self.resource(kind, p, k) for p in range(self.patients) for k in range(each))
        return each * self.patients, found

    def _each(self, kind: str) -> int:
        return 1 if kind == "Patient" else self.per_patient.get(kind, 0)

    def search(self, kind: str, query: dict[str, str]) -> tuple[int, Sequence[int], int]:
        """Resources of each patient that a search is about, those patients, and resources together."""
        each = self._each(kind)
        asked = query.get("patient") or (query.get("_id", "") if kind == "Patient" else "")
        names = [n.removeprefix("Patient/") for n in asked.split(",") if n]
        patients: Sequence[int] = [int(n.removeprefix("pat-")) for n in names]
        codes = query.get("code")
        if codes is not None:
            held = {"Procedure": _INDEX_CODE, "Observation": _OBSERVED_CODE, "Condition": "C83.3"}.get(kind)
            each = each if held and held in codes else 0
            patients = patients if asked else range(self.patients)
        return each, patients, each * len(patients)


def capability_statement(*, exports: bool) -> str:
    """/metadata."""
    parameters = ",".join(f'{{"name":"{p}"}}' for p in _SEARCHED)
    kinds = ",".join(f'{{"type":"{t}","searchParam":[{parameters}]}}' for t in _TYPES)
    operation = '"operation":[{"name":"export"}],' if exports else ""
    return (
        '{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"mode":"server",'
        f'{operation}"resource":[{kinds}]}}]}}'
    )


class Handler(BaseHTTPRequestHandler):
    """One connection. `hospital`, `base` and `latency` (seconds before an answer) are set by `main`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hospital: Hospital
    base = ""
    latency = 0.0

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def do_DELETE(self) -> None:
        self._send(202, "")

    def _answer(self, encoded: str) -> None:
        if self.latency:
            time.sleep(self.latency)
        path = urlsplit(self.path).path.removeprefix("/fhir/").removesuffix("/_search")
        query = {name: values[0] for name, values in parse_qs(encoded).items()}
        if path == "metadata":
            self._send(200, capability_statement(exports=True))
        elif path == "$export":
            self._send(202, "", {"Content-Location": f"{self.base}/job"})
        elif path == "job":
            self._send(200, self._manifest())
        elif path.startswith("file/"):
            self._send_file(path.removeprefix("file/"))
        else:
            self._send(200, self._page(path, query))

    def _page(self, kind: str, query: dict[str, str]) -> str:
        each, patients, total = self.hospital.search(kind, query)
        count, page = int(query.get("_count", "50")), int(query.get("page", "0"))
        numbers = range(page * count, min((page + 1) * count, total))
        entries = ",".join(
            f'{{"resource":{self.hospital.resource(kind, patients[n // each], n % each)},'
            '"search":{"mode":"match"}}'
            for n in numbers
        )
        here = f"{self.base}/{kind}?{urlencode(query)}"
        links = f'{{"relation":"self","url":"{here}"}}'
        if numbers.stop < total:
            following = f"{self.base}/{kind}?{urlencode({**query, 'page': page + 1})}"
            links += f',{{"relation":"next","url":"{following}"}}'
        return (
            f'{{"resourceType":"Bundle","type":"searchset","total":{total},"link":[{links}],'
            f'"entry":[{entries}]}}'
        )

    def _manifest(self) -> str:
        files = ",".join(
            f'{{"type":"{kind}","url":"{self.base}/file/{kind}","count":{self.hospital.everything(kind)[0]}}}'
            for kind in ("Patient", *self.hospital.per_patient)
        )
        return (
            f'{{"transactionTime":"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}","request":"x",'
            '"requiresAccessToken":true,'
            f'"output":[{files}],"error":[]}}'
        )

    def _send_file(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/fhir+ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        lines = self.hospital.everything(kind)[1]
        while portion := list(islice(lines, 500)):
            body = "\n".join(chain(portion, ("",))).encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/fhir+json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--observations", type=int, default=50, help="of each patient")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.hospital = Hospital(options.patients, options.observations)
        Handler.base = f"http://127.0.0.1:{server.server_port}/fhir"
        Handler.latency = options.latency
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(Handler.base, flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
