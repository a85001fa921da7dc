"""The search client: pages, bytes, ways of asking, and what a server says about itself."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from rwe.errors import SiteError
from rwe.fhir import client as client_module
from rwe.fhir.capability import read_capability
from rwe.fhir.search import escape, search
from tests.contract.wire import (
    METADATA,
    QUERY,
    SECRET,
    answers,
    bundle,
    client_for,
    raw_server,
    refused,
    run,
)


def test_pages_are_followed_along_the_servers_own_links(httpserver: HTTPServer) -> None:
    opaque = httpserver.url_for("/elsewhere?_getpages=abc")
    seen = answers(
        httpserver,
        bundle("1", "2", following=opaque),
        bundle("3", following="/fhir/Encounter?_page=3"),
        bundle("4"),
    )
    ids, summary = run(client_for(httpserver))
    assert ids == ["1", "2", "3", "4"]
    assert (summary.pages, summary.resources) == (3, 4)
    assert [r.full_path for r in seen] == [
        f"/fhir/Encounter?patient={SECRET}&_count=2",
        "/elsewhere?_getpages=abc",
        "/fhir/Encounter?_page=3",
    ]


class _ManyPages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, so that pages cost little
    wbufsize = -1  # head and body in one packet, or each waits for the other's acknowledgement

    def do_GET(self) -> None:
        number = int(self.path.rpartition("_page=")[2]) if "_page=" in self.path else 1
        body = bundle(
            str(number), following=f"/fhir/Encounter?_page={number + 1}" if number < 1_500 else None
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def test_thousands_of_pages_are_no_deep_recursion() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ManyPages) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with client_for(f"http://127.0.0.1:{server.server_port}/fhir") as client:
            ids, summary = run(client)
        server.shutdown()
    assert ids == [str(n) for n in range(1, 1_501)]
    assert summary.pages == 1_500 > sys.getrecursionlimit()


def test_a_next_link_that_leads_back_ends_in_an_error(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    answers(httpserver, bundle("1", following=f"/fhir/Encounter?_page=2&patient={SECRET}"))
    assert "leads back to a page already read" in refused(client_for(httpserver), caplog)


@pytest.mark.parametrize("how", ["link", "redirect"])
def test_no_other_host_is_ever_asked(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.3)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/fhir/Encounter?patient={SECRET}"
        answer = (
            bundle("1", following=url) if how == "link" else Response(status=307, headers={"Location": url})
        )
        answers(httpserver, answer)
        assert "another host, port or scheme" in refused(client_for(httpserver), caplog)
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_redirect_within_the_server_is_followed_and_a_circle_is_not(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    answers(httpserver, Response(status=301, headers={"Location": "/fhir/R4/Encounter"}), bundle("1"))
    assert run(client_for(httpserver))[0] == ["1"]
    httpserver.clear()
    answers(httpserver, Response(status=302, headers={"Location": "/fhir/Encounter"}))
    assert "redirects in a circle" in refused(client_for(httpserver), caplog)


def test_bytes_are_not_touched(httpserver: HTTPServer) -> None:
    resource = b'{ "resourceType":"Encounter",\n\t"id" : "1", "x": 7.10, "e": 1E400, "t": "\\u00e9\xc3\xa9" }'
    answers(httpserver, b'{"resourceType":"Bundle","entry":[{"resource":' + resource + b"}]}")
    raw: list[bytes] = []
    search(
        client_for(httpserver), "Encounter", QUERY, page_size=2,
        on_page=lambda page: raw.extend(f.resource.raw for f in page.found),
    )  # fmt: skip
    assert raw == [resource]


def test_a_byte_order_mark_is_overlooked(httpserver: HTTPServer) -> None:
    answers(httpserver, b"\xef\xbb\xbf" + bundle("1"))
    assert run(client_for(httpserver))[0] == ["1"]


def test_outcomes_and_incomplete_resources_are_no_versions(httpserver: HTTPServer) -> None:
    entries = [
        {"resource": {"resourceType": "Encounter", "id": "1"}, "search": {"mode": "match"}},
        {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}},
        {"resource": {"resourceType": "Encounter", "id": "2", "meta": {"tag": [{"code": "SUBSETTED"}]}}},
        {"resource": {"resourceType": "Location", "id": "3"}, "search": {"mode": "include"}},
        {"resource": {"id": "4"}},
        {"fullUrl": "urn:x"},
    ]
    answers(httpserver, json.dumps({"resourceType": "Bundle", "entry": entries}).encode())
    ids, summary = run(client_for(httpserver))
    assert ids == ["1", "3"]
    assert (summary.subsetted, summary.malformed) == (1, 1)


def test_compressed_answers_are_asked_for_and_read(httpserver: HTTPServer) -> None:
    packed = Response(gzip.compress(bundle("1")), headers={"Content-Encoding": "gzip"})
    seen = answers(httpserver, packed)
    assert run(client_for(httpserver))[0] == ["1"]
    assert seen[0].headers["Accept-Encoding"] == "gzip"
    assert seen[0].headers["Accept"] == "application/fhir+json"
    assert seen[0].headers["User-Agent"].startswith("rwe/")


def test_a_compressed_bomb_does_not_fill_the_memory(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LARGEST_ANSWER_BYTES", 1 << 20)
    bomb = Response(gzip.compress(b" " * (8 << 20)), headers={"Content-Encoding": "gzip"})
    answers(httpserver, bomb)
    assert "larger than 1 MiB; set a smaller page_size" in refused(client_for(httpserver), caplog)


LONG = [("patient", ",".join(f"p{i:060d}" for i in range(100)))]


def test_a_long_query_goes_by_post(httpserver: HTTPServer) -> None:
    seen = answers(httpserver, bundle("1"))
    assert run(client_for(httpserver), LONG)[0] == ["1"]
    assert (seen[0].method, seen[0].full_path) == ("POST", "/fhir/Encounter/_search?")
    assert parse_qs(seen[0].get_data(as_text=True)) == {"patient": [LONG[0][1]], "_count": ["2"]}


@pytest.mark.parametrize("status", [404, 405, 415, 501])
def test_where_post_is_not_taken_get_is_tried(httpserver: HTTPServer, status: int) -> None:
    seen = answers(httpserver, Response(status=status), bundle("1"))
    assert run(client_for(httpserver), LONG)[0] == ["1"]
    assert [r.method for r in seen] == ["POST", "GET"]


@pytest.mark.parametrize("status", [405, 414, 431])
def test_where_get_is_not_taken_post_is_tried(httpserver: HTTPServer, status: int) -> None:
    seen = answers(httpserver, Response(status=status), bundle("1"))
    assert run(client_for(httpserver))[0] == ["1"]
    assert [r.method for r in seen] == ["GET", "POST"]


def test_separators_inside_a_value_are_escaped() -> None:
    assert escape(r"a,b|c$d\e") == r"a\,b\|c\$d\\e"


def test_the_servers_clock_is_that_of_the_first_page(httpserver: HTTPServer) -> None:
    first = bundle("1", following="/fhir/x", meta={"lastUpdated": "2026-03-01T01:00:00+01:00"})
    answers(httpserver, first, bundle("2", meta={"lastUpdated": "2027-03-01T00:00:00Z"}))
    clock = run(client_for(httpserver))[1].server_clock
    assert clock is not None
    assert clock.isoformat() == "2026-03-01T00:00:00+00:00"


def test_without_a_bundle_clock_the_date_header_is_the_servers_clock() -> None:
    dated = b"HTTP/1.1 200 OK\r\nDate: Sun, 01 Mar 2026 00:00:00 GMT\r\nConnection: close\r\n\r\n" + bundle(
        "1"
    )
    with raw_server(dated) as url:
        clock = run(client_for(url))[1].server_clock
    assert clock is not None
    assert clock.isoformat() == "2026-03-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("own", "ignored"),
    [
        ("/fhir/Encounter?_count=2", {"patient"}),
        ("/fhir/Encounter?patient=x&_count=2", set()),
        ("/fhir/Encounter?patient%3APatient=x", set()),
        ("/fhir/Encounter?subject=x", set()),
        ("/fhir/Encounter/_search", set()),
    ],
)
def test_the_self_link_tells_which_parameters_were_ignored(
    httpserver: HTTPServer, own: str, ignored: set[str]
) -> None:
    answers(httpserver, bundle("1", link=[{"relation": "self", "url": own}]))
    assert run(client_for(httpserver))[1].ignored == ignored


def test_a_capability_statement_may_lack_nearly_everything(httpserver: HTTPServer) -> None:
    answers(httpserver, json.dumps({"resourceType": "CapabilityStatement"}).encode())
    capability = read_capability(client_for(httpserver))
    assert (capability.software, capability.version, capability.fhir_version) == (None, None, None)
    assert capability.offers("Patient")


def test_a_capability_statement_tells_types_and_parameters(httpserver: HTTPServer) -> None:
    rest = [{"resource": [{"type": "Patient", "searchParam": [{"name": "_id"}]}]}]
    software = {"name": "Some", "version": "8"}
    answers(httpserver, json.dumps({**METADATA, "software": software, "rest": rest}).encode())
    capability = read_capability(client_for(httpserver))
    assert capability.types == {"Patient": frozenset({"_id"})}
    assert not capability.offers("Medication")
    assert (capability.software, capability.version, capability.fhir_version) == ("Some", "8", "4.0.1")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (json.dumps({**METADATA, "fhirVersion": "3.0.2"}).encode(), "does not speak FHIR R4"),
        (b"<html></html>", "a web page instead of FHIR"),
        (json.dumps({"resourceType": "Bundle"}).encode(), "another resource"),
    ],
)
def test_a_wrong_address_shows_at_the_capability_statement(
    httpserver: HTTPServer, body: bytes, sentence: str
) -> None:
    answers(httpserver, body)
    with pytest.raises(SiteError, match=sentence):
        read_capability(client_for(httpserver))
