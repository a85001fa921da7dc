"""A credential goes to the origin it belongs to: hostile servers point elsewhere, where nobody sees it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site
from rwe.errors import ConfigError, SiteError
from rwe.fhir.auth import OriginAuth
from rwe.fhir.bulk import ExportRequest, delete_job, kick_off, wait_for_manifest
from rwe.fhir.client import FhirClient, RefusedError
from rwe.fhir.origin import Origin
from rwe.sandbox.options import Access
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from tests.contract.sandbox_client import EC_KEY, RSA_KEY, jwk_set
from tests.contract.tls import Authority, make_authority, proxy
from tests.contract.wire import answers, bundle, run
from tests.unit.test_smart import pem, write_key

TOKEN = "canary-token-5f2c"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_key(tmp_path / "token", TOKEN + "\n")


@pytest.fixture(scope="module")
def foreign_server() -> Iterator[HTTPServer]:
    with HTTPServer() as server:
        yield server


@pytest.fixture(scope="module")
def secure_server(authority: Authority) -> Iterator[HTTPServer]:
    with HTTPServer(ssl_context=authority.server_context(asks_client=True)) as server:
        yield server


@pytest.fixture
def foreign(foreign_server: HTTPServer) -> HTTPServer:
    """Another server on this machine, in other hands."""
    foreign_server.clear()
    return foreign_server


@pytest.fixture
def secure(secure_server: HTTPServer) -> HTTPServer:
    """Another server, with TLS; it asks for a client's certificate and takes it or leaves it."""
    secure_server.clear()
    return secure_server


def client_for(base_url: str, token_file: Path, **fields: Any) -> FhirClient:
    settings = {"max_retries": 0, "timeout_seconds": 5, "allow_plain_http": "loopback only", **fields}
    auth = settings.pop("auth", {"kind": "bearer", "token_file": token_file})
    return FhirClient("clinic", Site(base_url=base_url, auth=auth, **settings))


def origin(server: HTTPServer) -> str:
    return server.url_for("").rstrip("/")


