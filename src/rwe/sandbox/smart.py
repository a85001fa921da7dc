"""Who may in: SMART Backend Services, a static bearer token, basic authentication, or everybody.

Source: SMART App Launch 2.0, "Backend Services" and "Client Authentication: Asymmetric"; RFC 7523; RFC 6749.
The authorization server's clock is right even where the FHIR server's is not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rwe.sandbox.answers import pairs
from rwe.sandbox.options import Access

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_ASSERTION_SECONDS = 300
_TOLERANCE_SECONDS = 2
_SCOPE = re.compile(r"system/(\*|[A-Z][A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)")
_LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}


class _OAuthError(Exception):
    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error, self.description = error, description


@dataclass(frozen=True)
class Scope:
    """`system/TYPE.letters`; `is_old` is the v1 form. Type `*` is any."""

    resource_type: str
    letters: frozenset[str]
    is_old: bool

    def __str__(self) -> str:
        if self.is_old:
            words = {frozenset("rs"): "read", frozenset("cud"): "write", frozenset("cruds"): "*"}
            if self.letters in words:
                return f"system/{self.resource_type}.{words[self.letters]}"
        return f"system/{self.resource_type}." + "".join(x for x in "cruds" if x in self.letters)


@dataclass(frozen=True)
class Grant:
    """A token that was issued."""

    scopes: tuple[Scope, ...]
    expires: datetime

    def allows(self, resource_type: str, letter: str) -> bool:
        return any(s.resource_type in ("*", resource_type) and letter in s.letters for s in self.scopes)


@dataclass(frozen=True)
class Denial:
    """Why a request may not in, as a WWW-Authenticate header says it."""

    challenge: str


EVERYTHING = Grant((Scope("*", frozenset("cruds"), False),), datetime.max.replace(tzinfo=UTC))


class Gatekeeper:
    """Issues tokens and looks at them. `origin` is where the endpoint of the tokens is."""

    def __init__(self, access: Access, origin: str) -> None:
        self.access = access
        self.move(origin)
        self._jwks = access.jwks
        self._tokens: dict[str, Grant] = {}
        self._uses: dict[str, int] = {}
        self._seen: dict[str, datetime] = {}
        self._ahead = timedelta()

    # For tests

    def move(self, origin: str) -> None:
        """Where the token endpoint is reached."""
        self.endpoint = self.access.token_endpoint or f"{origin}/auth/token"

    def revoke(self) -> int:
        """Forget all tokens; returns how many there were."""
        count = len(self._tokens)
        self._tokens.clear()
        return count

    def register(self, jwks: str) -> None:
        self._jwks = jwks

    def advance(self, nights: float) -> None:
        self._ahead += timedelta(days=nights)

    # Requests

    def look(self, authorization: str | None) -> Grant | Denial:
        """May a request with this header in?"""
        mode = self.access.mode
        if mode == "open":
            return EVERYTHING
        kind, _, credential = (authorization or "").partition(" ")
        if mode == "basic":
            is_right = kind.lower() == "basic" and _is_same(_decoded(credential), self._user())
            return EVERYTHING if is_right else Denial('Basic realm="fhir", charset="UTF-8"')
        if kind.lower() != "bearer" or not credential:
            return Denial('Bearer realm="fhir"')
        if mode == "bearer":
            grant = EVERYTHING if _is_same(credential, self.access.bearer_token) else None
        else:
            grant = self._used(credential)
        if grant is None or self._now() >= grant.expires:
            text = "the token is unknown or has expired"
            return Denial(f'Bearer realm="fhir", error="invalid_token", error_description="{text}"')
        return grant

    def _used(self, token: str) -> Grant | None:
        """The grant behind a token that may be used once more."""
        limit, uses = self.access.uses_per_token, self._uses.get(token, 0) + 1
        if token not in self._tokens or (limit and uses > limit):
            return None
        self._uses[token] = uses
        return self._tokens[token]

    async def discovery(self, _: Request) -> Response:
        """.well-known/smart-configuration."""
        content: dict[str, Any] = {
            "token_endpoint": self.endpoint,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(self.access.algorithms),
            "scopes_supported": list(self.access.scopes),
            "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
        }
        return JSONResponse(content)

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
        form = dict(pairs((await request.body()).decode("utf-8", "replace")))
        try:
            if form.get("grant_type") != "client_credentials":
                raise _OAuthError("unsupported_grant_type", "grant_type must be client_credentials")
            if form.get("client_assertion_type") != ASSERTION_TYPE or not form.get("client_assertion"):
                raise _OAuthError("invalid_request", "a client_assertion of the type jwt-bearer is needed")
            self._verify(form["client_assertion"])
            scopes = granted(form.get("scope", ""), self.access.scopes)
            if not scopes:
                raise _OAuthError("invalid_scope", "none of the scopes asked for is allowed")
        except _OAuthError as e:
            content = {"error": e.error, "error_description": e.description}
            return JSONResponse(content, status_code=400, headers=headers)
        token = secrets.token_urlsafe(32)
        self._tokens[token] = Grant(scopes, self._now() + timedelta(seconds=self.access.expires_in))
        return JSONResponse(
            {
                "access_token": token,
                "token_type": "bearer",
                "expires_in": int(self.access.expires_in),
                "scope": " ".join(map(str, scopes)),
            },
            headers=headers,
        )

    def _verify(self, assertion: str) -> None:
        """The client's signature, name, audience, lifetime and a `jti` never seen. Raises _OAuthError."""
        now = datetime.now(UTC)
        try:
            claims = jwt.decode(
                assertion,
                self._key(assertion),
                algorithms=list(self.access.algorithms),
                audience=self.endpoint,
                issuer=self.access.client_id,
                options={"require": ["iss", "sub", "aud", "exp", "jti"], "verify_iat": False},
            )
        except jwt.PyJWTError as e:
            raise _OAuthError("invalid_client", f"the assertion was refused ({type(e).__name__})") from None
        if claims["sub"] != self.access.client_id:
            raise _OAuthError("invalid_client", "sub is not the client's id")
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        if expires > now + timedelta(seconds=LONGEST_ASSERTION_SECONDS + _TOLERANCE_SECONDS):
            raise _OAuthError("invalid_client", "exp is more than five minutes ahead")
        self._seen = {jti: at for jti, at in self._seen.items() if at > now}
        if claims["jti"] in self._seen:
            raise _OAuthError("invalid_client", "jti was used before")
        self._seen[claims["jti"]] = expires

    def _key(self, assertion: str) -> Any:
        """The registered key that the assertion's header names."""
        header = jwt.get_unverified_header(assertion)
        if header.get("alg") not in self.access.algorithms:
            raise jwt.InvalidAlgorithmError
        path = self.access.jwks_file
        text = Path(path).read_text(encoding="utf-8") if path else self._jwks
        for key in json.loads(text)["keys"]:
            if key.get("kid") == header.get("kid") and key.get("kty") == _KEY_TYPES[header["alg"][:2]]:
                return jwt.PyJWK(key, algorithm=header["alg"]).key
        raise jwt.InvalidKeyError

    def _user(self) -> str:
        return f"{self.access.username}:{self.access.password}"

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._ahead


_KEY_TYPES = {"RS": "RSA", "ES": "EC", "PS": "RSA"}


def granted(asked: str, allowed: tuple[str, ...]) -> tuple[Scope, ...]:
    """What is both asked for and allowed: types and letters intersect. No scope asked for grants none."""
    found: dict[Scope, None] = {}
    for wanted in map(_scope, asked.split()):
        for limit in map(_scope, allowed):
            if wanted is None or limit is None:
                continue
            kinds = {wanted.resource_type, limit.resource_type} - {"*"}
            letters = wanted.letters & limit.letters
            if letters and len(kinds) <= 1:
                found[Scope(min(kinds, default="*"), letters, wanted.is_old)] = None
    return tuple(found)


def _scope(text: str) -> Scope | None:
    match = _SCOPE.fullmatch(text.partition("?")[0])
    if match is None or not match[2]:
        return None
    letters = _LETTERS.get(match[2])
    return Scope(match[1], frozenset(letters or match[2]), letters is not None)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_same(given: str, right: str) -> bool:
    return bool(right) and hmac.compare_digest(given.encode(), right.encode())
