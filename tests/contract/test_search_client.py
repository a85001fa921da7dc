"""The search client against servers as they are: slow, wrong, redirecting, broken; over real sockets."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site
from rwe.errors import ConfigError, SiteError
from rwe.fhir import client as client_module
from rwe.fhir.capability import read_capability
from rwe.fhir.client import FhirClient
from rwe.fhir.search import Page, SearchSummary, escape, search

SECRET = "secret-patient-17"
QUERY = [("patient", SECRET)]
METADATA = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}


def client_for(server: HTTPServer | str, **fields: Any) -> FhirClient:
    url = server if isinstance(server, str) else server.url_for("/fhir")
    settings = {"max_retries": 2, "timeout_seconds": 5, "allow_plain_http": "loopback only", **fields}
    return FhirClient("clinic", Site(base_url=url, **settings))


def bundle(*ids: str, following: str | None = None, **more: Any) -> bytes:
    links = [{"relation": "next", "url": following}] if following else []
    entries = [{"resource": {"resourceType": "Encounter", "id": i}} for i in ids]
    return json.dumps({"resourceType": "Bundle", "entry": entries, "link": links, **more}).encode()


def run(
    client: FhirClient, query: list[tuple[str, str]] | None = None
) -> tuple[list[str | None], SearchSummary]:
    pages: list[Page] = []
    summary = search(client, "Encounter", query or QUERY, page_size=2, on_page=pages.append)
    return [f.resource.id for page in pages for f in page.found], summary


def answers(
    server: HTTPServer, *responses: Callable[[Request], Response] | Response | bytes
) -> list[Request]:
    """Answer the requests one after the other, the last one for ever. Returns the requests, as they come."""
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        response = responses[min(len(seen), len(responses) - 1)]
        request.get_data()
        seen.append(request)
        if isinstance(response, bytes):
            return Response(response, content_type="application/fhir+json")
        return response if isinstance(response, Response) else response(request)

    server.expect_request(re.compile(".*")).respond_with_handler(handle)
    return seen


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """A server that writes the given bytes, one answer a connection, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
        thread.join(timeout=5)


def http(body: bytes, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def refused(client: FhirClient, caplog: pytest.LogCaptureFixture) -> str:
    """The sentence a failing search ends in; neither it nor any log names the patient."""
    with caplog.at_level(logging.DEBUG), pytest.raises(SiteError) as caught:
        run(client)
    sentence = str(caught.value)
    assert sentence.startswith("site clinic, Encounter: ")
    assert SECRET not in sentence
    ours = " ".join(r.getMessage() for r in caplog.records if r.name != "werkzeug")  # the test's own server
    assert SECRET not in ours
    assert "/fhir" not in ours
    return sentence


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


RETRY_AFTER = [
    "0",
    "1795347390",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wed, 21 Oct 2099 07:28:00 GMT",
    "soon",
    "-5",
    None,
]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("pause", RETRY_AFTER)
def test_a_busy_server_is_waited_for_but_not_for_ever(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, pause: str | None
) -> None:
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(client_module._PatientRetry, "DEFAULT_BACKOFF_MAX", 0.05)
    headers = {"Retry-After": pause} if pause is not None else {}
    answers(httpserver, Response("busy", status=status, headers=headers), bundle("1"))
    client, started = client_for(httpserver), time.monotonic()
    assert run(client)[0] == ["1"]
    assert time.monotonic() - started < 3
    assert client.requests == {"Encounter": {str(status): 1, "200": 1}}


def test_a_pause_the_server_asks_for_is_kept(httpserver: HTTPServer) -> None:
    answers(httpserver, Response(status=429, headers={"Retry-After": "1"}), bundle("1"))
    started = time.monotonic()
    run(client_for(httpserver))
    assert time.monotonic() - started >= 1


STATUSES = {
    400: "CapabilityStatement",
    401: "wants a login",
    403: "ask the hospital for the right",
    404: "check base_url",
    410: "a page expired",
    500: "try later",
    503: "try later",
}


@pytest.mark.parametrize("status", STATUSES)
def test_a_refusal_is_told_by_status_with_advice(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    answers(httpserver, Response(f"<b>no {SECRET}</b>", status=status))
    sentence = refused(client_for(httpserver, max_retries=0), caplog)
    assert f"status {status}" in sentence
    assert STATUSES[status] in sentence


OUTCOME = json.dumps({"resourceType": "OperationOutcome", "text": SECRET}).encode()
NOT_FHIR = {
    "a login page": (f"<!DOCTYPE html><html>{SECRET}</html>".encode(), "a web page instead of FHIR"),
    "an error outcome": (OUTCOME, "an OperationOutcome instead of results"),
    "XML": (f"<?xml version='1.0'?><Bundle>{SECRET}</Bundle>".encode(), "answers in XML"),
    "half a body": (bundle("1", SECRET)[:-9], "no complete JSON"),
    "another resource": (json.dumps({"resourceType": "Patient"}).encode(), "another resource"),
    "nothing": (b"", "no complete JSON"),
    "another encoding": (f'{{"resourceType":"Bundle","x":"{SECRET} é"}}'.encode("latin-1"), "not UTF-8"),
}


@pytest.mark.parametrize("what", NOT_FHIR)
def test_a_success_that_is_none_is_told_apart(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    body, sentence = NOT_FHIR[what]
    answers(httpserver, Response(body, content_type="application/fhir+json"))
    assert sentence in refused(client_for(httpserver), caplog)


def test_half_a_body_is_asked_for_again() -> None:
    whole = bundle("1", "2")
    with raw_server(http(whole[:-30], len(whole)), http(whole[:-30]), http(whole)) as url:
        client = client_for(url)
        assert run(client)[0] == ["1", "2"]
        assert client.requests["Encounter"]["200"] == 3


def test_a_body_that_always_breaks_off_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with raw_server(*[http(bundle("1")[:-9], 10_000)] * 3) as url:
        assert "broke off each time" in refused(client_for(url), caplog)


def test_a_server_that_hangs_up_is_asked_again() -> None:
    with raw_server(b"", http(bundle("1"))) as url:
        assert run(client_for(url))[0] == ["1"]


def test_a_dead_server_is_told_soon(unused_tcp_port: int, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    sentence = refused(client_for(f"http://127.0.0.1:{unused_tcp_port}/fhir", max_retries=6), caplog)
    assert "no answer from the server; check that it runs" in sentence
    assert time.monotonic() - started < 10


def test_a_silent_server_is_left_after_the_time_out(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
        client = client_for(url, timeout_seconds=0.2, max_retries=0)
        assert "within 0.2 seconds" in refused(client, caplog)


def test_a_server_without_tls_under_an_https_address(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpserver.url_for("/fhir").replace("http:", "https:")
    assert "no trusted TLS connection" in refused(client_for(url, max_retries=0), caplog)


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://127.0.0.1:1/fhir", "no"),
        ("http://192.0.2.7/fhir", "loopback only"),
        ("http://fhir.example.org/fhir", "loopback only"),
        ("http://127.0.0.1.example.org/fhir", "loopback only"),
        ("http://127.0.0.1:99999/fhir", "loopback only"),
    ],
)
def test_plain_http_goes_to_this_machine_only_and_only_if_allowed(url: str, allow: Any) -> None:
    with pytest.raises(ConfigError):
        FhirClient("clinic", Site(base_url=url, allow_plain_http=allow))


def test_the_environment_decides_nothing(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login who password what\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    seen = answers(httpserver, bundle("1"))
    run(client_for(httpserver))
    assert "Authorization" not in seen[0].headers


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