def elsewhere(server: HTTPServer) -> list[str]:
    """Ways to write an address on another origin, some of which look like the first one's."""
    there = origin(server).removeprefix("http://")
    port = there.rpartition(":")[2]
    return [
        f"http://{there}/fhir/Encounter?_page=2",
        f"//{there}/fhir/Encounter?_page=2",
        f"http://localhost:{port}/fhir/Encounter?_page=2",
        f"http://user@{there}/fhir/Encounter?_page=2",
        f"http:\\\\{there}/fhir/Encounter?_page=2",
        f"https://{there}/fhir/Encounter?_page=2",
        f"\thttp://{there}/fhir/Encounter?_page=2",
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_next_link_elsewhere_is_refused(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path, number: int
) -> None:
    seen_elsewhere = answers(foreign, bundle("2"))
    seen = answers(httpserver, bundle("1", following=elsewhere(foreign)[number]))
    with client_for(httpserver.url_for("/fhir"), token_file) as client, pytest.raises(SiteError) as caught:
        run(client)
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert seen_elsewhere == []
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_refused(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path, status: int, number: int
) -> None:
    seen_elsewhere = answers(foreign, bundle("2"))
    answers(httpserver, Response(status=status, headers={"Location": elsewhere(foreign)[number]}))
    with client_for(httpserver.url_for("/fhir"), token_file) as client, pytest.raises(SiteError):
        run(client)
    assert seen_elsewhere == []


def test_a_redirect_within_the_origin_is_followed_with_the_token(
    httpserver: HTTPServer, token_file: Path
) -> None:
    seen = answers(httpserver, Response(status=302, headers={"Location": "/other?x=1"}), bundle("1"))
    assert run(client_for(httpserver.url_for("/fhir"), token_file))[0] == ["1"]
    assert [r.headers["Authorization"] for r in seen] == [f"Bearer {TOKEN}"] * 2


def test_a_posted_search_is_not_sent_on(httpserver: HTTPServer, token_file: Path) -> None:
    seen = answers(httpserver, Response(status=307, headers={"Location": "/other"}), bundle("1"))
    client = client_for(httpserver.url_for("/fhir"), token_file)
    with pytest.raises(SiteError, match="redirects the request"):
        client.request("Encounter", f"{client.base_url}/Encounter/_search", form="patient=1")
    assert len(seen) == 1


def test_a_file_that_wants_the_token_is_refused_elsewhere_and_the_origin_is_named(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path
) -> None:
    seen = answers(foreign, b"{}")
    client = client_for(httpserver.url_for("/fhir"), token_file)
    with (
        pytest.raises(SiteError, match="token_origins") as caught,
        client.fetch(foreign.url_for("/file-of-patient-7"), label="Observation", token="required"),
    ):
        pytest.fail("it was fetched")
    assert origin(foreign) in str(caught.value)
    assert "file-of-patient" not in str(caught.value)
    assert seen == []


def test_a_file_that_needs_no_token_never_gets_it(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path
) -> None:
    there, here = answers(foreign, b"line"), answers(httpserver, b"line")
    client = client_for(httpserver.url_for("/fhir"), token_file)
    for url in (foreign.url_for("/f"), httpserver.url_for("/f")):
        with client.fetch(url, label="Observation", token="never") as stream:
            assert b"".join(stream.chunks()) == b"line"
    assert all("Authorization" not in r.headers for r in there + here)


def test_without_a_credential_another_origin_is_not_asked_either(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path
) -> None:
    seen = answers(foreign, bundle("2"))
    answers(httpserver, bundle("1", following=foreign.url_for("/fhir/x")))
    with pytest.raises(SiteError):
        run(client_for(httpserver.url_for("/fhir"), token_file, auth={"kind": "none"}))
    assert seen == []


def export(client: FhirClient) -> None:
    job = kick_off(client, ExportRequest(level="patient", types=("Patient",)))
    wait_for_manifest(client, job.status_url, until=datetime.now(UTC) + timedelta(seconds=5))


@pytest.mark.parametrize("number", range(7))
def test_a_status_url_elsewhere_is_refused(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path, number: int
) -> None:
    """The address to poll comes from the server's answer to the kick-off, as the next link does."""
    there = answers(foreign, b'{"transactionTime": "2024-01-01T00:00:00Z", "output": []}')
    status_url = elsewhere(foreign)[number]
    seen = answers(httpserver, Response(status=202, headers={"Content-Location": status_url}))
    with client_for(httpserver.url_for("/fhir"), token_file) as client, pytest.raises(SiteError) as caught:
        export(client)
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert there == []
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("verb", ["poll", "delete"])
def test_a_status_url_kept_from_an_earlier_night_is_looked_at_again(
    httpserver: HTTPServer, foreign: HTTPServer, token_file: Path, verb: str
) -> None:
    """It lies on disk between two nights: whoever writes there must not be sent the token."""
    there = answers(foreign, b"{}")
    answers(httpserver, b"{}")
    client = client_for(httpserver.url_for("/fhir"), token_file)
    kept = foreign.url_for("/status/1")
    if verb == "delete":
        delete_job(client, kept)
    else:
        with pytest.raises(SiteError, match="token_origins"):
            wait_for_manifest(client, kept, until=datetime.now(UTC) + timedelta(seconds=5))
    assert there == []


@pytest.mark.parametrize(
    "url", ["http://b.example/", "http://a.example:81/", "https://a.example/", "http://a.example@b.example/"]
)
def test_the_last_line_of_defence_looks_at_the_address_itself(url: str, token_file: Path) -> None:
    """Whatever made the request: a credential is attached by origin, when it is ready to be sent."""
    client = client_for("http://127.0.0.1:1/fhir", token_file)
    assert client.credential is not None
    auth = OriginAuth(client.credential, frozenset({Origin.of("http://a.example")}))
    assert "Authorization" not in requests.Request("GET", url, auth=auth).prepare().headers
    assert requests.Request("GET", "http://a.example/x", auth=auth).prepare().headers["Authorization"]


# https


def secure_client(server: HTTPServer, authority: Authority, token_file: Path, **fields: Any) -> FhirClient:
    return client_for(server.url_for("/fhir"), token_file, ca_file=authority.ca, **fields)


def test_a_listed_https_origin_gets_the_token(
    httpserver: HTTPServer, secure: HTTPServer, authority: Authority, token_file: Path
) -> None:
    seen = answers(secure, bundle("2"))
    answers(httpserver, bundle("1", following=secure.url_for("/fhir/Encounter?_page=2")))
    listed = client_for(
        httpserver.url_for("/fhir"), token_file, ca_file=authority.ca, token_origins=[origin(secure)]
    )
    assert run(listed)[0] == ["1", "2"]
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("rule", ["required", "never"])
def test_https_never_falls_back_to_http(
    secure: HTTPServer, foreign: HTTPServer, authority: Authority, token_file: Path, rule: Any
) -> None:
    seen = answers(foreign, b"{}")
    client = secure_client(secure, authority, token_file)
    with pytest.raises(SiteError), client.fetch(foreign.url_for("/f"), label="Patient", token=rule):
        pytest.fail("it was fetched")
    answers(secure, Response(status=302, headers={"Location": foreign.url_for("/f")}))
    with pytest.raises(SiteError), client.fetch("Patient", label="Patient", token=rule):
        pytest.fail("it was fetched")
    assert seen == []


def test_an_authority_that_is_not_trusted_gets_nothing(
    secure: HTTPServer, token_file: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))  # the environment's word does not count
    seen = answers(secure, bundle("1"))
    with pytest.raises(SiteError, match="no trusted TLS connection"):
        run(client_for(secure.url_for("/fhir"), token_file))
    assert seen == []


