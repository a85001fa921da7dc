"""SMART Backend Services: keys as they come, the assertion we sign, scopes granted, when a token is old."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site
from rwe.errors import ConfigError, SiteError
from rwe.fhir.client import FhirClient
from rwe.fhir.keys import jwk_set, read_key, site_keys, thumbprint
from rwe.fhir.smart import SmartCredential, missing_scopes, spread_scopes
from rwe.site_settings import SmartAuth

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP384R1())


def pem(key: Any, password: bytes | None = None) -> str:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock).decode()


def public_pem(key: Any) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()


def write_key(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# Keys


def test_the_thumbprint_is_the_one_of_the_standards_example() -> None:
    """RFC 7638, section 3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi"
        "FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgn"
        "Yb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqb"
        "w0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    modulus = int.from_bytes(jwt.utils.base64url_decode(n), "big")
    key = RSAPublicNumbers(65537, modulus).public_key()
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS384"), (EC_KEY, "ES384")])
def test_a_key_is_read_from_pem_and_from_jwk_alike(key: Any, algorithm: str) -> None:
    maker: Any = jwt.algorithms.RSAAlgorithm if key is RSA_KEY else jwt.algorithms.ECAlgorithm
    from_pem, from_jwk = read_key(pem(key), "x"), read_key(maker.to_jwk(key), "x")
    assert from_pem.algorithm == from_jwk.algorithm == algorithm
    assert from_pem.kid == from_jwk.kid == thumbprint(key.public_key())
    named = json.dumps({**json.loads(maker.to_jwk(key)), "kid": "ours"})
    assert read_key(named, "x").kid == "ours"
    assert read_key(named, "x", kid="theirs").kid == "theirs"


def test_the_published_set_holds_both_keys_and_nothing_secret(tmp_path: Path) -> None:
    auth = SmartAuth(
        kind="smart",
        client_id="c",
        key_file=write_key(tmp_path / "now.pem", pem(RSA_KEY)),
        next_key_file=write_key(tmp_path / "next.pem", pem(EC_KEY)),
    )
    keys = json.loads(jwk_set(site_keys("clinic", auth)))["keys"]
    assert [k["alg"] for k in keys] == ["RS384", "ES384"]
    for jwk, private in zip(keys, (RSA_KEY, EC_KEY), strict=True):
        assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(jwk)
        signed = jwt.encode({"a": 1}, private, algorithm=jwk["alg"])
        assert jwt.decode(signed, jwt.PyJWK(jwk).key, algorithms=[jwk["alg"]]) == {"a": 1}


BAD_KEYS: dict[str, tuple[Callable[[], str], str]] = {
    "public": (lambda: public_pem(RSA_KEY), "public key"),
    "encrypted": (lambda: pem(EC_KEY, b"pw"), "encrypted"),
    "short": (lambda: pem(rsa.generate_private_key(65537, 1024)), "shorter than 2048"),
    "other curve": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "P-384"),
    "no key": (lambda: "hunter2", "no private key"),
    "broken JWK": (lambda: '{"kty": "RSA", "d": "hunter2"}', "no private key"),
    "public JWK": (lambda: jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key()), "public key"),  # type: ignore[return-value]
    "broken PEM": (
        lambda: "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----",
        "no private key",
    ),
}


@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_key_that_will_not_do_is_told_without_it(what: str) -> None:
    text, told = BAD_KEYS[what][0](), BAD_KEYS[what][1]
    with pytest.raises(ConfigError) as caught:
        read_key(text, "site clinic, auth.key_file")
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_algorithm_that_the_key_is_not_made_for_is_told() -> None:
    with pytest.raises(ConfigError, match="made for ES384"):
        read_key(pem(EC_KEY), "x", algorithm="RS384")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_key(tmp_path / "k.pem", pem(EC_KEY))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        site_keys("clinic", SmartAuth(kind="smart", client_id="c", key_file=path))


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = SmartAuth(kind="smart", client_id="c", key_env="CLINIC_KEY")
    with pytest.raises(ConfigError, match="CLINIC_KEY"):
        site_keys("clinic", auth)
    monkeypatch.setenv("CLINIC_KEY", pem(EC_KEY))
    assert site_keys("clinic", auth)[0].algorithm == "ES384"
    assert "PRIVATE" not in repr(site_keys("clinic", auth))


# Scopes

SCOPES = """
    asked                      granted                               missing
    system/*.read              system/*.read                         -
    system/*.read              system/*.rs                           -
    system/*.rs                system/*.read                         -
    system/*.rs                system/*.cruds                        -
    system/Patient.read        system/*.rs                           -
    system/Patient.r           system/Patient.rs                     -
    system/*.read              system/Patient.read                   system/*.read
    system/Observation.rs      system/Patient.rs                     system/Observation.rs
    system/*.rs                system/*.r                            system/*.rs
    system/*.read              system/*.write                        system/*.read
    system/*.read              -                                     system/*.read
    system/*.rs                system/*.rs?category=laboratory       system/*.rs
    offline                    offline                               -
"""


