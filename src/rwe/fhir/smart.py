"""SMART Backend Services: a signed assertion for a token that lives for minutes.

Source: SMART App Launch 2.x, "Backend Services" and "Client Authentication: Asymmetric"; RFC 6749, 7523.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode

import jwt
import msgspec

from rwe.errors import SiteError
from rwe.fhir.answer import Answer
from rwe.fhir.auth import Exchange
from rwe.fhir.failures import BrokenAnswerError, NoAnswerError
from rwe.fhir.keys import site_keys
from rwe.site_settings import SmartAuth

#: The specification allows 300; clocks differ.
ASSERTION_SECONDS = 240
#: A token is renewed so long before it expires (or a quarter of its life, if that is shorter).
MARGIN_SECONDS = 30.0

_T = TypeVar("_T")
_LABEL = "SMART"
_WELL_KNOWN = ".well-known/smart-configuration"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEFAULT_LIFE_SECONDS = 300.0
_SKEW_SECONDS = 30.0
_ATTEMPTS = 3
_BUSY = frozenset({429, 500, 502, 503, 504})
_SCOPE = re.compile(r"system/(\*|[A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)")
_IS_TOKEN = re.compile(r"[\x21-\x7e]+").fullmatch
_LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}
_REGISTER = "register the keys of `rwe sites jwks` with the hospital, and check client_id, kid and audience"
#: RFC 6749, 5.2: the codes a server may give, and what to do. Its free text is not passed on.
_REFUSALS = {
    "invalid_client": _REGISTER,
    "invalid_grant": _REGISTER,
    "unauthorized_client": "ask the hospital to allow client_credentials for this client",
    "invalid_scope": "ask the hospital which scopes it grants, and set auth.scopes",
    "unsupported_grant_type": "the server must offer client_credentials: ask the hospital",
    "invalid_request": "check client_id, audience and scopes with the hospital",
}


class SmartConfiguration(msgspec.Struct, frozen=True):
    """What .well-known/smart-configuration says, as far as we use it."""

    token_endpoint: str | None = None
    algorithms: list[str] | None = msgspec.field(
        default=None, name="token_endpoint_auth_signing_alg_values_supported"
    )
    scopes_supported: list[str] | None = None
    grant_types_supported: list[str] | None = None


class _Token(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str | None = None
    expires_in: float | str | None = None
    scope: str | None = None


class _Refused(msgspec.Struct, frozen=True):
    error: str | None = None


class _RefusedAssertionError(Exception):
    """The server said no; its clock may say why."""

    def __init__(self, error: SiteError, skew_seconds: float) -> None:
        self.error, self.skew_seconds = error, skew_seconds


def discover(exchange: Exchange) -> SmartConfiguration | None:
    """What the server says about SMART, or None where it says nothing. Raises SiteError if unreachable."""
    url = f"{exchange.base_url}/{_WELL_KNOWN}"
    for attempt in range(1, _ATTEMPTS + 1):
        answer = _asked(exchange, url, is_last=attempt == _ATTEMPTS)
        found = _decoded(answer, SmartConfiguration) if answer else None
        if found or (answer and answer.status != 200 and answer.status not in _BUSY):
            return found
        if attempt < _ATTEMPTS:
            time.sleep(0.3 * attempt)
    return None


def _asked(exchange: Exchange, url: str, form: str | None = None, *, is_last: bool) -> Answer | None:
    """The answer; None where none came, or half of one, and it is worth asking again."""
    try:
        return exchange.exchange(_LABEL, url, form)
    except (BrokenAnswerError, NoAnswerError):
        if is_last:
            raise
        return None


def _decoded(answer: Answer, kind: type[_T]) -> _T | None:
    if answer.status != 200:
        return None
    try:
        return msgspec.json.decode(answer.body, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def missing_scopes(asked: Sequence[str], granted: Sequence[str]) -> list[str]:
    """The scopes asked for that those granted do not cover. `read` is `rs`, `*` is `cruds` (SMART 2, v1)."""
    return [a for a in asked if a not in granted and not any(_covers(g, a) for g in granted)]


def _covers(granted: str, asked: str) -> bool:
    mine, wanted = _SCOPE.fullmatch(granted), _SCOPE.fullmatch(asked)
    if mine is None or wanted is None:
        return False
    letters = [set(_LETTERS.get(m[2], m[2])) for m in (mine, wanted)]
    return mine[1] in ("*", wanted[1]) and bool(letters[1]) and letters[1] <= letters[0]


def spread_scopes(asked: Sequence[str], granted: Sequence[str], types: Iterable[str]) -> list[str]:
    """What is missing of `system/*` where a server grants type by type: one scope a type of `types`."""
    found: dict[str, None] = {}
    for scope in missing_scopes(asked, granted):
        match = _SCOPE.fullmatch(scope)
        if match is not None and match[1] == "*":
            found.update(dict.fromkeys(missing_scopes([f"system/{t}.{match[2]}" for t in types], granted)))
    return list(found)


def _is_spread(asked: str, granted: Sequence[str]) -> bool:
    """Whether `asked` is meant for all types, and some type is granted it."""
    match = _SCOPE.fullmatch(asked)
    if match is None or match[1] != "*":
        return False
    return any((g := _SCOPE.fullmatch(one)) and _covers(one, f"system/{g[1]}.{match[2]}") for one in granted)


class SmartCredential:
    """A token, fetched when first needed, renewed before it expires and when the server refuses it."""

    def __init__(
        self, name: str, auth: SmartAuth, exchange: Exchange, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._auth, self._exchange, self._clock = name, auth, exchange, clock
        self._key = site_keys(name, auth)[0]
        self._lock = threading.Lock()
        self._header, self._renew_at = "", 0.0
        self._endpoint: str | None = None
        self._skew_seconds = 0.0
        self._granted: tuple[str, ...] = tuple(auth.scopes)

    def header(self) -> str:
        """`Bearer …`. Raises SiteError where no token can be had."""
        with self._lock:
            if not self._header or self._clock() >= self._renew_at:
                self._fetch()
            return self._header

    def renew(self, stale: str) -> bool:
        """A new token, unless another thread fetched one already. Raises SiteError where none can be had."""
        with self._lock:
            if self._header == stale:
                self._fetch()
            return self._header != stale

    def missing_scopes(self, types: Iterable[str]) -> list[str]:
        """For `system/*` asked for and granted type by type: the scopes of `types` that were not granted.

        Raises SiteError where no token can be had.
        """
        self.header()
        return spread_scopes(self._auth.scopes, self._granted, types)

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from: token_url, else what the server names. Raises SiteError."""
        if self._endpoint is None:
            self._endpoint = self._auth.token_url or self._discovered()
        return self._endpoint

    def _discovered(self) -> str:
        found = discover(self._exchange)
        if found is None or not found.token_endpoint:
            raise self._error(
                f"the server does not say where tokens come from ({_WELL_KNOWN})",
                "ask the hospital for the token endpoint and set auth.token_url",
            )
        if found.algorithms and self._key.algorithm not in found.algorithms:
            known = ", ".join(a for a in ("RS384", "ES384") if a in found.algorithms) or "neither of ours"
            raise self._error(
                f"the server does not take signatures by {self._key.algorithm}",
                f"make a key for what it takes: {known}",
            )
        return found.token_endpoint

    def _fetch(self) -> None:
        self._header = ""
        try:
            token, asked_at = self._ask()
        except _RefusedAssertionError as e:
            # A wrong clock, ours or theirs, makes an assertion expired or too long-lived: go by theirs, once.
            if abs(e.skew_seconds - self._skew_seconds) <= _SKEW_SECONDS:
                raise e.error from None
            before, self._skew_seconds = self._skew_seconds, e.skew_seconds
            try:
                token, asked_at = self._ask()
            except _RefusedAssertionError as again:
                self._skew_seconds = before
                raise again.error from None
        if token.scope is not None:
            self._granted = tuple(token.scope.split())
            lacking = missing_scopes(self._auth.scopes, self._granted)
            lacking = [s for s in lacking if not _is_spread(s, self._granted)]
            if lacking:
                raise self._error(
                    f"the server does not grant the scope {', '.join(lacking)}",
                    "ask the hospital to grant it, or set auth.scopes to what it grants",
                )
        life = _seconds(token.expires_in)
        self._header = f"Bearer {token.access_token}"
        self._renew_at = asked_at + life - min(MARGIN_SECONDS, life / 4)

    def _ask(self) -> tuple[_Token, float]:
        """One token and the time (by our clock) it was asked for. Each attempt signs anew."""
        for attempt in range(1, _ATTEMPTS + 1):
            asked_at = self._clock()
            answer = self._post(is_last=attempt == _ATTEMPTS)
            if answer and answer.status >= 400 and answer.status not in _BUSY:
                raise self._refusal(answer)
            token = _decoded(answer, _Token) if answer else None
            if token and (token.token_type or "bearer").lower() == "bearer" and _IS_TOKEN(token.access_token):
                return token, asked_at
            if token:
                break
            if attempt < _ATTEMPTS:
                time.sleep(0.3 * attempt)
        if answer and answer.status >= 400:
            raise self._refusal(answer)
        raise self._error("the token endpoint answers without a bearer token", "check auth.token_url")

    def _post(self, *, is_last: bool) -> Answer | None:
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(self._auth.scopes),
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._assertion(),
        }
        return _asked(self._exchange, self.token_endpoint, urlencode(form), is_last=is_last)

    def _assertion(self) -> str:
        client = self._auth.client_id
        claims = {
            "iss": client,
            "sub": client,
            "aud": self._auth.audience or self.token_endpoint,
            "exp": int(time.time() + self._skew_seconds) + ASSERTION_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        headers = {"kid": self._key.kid, "typ": "JWT"}
        return jwt.encode(claims, self._key.private, algorithm=self._key.algorithm, headers=headers)

    def _refusal(self, answer: Answer) -> Exception:
        try:
            code = msgspec.json.decode(answer.body, type=_Refused).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            code = None
        known = code if code in _REFUSALS else None
        told = f" ({known})" if known else ""
        error = self._error(
            f"the token endpoint refuses us with status {answer.status}{told}",
            _REFUSALS.get(known or "", _REGISTER),
        )
        if known == "invalid_scope":
            error = self._error(
                f"the server does not grant the scope {', '.join(self._auth.scopes)} (invalid_scope)",
                _REFUSALS["invalid_scope"],
            )
        skew = (answer.date - datetime.now(UTC)).total_seconds() if answer.date else 0.0
        return _RefusedAssertionError(error, skew) if known != "invalid_scope" else error

    def _error(self, what: str, advice: str) -> SiteError:
        return SiteError(what, where=f"site {self._name}, {_LABEL}", advice=advice)


def _seconds(value: float | str | None) -> float:
    try:
        life = float(value) if value is not None else _DEFAULT_LIFE_SECONDS
    except ValueError:
        return _DEFAULT_LIFE_SECONDS
    return life if 0 < life < float("inf") else _DEFAULT_LIFE_SECONDS
