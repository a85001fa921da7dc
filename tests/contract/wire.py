"""A FHIR server in the hands of a test: real sockets, any answer, and a client for it."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site
from rwe.errors import SiteError
from rwe.fhir.client import FhirClient
from rwe.fhir.search import Page, SearchSummary, search

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