def test_the_certificate_is_shown_to_the_site_and_to_nobody_else(
    secure: HTTPServer, authority: Authority, token_file: Path
) -> None:
    shown: list[tuple[str, bool]] = []

    def answer(request: Request) -> Response:
        shown.append((request.path, bool(request.environ.get("SSL_CLIENT_CERT"))))
        return Response(bundle("1"), headers={"Set-Cookie": "session=canary"})

    context = authority.server_context(asks_client=True)
    with HTTPServer(ssl_context=context) as other:
        secure.expect_request("/fhir/Encounter").respond_with_handler(answer)
        theirs = answers(other, b"line")
        certificate = {"client_cert_file": authority.client_cert, "client_key_file": authority.client_key}
        client = secure_client(secure, authority, token_file, **certificate)
        run(client)
        with client.fetch(other.url_for("/file"), label="Encounter", token="never") as stream:
            stream.read()
    assert shown == [("/fhir/Encounter", True)]
    assert not theirs[0].environ.get("SSL_CLIENT_CERT")
    assert {"Cookie", "Authorization"}.isdisjoint(theirs[0].headers.keys())


def test_https_goes_through_the_sites_proxy(
    secure: HTTPServer, authority: Authority, token_file: Path
) -> None:
    answers(secure, bundle("1"))
    with proxy() as (address, seen):
        with secure_client(secure, authority, token_file, proxy=address) as client:
            assert run(client)[0] == ["1"]
        assert seen == [origin(secure).removeprefix("https://")]


