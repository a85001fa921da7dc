"""A FHIR server that is never the bottleneck: pages made beforehand, served from memory, on loopback.

    python benchmarks/pages_server.py --pages 100 --count 200 [--latency 0.2]

Prints its base URL, then serves until its standard input closes.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def observation(number: int) -> dict[str, object]:
    """A laboratory value as hospitals send it, about 900 bytes."""
    return {
        "resourceType": "Observation",
        "id": f"obs-{number:08d}",
        "meta": {
            "versionId": "1",
            "lastUpdated": f"2024-05-04T03:{number // 60 % 60:02}:{number % 60:02}.123+02:00",
        },
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "laboratory",
                    }
                ]
            }
        ],
        "code": {
            "coding": [
                {
                    "system": "http://loinc.org",
                    "code": "2532-0",
                    "display": "Lactate dehydrogenase [Enzymatic activity/volume] in Serum or Plasma",
                }
            ],
            "text": "LDH",
        },
        "subject": {"reference": f"Patient/pat-{number % 500:05d}"},
        "encounter": {"reference": f"Encounter/enc-{number % 5000:06d}"},
        "effectiveDateTime": "2024-03-05T07:30:00+01:00",
        "valueQuantity": {
            "value": 180 + number % 300,
            "unit": "U/L",
            "system": "http://unitsofmeasure.org",
            "code": "U/L",
        },
        "referenceRange": [{"low": {"value": 135, "unit": "U/L"}, "high": {"value": 225, "unit": "U/L"}}],
    }


def observation_text(name: str, patient: str, number: int) -> str:
    """The same as JSON, of one patient, without the cost of making it."""
    return _TEXT % (name, number // 60 % 60, number % 60, patient, number % 5000, 180 + number % 300)


_TEXT = (
    json.dumps(observation(0))
    .replace("%", "%%")
    .replace("obs-00000000", "obs-%s")
    .replace("03:00:00.123", "03:%02d:%02d.123")
    .replace("pat-00000", "%s")
    .replace("enc-000000", "enc-%06d")
    .replace('"value": 180', '"value": %d')
)


def make_pages(base: str, pages: int, count: int) -> list[bytes]:
    """Searchset Bundles chained by next links."""
    made = []
    for page in range(pages):
        links = [{"relation": "self", "url": f"{base}/Observation?_count={count}"}]
        if page + 1 < pages:
            links.append({"relation": "next", "url": f"{base}/Observation?_count={count}&page={page + 1}"})
        entries = [
            {
                "fullUrl": f"{base}/Observation/obs-{n:08d}",
                "resource": observation(n),
                "search": {"mode": "match"},
            }
            for n in range(page * count, (page + 1) * count)
        ]
        bundle = {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": pages * count,
            "link": links,
            "entry": entries,
        }
        made.append(json.dumps(bundle).encode())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    pages: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            body = pages[int(query.get("page", ["0"])[0])]
            if options.latency:
                time.sleep(options.latency)
            self.send_response(200)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        base = f"http://127.0.0.1:{server.server_port}/fhir"
        pages.extend(make_pages(base, options.pages, options.count))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(base, flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
