"""Servers as they are: slow, busy, wrong, broken. Each ends in data or in one sentence, and in no log."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from rwe.config import Site
from rwe.errors import ConfigError
from rwe.fhir import client as client_module
from rwe.fhir.client import FhirClient
from tests.contract.wire import (
    SECRET,
    answers,
    bundle,
    client_for,
    http,
    raw_server,
    refused,
    run,
)

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
