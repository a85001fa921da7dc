"""The least that talks to a synthetic hospital: plain requests, pages, exports, assertions."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Json = dict[str, Any]
ASYNC = {"Prefer": "respond-async", "Accept": "application/fhir+json"}


def ask(method: str, url: str, **more: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=20, allow_redirects=False, **more)


def get(url: str, **more: Any) -> requests.Response:
    return ask("GET", url, **more)


def next_link(bundle: Json) -> str | None:
    return next((x["url"] for x in bundle["link"] if x["relation"] == "next"), None)


def pages(url: str, **params: Any) -> Iterator[Json]:
    answer = get(url, params=params)
    while True:
        answer.raise_for_status()
        bundle = answer.json()
        yield bundle
        following = next_link(bundle)
        if following is None:
            return
        answer = get(following)


def entries(url: str, **params: Any) -> list[Json]:
    return [e for bundle in pages(url, **{"_count": 500, **params}) for e in bundle.get("entry", [])]


def resources(url: str, **params: Any) -> list[Json]:
    return [e["resource"] for e in entries(url, **params)]


def self_link(bundle: Json) -> str:
    return str(next(x["url"] for x in bundle["link"] if x["relation"] == "self"))


# Exports


def kick_off(url: str, headers: dict[str, str] | None = None, **params: Any) -> str:
    answer = get(url, params=params, headers={**ASYNC, **(headers or {})})
    assert answer.status_code == 202, answer.text
    return answer.headers["Content-Location"]


def finished(status_url: str, headers: dict[str, str] | None = None) -> Json:
    """The manifest, all its pages in one. Does not wait between polls."""
    for _ in range(20):
        answer = get(status_url, headers=headers)
        if answer.status_code != 202:
            break
    assert answer.status_code == 200, answer.text
    manifest = answer.json()
    following = next_link({"link": manifest.get("link", [])})
    if following:
        rest = finished(following, headers)
        for name in ("output", "deleted", "error"):
            manifest[name] += rest[name]
    return dict(manifest)


def lines(item: Json, headers: dict[str, str] | None = None) -> list[Json]:
    answer = get(item["url"], headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/fhir+ndjson")
    return [json.loads(line) for line in answer.content.splitlines()]


def exported(manifest: Json, headers: dict[str, str] | None = None) -> dict[str, dict[str, Json]]:
    """TYPE to ID to resource."""
    found: dict[str, dict[str, Json]] = {}
    for item in manifest["output"]:
        shelf = found.setdefault(item["type"], {})
        for resource in lines(item, headers):
            assert resource["resourceType"] == item["type"]
            assert resource["id"] not in shelf, "a resource came twice"
            shelf[resource["id"]] = resource
    return found


def deleted_urls(manifest: Json, headers: dict[str, str] | None = None) -> list[str]:
    found = []
    for item in manifest["deleted"]:
        assert item["type"] == "Bundle"
        for bundle in lines(item, headers):
            assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "transaction")
            for entry in bundle["entry"]:
                assert set(entry) == {"request"}
                assert entry["request"]["method"] == "DELETE"
                found.append(entry["request"]["url"])
    return found


# SMART Backend Services

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP384R1())


def jwk_set(**keys: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    """The public keys, by kid."""
    found = []
    for kid, key in keys.items():
        is_rsa = isinstance(key, rsa.RSAPrivateKey)
        algorithm: Any = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
        jwk = json.loads(algorithm.to_jwk(key.public_key()))
        found.append({**jwk, "kid": kid, "alg": "RS384" if is_rsa else "ES384", "use": "sig"})
    return json.dumps({"keys": found})


def assertion(audience: str, *, key: Any = RSA_KEY, kid: str = "rsa", **claims: Any) -> str:
    algorithm = claims.pop("algorithm", "RS384" if isinstance(key, rsa.RSAPrivateKey) else "ES384")
    content = {
        "iss": "rwe-client",
        "sub": "rwe-client",
        "aud": audience,
        "exp": int(time.time()) + 240,
        "jti": str(uuid.uuid4()),
        **claims,
    }
    content = {k: v for k, v in content.items() if v is not None}
    return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid})


def ask_token(endpoint: str, signed: str, scope: str = "system/*.read", **form: Any) -> requests.Response:
    content = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": signed,
        **form,
    }
    return ask("POST", endpoint, data=content)