@pytest.mark.parametrize("row", [r.split() for r in SCOPES.strip().splitlines()[1:]])
def test_what_is_granted_must_cover_what_was_asked(row: list[str]) -> None:
    asked, granted, missing = (([] if cell == "-" else [cell]) for cell in row)
    assert missing_scopes(asked, granted) == missing


# The conversation with a token endpoint


class Endpoint:
    """A FHIR server with SMART whose token endpoint answers as told, and keeps what it was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.server, self.url = server, server.url_for("/token")
        self.forms: list[dict[str, str]] = []
        self.answers: list[Response] = []
        self.expires_in: Any = 300
        self.configuration: Any = {"token_endpoint": self.url}
        server.expect_request("/fhir/.well-known/smart-configuration").respond_with_handler(
            lambda _: Response(json.dumps(self.configuration))
        )
        server.expect_request("/token", method="POST").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.forms.append({k: v[0] for k, v in parse_qs(request.get_data(as_text=True)).items()})
        if self.answers:
            return self.answers.pop(0)
        content = {"access_token": f"token-{len(self.forms)}", "token_type": "Bearer", "scope": "system/*.rs"}
        return Response(json.dumps({**content, "expires_in": self.expires_in}))

    def claims(self, number: int, key: Any = EC_KEY, **more: Any) -> dict[str, Any]:
        assertion = self.forms[number]["client_assertion"]
        return jwt.decode(
            assertion, key.public_key(), algorithms=["RS384", "ES384"], audience=self.url, **more
        )


@pytest.fixture
def endpoint(httpserver: HTTPServer) -> Endpoint:
    return Endpoint(httpserver)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write_key(tmp_path / "key.pem", pem(EC_KEY))


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def credential(
    endpoint: Endpoint, key_file: Path, clock: Clock | None = None, **auth: Any
) -> SmartCredential:
    settings = {"kind": "smart", "client_id": "rwe-client", "key_file": key_file, **auth}
    site = Site(
        base_url=endpoint.server.url_for("/fhir"), allow_plain_http="loopback only", timeout_seconds=5
    )
    return SmartCredential(
        "clinic", SmartAuth(**settings), FhirClient("clinic", site), clock=clock or Clock()
    )


def test_the_assertion_is_what_the_specification_asks_for(endpoint: Endpoint, key_file: Path) -> None:
    mine = credential(endpoint, key_file)
    before = time.time()
    assert mine.header() == "Bearer token-1"
    mine.renew("Bearer token-1")
    form = endpoint.forms[0]
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == "system/*.read"
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    head = jwt.get_unverified_header(form["client_assertion"])
    assert head == {"alg": "ES384", "kid": thumbprint(EC_KEY.public_key()), "typ": "JWT"}
    one, two = endpoint.claims(0), endpoint.claims(1)
    assert one["iss"] == one["sub"] == "rwe-client"
    assert one["aud"] == endpoint.url
    assert before + 60 < one["exp"] <= time.time() + 300
    assert one["jti"] != two["jti"]


def test_a_token_is_kept_until_shortly_before_it_expires(endpoint: Endpoint, key_file: Path) -> None:
    clock = Clock()
    mine = credential(endpoint, key_file, clock)
    mine.header()
    clock.seconds += 269
    assert mine.header() == "Bearer token-1"
    clock.seconds += 1
    assert mine.header() == "Bearer token-2"


@pytest.mark.parametrize(("told", "kept"), [(4, 2.9), ("300", 269), (None, 269), (-1, 269)])
def test_the_margin_fits_the_life_of_the_token(
    endpoint: Endpoint, key_file: Path, told: Any, kept: float
) -> None:
    endpoint.expires_in, clock = told, Clock()
    mine = credential(endpoint, key_file, clock)
    mine.header()
    clock.seconds += kept
    assert mine.header() == "Bearer token-1"
    clock.seconds += 1.1
    assert mine.header() == "Bearer token-2"


def test_another_threads_renewal_is_enough(endpoint: Endpoint, key_file: Path) -> None:
    mine = credential(endpoint, key_file)
    stale = mine.header()
    assert mine.renew(stale)
    assert mine.renew(stale)
    assert len(endpoint.forms) == 2


def test_a_busy_endpoint_is_asked_again_with_a_fresh_assertion(endpoint: Endpoint, key_file: Path) -> None:
    endpoint.answers = [Response(status=503), Response(status=500)]
    assert credential(endpoint, key_file).header() == "Bearer token-3"
    assert len({endpoint.claims(i)["jti"] for i in range(3)}) == 3


class _WrongClock(BaseHTTPRequestHandler):
    """A token endpoint whose clock is off: it refuses an assertion expired or too long-lived there."""

    hours = 0

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        claims = jwt.decode(form["client_assertion"][0], options={"verify_signature": False})
        theirs = time.time() + 3600 * self.hours
        is_good = theirs < claims["exp"] <= theirs + 300
        body = b'{"access_token": "t"}' if is_good else b'{"error": "invalid_client"}'
        self.send_response_only(200 if is_good else 400)
        self.send_header("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(theirs)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_where_the_clocks_differ_the_servers_decides(endpoint: Endpoint, key_file: Path, hours: int) -> None:
    handler = type("Handler", (_WrongClock,), {"hours": hours})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        base_url = f"http://127.0.0.1:{server.server_port}"
        site = Site(base_url=base_url, allow_plain_http="loopback only")
        auth = SmartAuth(kind="smart", client_id="c", key_file=key_file, token_url=f"{base_url}/token")
        with FhirClient("clinic", site) as client:
            assert SmartCredential("clinic", auth, client).header() == "Bearer t"
            assert client.requests["SMART"] == ({"200": 1} if hours == 0 else {"400": 1, "200": 1})
        server.shutdown()


REFUSALS = {
    "invalid_client": (400, "register the keys of `rwe sites jwks`"),
    "unauthorized_client": (400, "allow client_credentials"),
    "invalid_scope": (400, "does not grant the scope system/*.read"),
    "secret patient text": (401, "register the keys"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_is_told_by_its_code_and_not_in_the_servers_words(
    endpoint: Endpoint, key_file: Path, code: str
) -> None:
    status, told = REFUSALS[code]
    body = json.dumps({"error": code, "error_description": "secret patient text"})
    endpoint.answers = [Response(body, status=status)] * 2
    with pytest.raises(SiteError) as caught:
        credential(endpoint, key_file).header()
    assert told in str(caught.value)
    assert "secret patient" not in str(caught.value)
    assert len(endpoint.forms) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"token_type": "mac", "access_token": "x"}', "without a bearer token"),
        ('{"access_token": "x\\r\\nX-Evil: 1"}', "without a bearer token"),
        ('{"access_token": "x", "scope": "launch/patient"}', "does not grant the scope system/*.read"),
        ('{"access_token": "x", "scope": "system/Patient.cud"}', "does not grant the scope system/*.read"),
    ],
)
def test_a_success_that_is_none(endpoint: Endpoint, key_file: Path, body: str, told: str) -> None:
    endpoint.answers = [Response(body)]
    with pytest.raises(SiteError, match=re.escape(told)):
        credential(endpoint, key_file).header()
    assert len(endpoint.forms) == 1


def test_a_web_page_in_place_of_a_token_is_asked_past_and_told_where_it_stays(
    endpoint: Endpoint, key_file: Path
) -> None:
    endpoint.answers = [Response("<html>login</html>"), Response('{"access_tok')]
    assert credential(endpoint, key_file).header() == "Bearer token-3"
    assert len({endpoint.claims(n)["jti"] for n in range(3)}) == 3
    endpoint.answers = [Response("<html>login</html>")] * 3
    with pytest.raises(SiteError, match="without a bearer token"):
        credential(endpoint, key_file).header()


def test_a_busy_discovery_is_asked_again(endpoint: Endpoint, key_file: Path) -> None:
    busy = [Response(status=503), Response("<html>soon</html>")]
    configuration = Response(json.dumps(endpoint.configuration))
    endpoint.server.clear_all_handlers()
    endpoint.server.expect_request("/fhir/.well-known/smart-configuration").respond_with_handler(
        lambda _: busy.pop(0) if busy else configuration
    )
    endpoint.server.expect_request("/token", method="POST").respond_with_handler(endpoint._answer)
    assert credential(endpoint, key_file).header() == "Bearer token-1"


SPREAD = """
asked          | granted                                          | missing for Patient, Condition
system/*.read  | system/Patient.read system/Condition.read        | -
system/*.read  | system/Patient.rs system/Condition.read          | -
system/*.rs    | system/Patient.r system/Condition.rs             | system/Patient.rs
system/*.read  | system/Patient.read                              | system/Condition.read
system/*.rs    | system/Patient.rs system/Condition.rs?category=x | system/Condition.rs
system/*.read  | system/*.rs                                      | -
system/Patient.read | system/Patient.read                         | -
"""


@pytest.mark.parametrize("row", [r.split("|") for r in SPREAD.strip().splitlines()[1:]])
def test_scopes_granted_type_by_type_are_enough_if_they_cover_what_is_read(row: list[str]) -> None:
    asked, granted, missing = (cell.strip().removeprefix("-").split() for cell in row)
    assert spread_scopes(asked, granted, ["Patient", "Condition"]) == missing


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ({}, "does not say where tokens come from"),
        ("nonsense", "does not say where tokens come from"),
        (
            {"token_endpoint": "x", "token_endpoint_auth_signing_alg_values_supported": ["RS384"]},
            "does not take signatures by ES384; make a key for what it takes: RS384",
        ),
    ],
)
def test_a_server_whose_discovery_does_not_help(
    endpoint: Endpoint, key_file: Path, configuration: Any, told: str
) -> None:
    endpoint.configuration = configuration
    with pytest.raises(SiteError, match=told):
        credential(endpoint, key_file).header()


def test_the_audience_and_the_endpoint_may_be_given(endpoint: Endpoint, key_file: Path) -> None:
    endpoint.configuration = {}
    mine = credential(
        endpoint, key_file, token_url=endpoint.url, audience="https://gateway.example.org/token"
    )
    mine.header()
    assertion = endpoint.forms[0]["client_assertion"]
    assert jwt.decode(assertion, options={"verify_signature": False})["aud"].startswith("https://gateway")
