"""A server that puts names, ids and the token it was sent wherever a client might write it down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

NAME, PATIENT, MRN = "Quillfeather-Zanzibar", "patient-7f3a9c51", "MRN-5550199-Q"
BEHAVIOURS = (
    "next", "redirect", "outcome", "html", "half", "cut", "reset", "busy", "status_line", "encoding",
    "date", "refuses_patients", "metadata", "wrong_type", "bad_port", "smart",
)  # fmt: skip
_TYPES = (
    "Patient", "Medication", "MedicationAdministration", "MedicationRequest", "Procedure", "Observation",
)  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, behaviour, _, *rest = self.path.partition("?")[0].split("/")
        secret = f"{self.headers.get('Authorization', '')} {NAME} {PATIENT} {MRN}"
        what = "/".join(rest)
        if what == ".well-known/smart-configuration":
            self._send(json.dumps({"token_endpoint": self._url("smart/fhir/token")}))
        elif what == "metadata" and behaviour != "metadata":
            listed = [{"type": t, "searchParam": [{"name": "code"}, {"name": "patient"}]} for t in _TYPES]
            rest_part = [{"mode": "server", "resource": listed}]
            content = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": rest_part}
            self._send(json.dumps(content))
        else:
            getattr(self, f"_{behaviour}")(secret)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/token"):
            content = {"error": f"invalid {NAME}", "error_description": f"no {PATIENT} {MRN}"}
            self._send(json.dumps(content), 400)
        else:
            self._send(f"no POST for {PATIENT}", 405)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{path}"

    def _send(self, body: str | bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)
        self.close_connection = length is not None

    def _bundle(self, link: str | None = None, resource_type: str = "MedicationAdministration") -> str:
        resource = {
            "resourceType": resource_type,
            "id": PATIENT,
            "subject": {"reference": f"Patient/{PATIENT}"},
        }
        links = [{"relation": "next", "url": link}] if link else []
        return json.dumps({"resourceType": "Bundle", "entry": [{"resource": resource}], "link": links})

    def _next(self, secret: str) -> None:
        self._send(self._bundle(f"http://elsewhere.example/{PATIENT}?name={quote(secret)}"))

    def _redirect(self, secret: str) -> None:
        self._send("", 302, Location=f"http://elsewhere.example/{PATIENT}?name={quote(secret)}")

    def _outcome(self, secret: str) -> None:
        self._send(json.dumps({"resourceType": "OperationOutcome", "issue": [{"diagnostics": secret}]}))

    def _html(self, secret: str) -> None:
        self._send(f"<html>{secret}</html>", 500)

    def _half(self, secret: str) -> None:
        self._send(f'{{"resourceType": "Bundle", "id": "{secret}", "entry": [{{')

    def _cut(self, secret: str) -> None:
        self._send(secret, length=10_000)

    def _reset(self, secret: str) -> None:
        self.close_connection = True

    def _busy(self, secret: str) -> None:
        self._send(secret, 429, Retry_After=secret)

    def _status_line(self, secret: str) -> None:
        self.wfile.write(f"HTTP/1.1 {secret}\r\n\r\n".encode())
        self.close_connection = True

    def _encoding(self, secret: str) -> None:
        self._send(secret, Content_Encoding="gzip")

    def _date(self, secret: str) -> None:
        self._send(secret, 403, Date=secret, Content_Type=secret)

    def _refuses_patients(self, secret: str) -> None:
        if "patient=" in self.path:
            self._send(secret, 400)
        else:
            self._send(self._bundle())

    def _metadata(self, secret: str) -> None:
        self._send(json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": secret}))

    def _wrong_type(self, secret: str) -> None:
        self._send(json.dumps({"resourceType": "Patient", "id": PATIENT, "name": [{"text": secret}]}))

    def _bad_port(self, secret: str) -> None:
        self._send(self._bundle(f"http://{PATIENT}:{MRN}/"))

    def _smart(self, secret: str) -> None:
        self._send(secret, 401)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def hostile_server() -> Iterator[str]:
    """Its address; BASE/BEHAVIOUR/fhir is a FHIR endpoint of that behaviour."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
