"""What lets us in, and the rule where it may go: only to the origins it belongs to."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

import requests
from requests.auth import AuthBase

from rwe.config import Site
from rwe.errors import ConfigError
from rwe.fhir.answer import Answer
from rwe.fhir.origin import Origin
from rwe.fhir.secrets import read_secret
from rwe.site_settings import BasicAuth, BearerAuth, SmartAuth


class Credential(Protocol):
    """A credential, ready to be sent. Threads may share one. Its repr shows nothing of it."""

    def header(self) -> str:
        """The value of the Authorization header. Raises SiteError where it cannot be had."""

    def renew(self, stale: str) -> bool:
        """After a 401 to the header `stale`: whether there is another one now."""

    def missing_scopes(self, types: Iterable[str]) -> list[str]:
        """Of the resource types, the scopes that were asked for and not granted."""


class Exchange(Protocol):
    """What SMART needs of the client: a way to ask without a credential (see FhirClient.exchange)."""

    base_url: str

    def exchange(self, label: str, url: str, form: str | None = None) -> Answer: ...


class OriginAuth(AuthBase):
    """Attaches the credential to requests to trusted origins, and to nothing else.

    The last line of defence: it looks at the address that is about to be sent, whoever made it.
    """

    def __init__(self, credential: Credential, trusted: frozenset[Origin]) -> None:
        self._credential, self._trusted = credential, trusted

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            is_trusted = Origin.of(request.url or "") in self._trusted
        except ValueError:
            is_trusted = False
        if is_trusted:
            request.headers["Authorization"] = self._credential.header()
        return request


class _Static:
    """A header made of a secret in a file or variable, which is read again on renewal."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._header = read()

    def header(self) -> str:
        return self._header

    def renew(self, stale: str) -> bool:
        with self._lock:
            if self._header == stale:
                self._header = self._read()
            return self._header != stale

    def missing_scopes(self, types: Iterable[str]) -> list[str]:  # noqa: ARG002
        return []  # nothing is granted by name


def credential_for(name: str, site: Site, exchange: Exchange) -> Credential | None:
    """The site's credential, or None where it asks for none.

    Raises ConfigError where a file or variable is missing, open to others, or holds something else.
    """
    auth = site.auth
    if isinstance(auth, SmartAuth):
        from rwe.fhir.smart import SmartCredential  # noqa: PLC0415  (a quick start without cryptography)

        return SmartCredential(name, auth, exchange)
    if isinstance(auth, BearerAuth):
        where = f"site {name}, auth"
        return _Static(lambda: _bearer(where, auth))
    if isinstance(auth, BasicAuth):
        where = f"site {name}, auth"
        return _Static(lambda: _basic(where, auth))
    return None


def _bearer(where: str, auth: BearerAuth) -> str:
    token = read_secret(where, file=auth.token_file, variable=auth.token_env)
    if not token.isascii() or any(c.isspace() for c in token) or not token.isprintable():
        raise ConfigError(
            "the bearer token is no token", where=where, advice="give the bare token, without `Bearer`"
        )
    return f"Bearer {token}"


def _basic(where: str, auth: BasicAuth) -> str:
    password = read_secret(where, file=auth.password_file, variable=auth.password_env)
    return "Basic " + base64.b64encode(f"{auth.user}:{password}".encode()).decode("ascii")
