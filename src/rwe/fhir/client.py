"""One hospital's server over HTTP: patient with a busy server, deaf to a wrong one, silent about patients.

What is kept out of every message and log: addresses with their query, ids, bodies, credentials, the texts of
the HTTP libraries' own exceptions (they print all of these).

A credential goes to the origin of base_url and to those the site lists in token_origins, nowhere else: see
`FhirClient.fetch`. Client certificates and cookies follow the same rule.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urljoin

import requests
import urllib3
from urllib3.util.retry import Retry

from rwe.config import Site
from rwe.errors import ConfigError, SiteError
from rwe.fhir.answer import Answer, Stream
from rwe.fhir.auth import Credential, OriginAuth, credential_for
from rwe.fhir.budget import RequestBudget
from rwe.fhir.failures import CHECK_URL, BrokenAnswerError, RefusedError, refusal, unreachable
from rwe.fhir.origin import Origin
from rwe.fhir.sessions import check_tls_files, listed_origins, new_session

__all__ = ["Answer", "BrokenAnswerError", "FhirClient", "RefusedError", "Stream", "TokenRule"]

#: A server may ask for a pause as seconds, as a date or (seen) as an absolute epoch. Longer is not waited.
LONGEST_PAUSE_SECONDS = 60.0
#: A page beyond this is not read on: a compressed answer must not fill the memory.
LARGEST_ANSWER_BYTES = 512 * 1024 * 1024

#: required: only to an origin that may have the credential, with it. never: to any https origin, without it.
TokenRule = Literal["required", "never"]
_REQUIRED: Final = "required"
_NEVER: Final = "never"

_BUSY = frozenset({429, 502, 503, 504})
_ATTEMPTS = 3  # for answers that came, but came broken
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 4
_LARGEST_TOKEN_BYTES = 1 << 20


def _silence(record: logging.LogRecord) -> bool:  # noqa: ARG001
    return False


# urllib3 logs the full address of each request it sends (debug) or retries (warning): patients' ids.
for _name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_silence)


class _PatientRetry(Retry):
    """Retry that heeds Retry-After, but never longer than LONGEST_PAUSE_SECONDS, and keeps to the budget."""

    turn: Callable[[], None] | None = None

    def new(self, **parameters: Any) -> Self:
        made = super().new(**parameters)
        made.turn = self.turn
        return made

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        super().sleep(response)
        if self.turn is not None:
            self.turn()

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        try:
            wanted = super().get_retry_after(response)
        except (urllib3.exceptions.InvalidHeader, OverflowError, ValueError):
            return None
        return None if wanted is None else min(wanted, LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True)
class _Ask:
    """A request, its address aside."""

    label: str
    token: TokenRule
    method: str
    headers: Mapping[str, str]
    body: str | bytes | None
    may_retry: bool
    auth: OriginAuth | None


def _prepared(session: requests.Session, url: str, ask: _Ask) -> requests.PreparedRequest:
    """The request as the session would prepare it, in a quarter of the time: nothing is merged twice."""
    prepared = requests.PreparedRequest()
    prepared.prepare(
        method=ask.method,
        url=url,
        headers={**session.headers, **ask.headers},
        data=ask.body,
        auth=ask.auth,
        cookies=session.cookies,
    )
    return prepared


class FhirClient:
    """Reads from one site's server; threads may share it. Counts requests by label and status in `requests`.

    Raises ConfigError on settings that may not be used (base_url, keys, certificates), SiteError on
    everything the network can do. `budget` is the site's request budget.
    """

    def __init__(self, name: str, site: Site, *, budget: RequestBudget | None = None) -> None:
        self.name, self._site = name, site
        if site.base_url is None:
            raise ConfigError(
                "the site has no base_url", where=f"site {name}", advice="add one, or use `rwe import`"
            )
        self.base_url = site.base_url
        try:
            self.origin = Origin.of(self.base_url)
        except ValueError:
            raise ConfigError(
                "base_url has a host or port that is none", where=f"site {name}", advice=CHECK_URL
            ) from None
        if self.origin.scheme == "http" and not self._is_plain_allowed(self.origin):
            raise ConfigError(
                "base_url is plain http, which anyone on the way can read",
                where=f"site {name}",
                advice='use https, or for a server on this machine set allow_plain_http: "loopback only"',
            )
        self._trusted = listed_origins(name, site) | {self.origin}
        check_tls_files(name, site)
        self.budget = budget or RequestBudget(name, site)
        self.requests: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()
        self._sessions: dict[tuple[bool, bool], requests.Session] = {}
        self.credential: Credential | None = credential_for(name, site, self)
        self._auth = OriginAuth(self.credential, self._trusted) if self.credential else None

    def _is_plain_allowed(self, origin: Origin) -> bool:
        return self._site.allow_plain_http == "loopback only" and origin.is_loopback

    def _session(self, *, is_trusted: bool, may_retry: bool) -> requests.Session:
        """Sessions apart, so that neither a certificate nor a cookie of the site reaches another server."""
        key = is_trusted, may_retry
        with self._lock:
            if key not in self._sessions:
                retry = self._retry(may_retry)
                self._sessions[key] = new_session(self._site, retry, is_trusted=is_trusted)
            return self._sessions[key]

    def _retry(self, may_retry: bool) -> Retry:
        most = self._site.max_retries if may_retry else 0
        retry = _PatientRetry(
            total=most,
            connect=min(most, 2),  # a dead server is told soon
            read=min(most, 2),
            status=most,
            other=0,
            redirect=0,
            status_forcelist=_BUSY if may_retry else (),
            # The POSTs that may be retried are searches, which change nothing.
            allowed_methods=frozenset({"GET", "POST", "DELETE"}),
            backoff_factor=0.5,
            backoff_max=30,
            backoff_jitter=0.5,
            raise_on_status=False,
            respect_retry_after_header=True,
        )
        retry.turn = self.budget.turn
        return retry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            session.close()

    def address(self, link: str, resource_type: str) -> str:
        """The absolute address of a link that the server gave, such as a next link or a status URL.

        Raises SiteError if it leads to an origin that may not have the credential: another server is not
        asked about patients.
        """
        return self._target(link, resource_type, "required")[0]

    def _target(self, link: str, label: str, token: TokenRule) -> tuple[str, bool]:
        """The absolute address, and whether its origin is trusted with the credential."""
        try:
            url, origin = self._absolute(link)
        except ValueError:
            raise self.error("the server gave a link that is no address", label) from None
        if origin in self._trusted:
            return url, True
        if token != _NEVER:
            raise self.error(
                "the server's link leads to another host, port or scheme",
                label,
                advice="make base_url the same as the base address the server itself is configured with, or, "
                f"if the hospital means it, list the https origin in token_origins (it is {origin})",
            )
        if origin.scheme == "http" and (self.origin.scheme == "https" or not self._is_plain_allowed(origin)):
            raise self.error(
                "the server's link leads to plain http, which anyone on the way can read",
                label,
                advice="ask the hospital for https",
            )
        return url, False

    def _absolute(self, link: str) -> tuple[str, Origin]:
        """The address that a link means, and its origin. Raises ValueError where it is none."""
        try:
            return link, Origin.of(link)  # most are absolute, and joining takes long
        except ValueError:
            url = urljoin(self.base_url + "/", link)
            return url, Origin.of(url)

    @contextmanager
    def fetch(
        self,
        url: str,
        *,
        label: str,
        token: TokenRule = _REQUIRED,
        method: Literal["GET", "POST", "DELETE"] = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        accept: Collection[int] = (),
        may_retry: bool = True,
    ) -> Iterator[Stream]:
        """Send one request and hand out the answer with its body unread: for files of any size.

            with client.fetch(url, label="Observation", token="never") as stream:
                for chunk in stream.chunks(): ...

        `url` is absolute, or relative to base_url. `label` is what counts and errors call it: a resource
        type or another fixed word, never an id. `token`:

        - "required" (next links, status URLs, manifests, files of `requiresAccessToken: true`): the origin
          must be base_url's or listed in token_origins, else SiteError; the credential is attached. A site
          without a credential keeps to the same origins.
        - "never" (files of `requiresAccessToken: false`): no credential; on other origins no client
          certificate and no cookie either. Any https origin; plain http only on this machine and only where
          base_url is plain http too.

        Redirects of GETs are followed within the origin only. A 401 renews the credential once and asks
        again. A status of 400 or more raises RefusedError (`.status`) unless it is in `accept`. With
        `may_retry`, busy answers (429, 502, 503, 504) and lost connections are asked again up to the site's
        max_retries; without, they come back at once (kick-off, polling). Broken bodies raise
        BrokenAnswerError from `stream.chunks()`. The place among max_concurrency is held until the end of
        the `with`: do not ask for something else inside it. Raises QuietHoursError in quiet hours.
        """
        auth = None if token == _NEVER else self._auth
        ask = _Ask(label, token, method, headers or {}, body, may_retry, auth)
        with self.budget.slot(), self._open(url, ask) as response:
            if response.status_code >= 400 and response.status_code not in accept:
                raise refusal(response.status_code, self._where(label))
            yield Stream(response, self._where(label))

    def _open(self, url: str, ask: _Ask) -> requests.Response:
        """The answer, after a renewal of the credential and redirects within the origin."""
        may_renew, hops = self.credential is not None, 0
        while True:
            response = self._send(url, ask)
            if response.status_code == 401 and ask.auth and self.credential and may_renew:
                may_renew = False
                if not self.credential.renew(response.request.headers.get("Authorization", "")):
                    return response
            elif (
                ask.method == "GET" and response.status_code in _REDIRECTS and "Location" in response.headers
            ):
                url = self._redirected(response, ask.label)
                hops += 1
                if hops == _HOPS:
                    response.close()
                    raise self.error("the server redirects in a circle", ask.label, advice=CHECK_URL)
            elif 300 <= response.status_code < 400:
                response.close()
                raise self.error("the server redirects the request", ask.label, advice=CHECK_URL)
            else:
                return response
            response.close()
            self.budget.turn()

    def _redirected(self, response: requests.Response, label: str) -> str:
        """Where a redirect leads. Raises SiteError if it leaves the origin, wherever that may be."""
        try:
            url = urljoin(response.url, response.headers["Location"])
            is_same = Origin.of(url) == Origin.of(response.url)
        except ValueError:
            response.close()
            raise self.error("the server gave a link that is no address", label) from None
        if is_same:
            return url
        response.close()
        raise self.error(
            "the server's redirect leads to another host, port or scheme",
            label,
            advice="make base_url the address it leads to, if the hospital confirms that one",
        )

    def _send(self, url: str, ask: _Ask) -> requests.Response:
        target, is_trusted = self._target(url, ask.label, ask.token)
        session = self._session(is_trusted=is_trusted, may_retry=ask.may_retry)
        try:
            response = session.send(
                _prepared(session, target, ask),
                proxies=session.proxies,  # else requests looks for the environment's, in vain
                timeout=(min(10.0, self._site.timeout_seconds), self._site.timeout_seconds),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException as e:
            self._count(ask.label, "no answer")
            raise unreachable(e, self._where(ask.label), self._site.timeout_seconds) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            raise self.error("the request could not be sent", ask.label) from None
        retries = getattr(response.raw, "retries", None)
        for past in retries.history if retries else ():
            self._count(ask.label, str(past.status or "no answer"))
        self._count(ask.label, str(response.status_code))
        return response

    def request(
        self,
        resource_type: str,
        url: str,
        *,
        form: str | None = None,
        accept: Collection[int] = (),
        token: TokenRule = _REQUIRED,
    ) -> Answer:
        """GET `url`, or POST `form` (url-encoded) to it, and read the answer to its end.

        `resource_type` is what errors and counts call it. A status of 400 or more raises RefusedError unless
        it is in `accept`. Broken answers are asked for again. `token` as in `fetch`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            is_last = attempt == _ATTEMPTS
            try:
                with self.fetch(
                    url,
                    label=resource_type,
                    token=token,
                    method="GET" if form is None else "POST",
                    headers=None if form is None else {"Content-Type": "application/x-www-form-urlencoded"},
                    body=form,
                    accept=accept if is_last else {*accept, 500},
                ) as stream:
                    answer = Answer(stream.status, stream.read(LARGEST_ANSWER_BYTES), stream.date, stream.url)
            except BrokenAnswerError:
                if is_last:
                    raise self.error(
                        "the answer broke off each time it was asked for",
                        resource_type,
                        advice="try a smaller page_size or a longer timeout_seconds",
                    ) from None
            else:
                if answer.status != 500 or 500 in accept:
                    return answer
            self.pause(attempt)
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    def exchange(self, label: str, url: str, form: str | None = None) -> Answer:
        """GET or POST for the sake of a credential: without one, once, to trusted origins only, any status.

        It takes no place of its own among max_concurrency, for a request that holds one may need it.
        """
        self.budget.turn()
        headers = {"Accept": "application/json"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        ask = _Ask(label, _REQUIRED, "GET" if form is None else "POST", headers, form, False, None)
        with self._open(url, ask) as response:
            stream = Stream(response, self._where(label))
            return Answer(stream.status, stream.read(_LARGEST_TOKEN_BYTES), stream.date, stream.url)

    def check_scopes(self, types: Iterable[str]) -> None:
        """Raise SiteError, naming them, where scopes of resource types were asked for and not granted."""
        missing = self.credential.missing_scopes(types) if self.credential else []
        if missing:
            raise self.error(
                f"the server does not grant the scope {', '.join(missing)}",
                "SMART",
                advice="ask the hospital to grant it: these types are read",
            )

    def pause(self, attempt: int) -> None:
        """Wait before asking again, longer with each attempt (seconds)."""
        if self._site.max_retries:
            time.sleep(0.2 * attempt + random.uniform(0, 0.2))

    def _count(self, label: str, status: str) -> None:
        with self._lock:
            self.requests.setdefault(label, Counter())[status] += 1

    def _where(self, label: str) -> str:
        return f"site {self.name}, {label}"

    def error(self, what: str, resource_type: str, *, advice: str | None = None) -> SiteError:
        """A SiteError about this site and type, to raise."""
        return SiteError(what, where=self._where(resource_type), advice=advice)