def test_a_dead_proxy_is_told(
    secure: HTTPServer, authority: Authority, token_file: Path, unused_tcp_port: int
) -> None:
    client = secure_client(secure, authority, token_file, proxy=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(SiteError, match="proxy"):
        run(client)


# Renewal


def test_a_bearer_token_that_was_replaced_is_read_again_once(
    httpserver: HTTPServer, token_file: Path
) -> None:
    client = client_for(httpserver.url_for("/fhir"), token_file)
    token_file.write_text("new-token")
    seen = answers(httpserver, Response(status=401), bundle("1"))
    assert run(client)[0] == ["1"]
    assert [r.headers["Authorization"] for r in seen] == [f"Bearer {TOKEN}", "Bearer new-token"]


def test_a_token_that_stays_refused_is_told_and_not_asked_for_ever(
    httpserver: HTTPServer, token_file: Path
) -> None:
    client = client_for(httpserver.url_for("/fhir"), token_file)
    seen = answers(httpserver, Response(status=401))
    with pytest.raises(RefusedError, match="check auth in"):
        run(client)
    assert len(seen) == 1  # nothing new in the file
    token_file.write_text("new-token")
    with pytest.raises(RefusedError, match="status 401"):
        run(client)
    assert len(seen) == 3


def test_basic_auth_is_sent_as_the_standard_says(httpserver: HTTPServer, tmp_path: Path) -> None:
    """RFC 7617, section 2: Aladdin's."""
    password = write_key(tmp_path / "password", "open sesame\n")
    seen = answers(httpserver, bundle("1"))
    auth = {"kind": "basic", "user": "Aladdin", "password_file": password}
    run(client_for(httpserver.url_for("/fhir"), password, auth=auth))
    assert seen[0].headers["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert base64.b64decode("QWxhZGRpbjpvcGVuIHNlc2FtZQ==") == b"Aladdin:open sesame"


def test_a_missing_or_open_token_file_is_told_before_anything_is_asked(token_file: Path) -> None:
    token_file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        client_for("http://127.0.0.1:1/fhir", token_file)
    token_file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        client_for("http://127.0.0.1:1/fhir", token_file)


# SMART, against a hostile server and a right one


def smart(tmp_path: Path, key: Any = EC_KEY, name: str = "key.pem", **more: Any) -> dict[str, Any]:
    key_file = write_key(tmp_path / name, pem(key))
    kid = {"kid": "ec" if key is EC_KEY else "rsa"}
    return {"kind": "smart", "client_id": "rwe-client", "key_file": key_file, **kid, **more}


def test_a_token_endpoint_elsewhere_gets_no_assertion(
    httpserver: HTTPServer, foreign: HTTPServer, secure: HTTPServer, tmp_path: Path
) -> None:
    for other in (foreign, secure):
        seen = answers(other, b'{"access_token": "x"}')
        httpserver.clear()
        configuration = json.dumps({"token_endpoint": other.url_for("/token")})
        httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_data(configuration)
        client = client_for(httpserver.url_for("/fhir"), tmp_path, auth=smart(tmp_path))
        with pytest.raises(SiteError, match="token_origins") as caught:
            run(client)
        assert origin(other) in str(caught.value)
        assert seen == []


def test_a_listed_https_token_endpoint_gets_the_assertion(
    httpserver: HTTPServer, secure: HTTPServer, authority: Authority, tmp_path: Path
) -> None:
    seen = answers(secure, b'{"access_token": "abc", "token_type": "Bearer"}')
    configuration = json.dumps({"token_endpoint": secure.url_for("/token")})
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_data(configuration)
    httpserver.expect_request("/fhir/Encounter", headers={"Authorization": "Bearer abc"}).respond_with_data(
        bundle("1")
    )
    listed = {"ca_file": authority.ca, "token_origins": [origin(secure)]}
    client = client_for(httpserver.url_for("/fhir"), tmp_path, auth=smart(tmp_path), **listed)
    assert run(client)[0] == ["1"]
    assert seen[0].form["client_assertion"].count(".") == 2


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_token_endpoint_that_redirects_gets_no_second_assertion(
    httpserver: HTTPServer, foreign: HTTPServer, tmp_path: Path, status: int
) -> None:
    seen = answers(foreign, b'{"access_token": "x"}')
    configuration = json.dumps({"token_endpoint": httpserver.url_for("/token")})
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_data(configuration)
    moved = Response(status=status, headers={"Location": foreign.url_for("/token")})
    httpserver.expect_request("/token").respond_with_response(moved)
    with pytest.raises(SiteError, match="redirects"):
        run(client_for(httpserver.url_for("/fhir"), tmp_path, auth=smart(tmp_path)))
    assert seen == []


@pytest.fixture(scope="module")
def hospital() -> Iterator[RunningHospital]:
    access = Access(mode="smart", jwks=jwk_set(rsa=RSA_KEY, ec=EC_KEY))
    with running_hospitals([HospitalSpec("north", "a", patients=5, seed=5, access=access)]) as [north]:
        yield north


def count_patients(hospital: RunningHospital, auth: dict[str, Any]) -> int:
    with client_for(hospital.base_url, Path(), auth=auth) as client:
        return json.loads(client.request("Patient", f"{client.base_url}/Patient?_count=500").body)["total"]


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["RS384", "ES384"])
def test_both_algorithms_let_us_in(hospital: RunningHospital, tmp_path: Path, key: Any) -> None:
    assert count_patients(hospital, smart(tmp_path, key)) == len(hospital.control.state()["Patient"])


def test_a_token_revoked_in_the_middle_is_renewed_once(hospital: RunningHospital, tmp_path: Path) -> None:
    with client_for(hospital.base_url, tmp_path, auth=smart(tmp_path)) as client:
        url = f"{client.base_url}/Patient?_count=1"
        client.request("Patient", url)
        hospital.control.revoke_tokens()
        client.request("Patient", url)
        assert client.requests["Patient"] == {"200": 2, "401": 1}
        assert client.requests["SMART"] == {"200": 3}  # discovery, a token, another token


TOLD: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "wrong audience": (lambda p: smart(p, audience="https://other.example.org/token"), "audience"),
    "unknown key": (lambda p: smart(p, kid="unknown"), "register the keys of `rwe sites jwks`"),
    "unknown client": (lambda p: smart(p, client_id="someone"), "check client_id"),
    "scope not granted": (
        lambda p: smart(p, scopes=["system/*.read", "system/*.write"]),
        "does not grant the scope system/*.write",
    ),
    "no scope granted": (lambda p: smart(p, scopes=["system/*.write"]), "invalid_scope"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_the_authorization_server_refuses_is_told(
    hospital: RunningHospital, tmp_path: Path, what: str
) -> None:
    auth, told = TOLD[what]
    with pytest.raises(SiteError) as caught:
        count_patients(hospital, auth(tmp_path))
    assert told in str(caught.value)


def test_keys_are_rotated_with_an_overlap(hospital: RunningHospital, tmp_path: Path) -> None:
    """Publish old and new, use the new, then publish the new alone: no night without a token."""
    from rwe.fhir.keys import jwk_set as published
    from rwe.fhir.keys import site_keys
    from rwe.site_settings import SmartAuth

    base = {"kind": "smart", "client_id": "rwe-client"}
    old, new = (write_key(tmp_path / n, pem(k)) for n, k in (("old", RSA_KEY), ("new", EC_KEY)))
    before = {**base, "key_file": old, "next_key_file": new}
    after = {**base, "key_file": new}
    try:
        hospital.control.register_keys(published(site_keys("north", SmartAuth(**before))))
        assert count_patients(hospital, before)
        assert count_patients(hospital, after)
        hospital.control.register_keys(published(site_keys("north", SmartAuth(**after))))
        assert count_patients(hospital, after)
        with pytest.raises(SiteError, match="register the keys"):
            count_patients(hospital, before)
    finally:
        hospital.control.register_keys(jwk_set(rsa=RSA_KEY, ec=EC_KEY))
