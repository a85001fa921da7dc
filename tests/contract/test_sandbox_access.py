"""Who may into a synthetic hospital: SMART Backend Services, bearer, basic, and scopes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Access, Bulk
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.sandbox.smart import granted
from tests.contract.sandbox_client import (
    ASYNC,
    EC_KEY,
    RSA_KEY,
    ask,
    ask_token,
    assertion,
    exported,
    finished,
    get,
    jwk_set,
    kick_off,
)

SECOND_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMART = Access(mode="smart", jwks=jwk_set(rsa=RSA_KEY, ec=EC_KEY), expires_in=300)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwk_set(rsa=RSA_KEY))
    return path


@pytest.fixture(scope="module")
def hospitals(
    key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RunningHospital]]:
    plain = HospitalSpec("smart", "a", 3, 5, bulk=Bulk(polls=0), access=SMART)
    few = Access(
        mode="smart",
        jwks_file=str(key_file),
        expires_in=1.5,
        algorithms=("RS384",),
        scopes=("system/Patient.rs", "system/Encounter.r"),
        token_endpoint="http://127.0.0.1:9/token",
    )
    specs = [
        plain,
        replace(plain, name="few", access=few),
        replace(plain, name="tired", access=replace(SMART, uses_per_token=2)),
        HospitalSpec("bearer", "a", 2, 5, access=Access(mode="bearer", bearer_token="tok-canary")),
        HospitalSpec("basic", "a", 2, 5, access=Access(mode="basic", username="rwe", password="pä:ss")),
    ]
    with running_hospitals(specs, log_folder=tmp_path_factory.mktemp("logs")) as up:
        yield {h.name: h for h in up}


def configuration(hospital: RunningHospital) -> dict[str, Any]:
    answer = get(f"{hospital.base_url}/.well-known/smart-configuration")
    assert answer.status_code == 200
    return dict(answer.json())


def token_for(hospital: RunningHospital, **more: Any) -> str:
    endpoint = configuration(hospital)["token_endpoint"]
    answer = ask_token(endpoint, assertion(endpoint), **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_smart_is_discovered_without_a_token(hospitals: dict[str, RunningHospital]) -> None:
    smart = hospitals["smart"]
    found = configuration(smart)
    assert found["grant_types_supported"] == ["client_credentials"]
    assert found["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert found["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
    assert found["scopes_supported"] == ["system/*.read"]
    security = get(f"{smart.base_url}/metadata").json()["rest"][0]["security"]
    assert security["extension"][0]["extension"][0]["valueUri"] == found["token_endpoint"]
    for path in ("Patient", "Patient/x", "_history", "?_getpages=x-1", "$export"):
        answer = get(f"{smart.base_url}/{path}")
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["resourceType"] == "OperationOutcome"
    invented = get(f"{smart.base_url}/Patient", headers=bearer("invented"))
    assert 'error="invalid_token"' in invented.headers["WWW-Authenticate"]
    open_one = get(f"{hospitals['bearer'].base_url}/.well-known/smart-configuration")
    assert open_one.status_code == 404, "a server without SMART does not describe it"


def test_both_algorithms_get_a_token_that_opens_the_server(hospitals: dict[str, RunningHospital]) -> None:
    smart = hospitals["smart"]
    endpoint = configuration(smart)["token_endpoint"]
    for key, kid in ((RSA_KEY, "rsa"), (EC_KEY, "ec")):
        answer = ask_token(endpoint, assertion(endpoint, key=key, kid=kid))
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        content = answer.json()
        assert (content["token_type"], content["expires_in"]) == ("bearer", 300)
        assert content["scope"] == "system/*.read"
        assert get(f"{smart.base_url}/Patient", headers=bearer(content["access_token"])).status_code == 200


WRONG: dict[str, Callable[[str], str]] = {
    "another audience": lambda e: assertion(e + "/other"),
    "the endpoint of FHIR as audience": lambda e: assertion(e.replace("/auth/token", "/fhir")),
    "six minutes": lambda e: assertion(e, exp=int(time.time()) + 360),
    "expired": lambda e: assertion(e, exp=int(time.time()) - 1),
    "no exp": lambda e: assertion(e, exp=None),
    "no jti": lambda e: assertion(e, jti=None),
    "another client": lambda e: assertion(e, iss="somebody", sub="somebody"),
    "iss and sub differ": lambda e: assertion(e, sub="somebody"),
    "an unknown kid": lambda e: assertion(e, kid="unknown"),
    "another key under a known kid": lambda e: assertion(e, key=SECOND_KEY),
    "RS256": lambda e: assertion(e, algorithm="RS256"),
    "ES256": lambda e: assertion(e, key=ec.generate_private_key(ec.SECP256R1()), kid="ec", algorithm="ES256"),
    "no signature": lambda e: jwt.encode({"aud": e}, None, algorithm="none", headers={"kid": "rsa"}),
    "no JWT": lambda _: "abc",
}


@pytest.mark.parametrize("why", WRONG)
def test_an_assertion_that_is_not_right_is_refused(why: str, hospitals: dict[str, RunningHospital]) -> None:
    endpoint = configuration(hospitals["smart"])["token_endpoint"]
    answer = ask_token(endpoint, WRONG[why](endpoint))
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_client"


def test_an_assertion_is_good_once(hospitals: dict[str, RunningHospital]) -> None:
    endpoint = configuration(hospitals["smart"])["token_endpoint"]
    signed = assertion(endpoint)
    assert ask_token(endpoint, signed).status_code == 200
    again = ask_token(endpoint, signed)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_client")


def test_a_request_for_a_token_must_be_whole(hospitals: dict[str, RunningHospital]) -> None:
    endpoint = configuration(hospitals["smart"])["token_endpoint"]

    def error(**form: Any) -> str:
        return str(ask_token(endpoint, assertion(endpoint), **form).json()["error"])

    assert error(grant_type="password") == "unsupported_grant_type"
    assert error(client_assertion_type="x") == "invalid_request"
    assert error(scope="") == "invalid_scope"
    assert error(scope="system/*.write") == "invalid_scope"
    assert error(scope="user/*.read") == "invalid_scope"


@pytest.mark.parametrize(
    ("asked", "allowed", "right"),
    [
        ("system/*.read", "system/*.read", "system/*.read"),
        ("system/*.rs", "system/*.read", "system/*.rs"),
        ("system/*.cruds", "system/*.rs", "system/*.rs"),
        ("system/*.read", "system/Patient.rs system/Encounter.r", "system/Patient.read system/Encounter.r"),
        ("system/Patient.rs system/Observation.rs", "system/Patient.read", "system/Patient.rs"),
        ("system/Patient.*", "system/*.read", "system/Patient.read"),
        ("system/Observation.rs", "system/Patient.read", ""),
        ("system/*.write", "system/*.read", ""),
        ("nonsense patient/*.read", "system/*.read", ""),
    ],
)
def test_scopes_granted_are_those_asked_for_and_allowed(asked: str, allowed: str, right: str) -> None:
    assert " ".join(map(str, granted(asked, tuple(allowed.split())))) == right


def test_tokens_expire_are_revoked_and_age_overnight(hospitals: dict[str, RunningHospital]) -> None:
    smart = hospitals["smart"]

    def status(token: str) -> int:
        return get(f"{smart.base_url}/Patient", headers=bearer(token)).status_code

    first, second = token_for(smart), token_for(smart)
    assert status(first) == status(second) == 200
    assert smart.control.revoke_tokens() >= 2
    assert status(first) == status(second) == 401
    third = token_for(smart)
    assert status(third) == 200
    smart.control.advance(1)
    assert status(third) == 401
    smart.control.skew(3600)
    try:
        assert status(token_for(smart)) == 200, "the authorization server's clock is right"
    finally:
        smart.control.skew(0)


def test_a_token_can_die_in_the_middle_of_a_run(hospitals: dict[str, RunningHospital]) -> None:
    tired = hospitals["tired"]
    for _ in range(2):
        headers = bearer(token_for(tired))
        codes = [get(f"{tired.base_url}/Patient", headers=headers).status_code for _ in range(4)]
        assert codes == [200, 200, 401, 401]


def test_exports_need_the_token_at_every_step(hospitals: dict[str, RunningHospital]) -> None:
    smart = hospitals["smart"]
    headers = bearer(token_for(smart))
    where = kick_off(f"{smart.base_url}/$export", headers, _type="Patient")
    manifest = finished(where, headers)
    assert exported(manifest, headers)["Patient"]
    for url in (where, manifest["output"][0]["url"]):
        assert get(url).status_code == 401
    assert ask("DELETE", where).status_code == 401
    assert ask("DELETE", where, headers=headers).status_code == 202


def test_scopes_limit_types_and_keys_rotate_by_file(
    hospitals: dict[str, RunningHospital], key_file: Path
) -> None:
    few = hospitals["few"]
    advertised = configuration(few)["token_endpoint"]
    assert advertised == "http://127.0.0.1:9/token", "a server that points elsewhere"
    endpoint = few.base_url.removesuffix("/fhir") + "/auth/token"
    answer = ask_token(endpoint, assertion(advertised))
    assert answer.json()["scope"] == "system/Patient.read system/Encounter.r"
    headers = bearer(answer.json()["access_token"])
    assert get(f"{few.base_url}/Patient", headers=headers).status_code == 200
    for refused in ("Observation", "Observation/x", "Encounter", "Observation/_history"):
        answer = get(f"{few.base_url}/{refused}", headers=headers)
        assert answer.status_code == 403, refused
        assert "insufficient_scope" in answer.headers["WWW-Authenticate"]
    assert get(f"{few.base_url}/Encounter/x", headers=headers).status_code == 404, "it may be read"
    found = exported(finished(kick_off(f"{few.base_url}/$export", headers), headers), headers)
    assert set(found) == {"Patient", "Encounter"}, "an export of all is of what the scopes allow"
    named = get(f"{few.base_url}/$export", params={"_type": "Observation"}, headers={**headers, **ASYNC})
    assert named.status_code == 403

    key_file.write_text(jwk_set(rsa=RSA_KEY, next=SECOND_KEY))
    for key, kid in ((RSA_KEY, "rsa"), (SECOND_KEY, "next")):
        assert ask_token(endpoint, assertion(advertised, key=key, kid=kid)).status_code == 200
    key_file.write_text(jwk_set(next=SECOND_KEY))
    assert ask_token(endpoint, assertion(advertised)).status_code == 400
    last = ask_token(endpoint, assertion(advertised, key=SECOND_KEY, kid="next"))
    headers = bearer(last.json()["access_token"])
    assert get(f"{few.base_url}/Patient", headers=headers).status_code == 200
    time.sleep(1.6)
    assert get(f"{few.base_url}/Patient", headers=headers).status_code == 401, "it lived a second and a half"


def test_a_hospital_behind_a_proxy_speaks_with_its_address(hospitals: dict[str, RunningHospital]) -> None:
    smart, proxy = hospitals["smart"], "http://127.0.0.1:9/fhir"
    headers = bearer(token_for(smart))
    smart.control.speak_as(proxy)
    try:
        endpoint = configuration(smart)["token_endpoint"]
        assert endpoint == "http://127.0.0.1:9/auth/token"
        direct = smart.base_url.removesuffix("/fhir") + "/auth/token"
        assert ask_token(direct, assertion(endpoint)).status_code == 200
        assert ask_token(direct, assertion(direct)).status_code == 400
        bundle = get(f"{smart.base_url}/Encounter", params={"_count": 1}, headers=headers).json()
        assert all(link["url"].startswith(proxy) for link in bundle["link"])
        assert kick_off(f"{smart.base_url}/$export", headers).startswith(f"{proxy}/$export-status/")
    finally:
        smart.control.speak_as(smart.base_url)
    assert configuration(smart)["token_endpoint"].startswith(smart.base_url.removesuffix("/fhir"))


def test_keys_registered_while_it_runs_count(hospitals: dict[str, RunningHospital]) -> None:
    smart = hospitals["smart"]
    endpoint = configuration(smart)["token_endpoint"]
    smart.control.register_keys(jwk_set(new=SECOND_KEY))
    try:
        assert ask_token(endpoint, assertion(endpoint)).status_code == 400
        assert ask_token(endpoint, assertion(endpoint, key=SECOND_KEY, kid="new")).status_code == 200
    finally:
        smart.control.register_keys(SMART.jwks)


def test_a_static_token_and_a_password(hospitals: dict[str, RunningHospital]) -> None:
    held, basic = hospitals["bearer"].base_url, hospitals["basic"].base_url
    assert get(f"{held}/Patient", headers=bearer("tok-canary")).status_code == 200
    assert get(f"{held}/Patient", headers=bearer("tok-canar")).status_code == 401
    assert get(f"{held}/Patient", headers={"Authorization": "tok-canary"}).status_code == 401
    right = requests.auth.HTTPBasicAuth("rwe", "pä:ss".encode())
    assert get(f"{basic}/Patient", auth=right).status_code == 200
    wrong = get(f"{basic}/Patient", auth=requests.auth.HTTPBasicAuth("rwe", "pass"))
    assert wrong.status_code == 401
    assert wrong.headers["WWW-Authenticate"].startswith("Basic ")
    assert get(f"{basic}/metadata").status_code == 200
    seen = hospitals["bearer"].control.requests()
    assert [(s.path, s.status, s.is_authorized) for s in seen[-2:]] == [
        ("/fhir/Patient", 401, True),
        ("/fhir/Patient", 401, True),
    ]


def test_credentials_are_not_shown(hospitals: dict[str, RunningHospital]) -> None:
    assert "tok-canary" not in repr(Access(mode="bearer", bearer_token="tok-canary"))
    assert hospitals["smart"].control.secret not in repr(hospitals["smart"])
    for hospital in hospitals.values():
        arguments = Path(f"/proc/{hospital.pid}/cmdline")
        if arguments.exists():
            assert b"tok-canary" not in arguments.read_bytes()
            assert hospital.control.secret.encode() not in arguments.read_bytes()


def test_the_control_room_opens_to_its_secret_only(hospitals: dict[str, RunningHospital]) -> None:
    origin = hospitals["smart"].base_url.removesuffix("/fhir")
    order = json.dumps({"action": "state"})
    for headers in ({}, {"X-Control-Secret": "guess"}):
        answer = ask("POST", f"{origin}/_control/do", data=order, headers=headers)
        assert answer.status_code == 404
        assert "Patient" not in answer.text
