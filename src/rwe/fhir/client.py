"""One hospital's server over HTTP: patient with a busy server, deaf to a wrong one, silent about patients.

What is kept out of every message and log: addresses with their query, ids, bodies, the texts of the HTTP
libraries' own exceptions (they print all of these).
"""

from __future__ import annotations

import ipaddress
import logging
import random
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from rwe import __version__
from rwe.config import Site
from rwe.errors import ConfigError, SiteError

#: A server may ask for a pause as seconds, as a date or (seen) as an absolute epoch. Longer is not waited.
LONGEST_PAUSE_SECONDS = 60.0
#: A page beyond this is not read on: a compressed answer must not fill the memory.
LARGEST_ANSWER_BYTES = 512 * 1024 * 1024

_BUSY = frozenset({429, 502, 503, 504})
_ATTEMPTS = 3  # for answers that came, but came broken
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


def _silence(record: logging.LogRecord) -> bool:  # noqa: ARG001
    return False


# urllib3 logs the full address of each request it sends (debug) or retries (warning): patients' ids.
for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_silence)


class _PatientRetry(Retry):
    """Retry that heeds Retry-After, but never longer than LONGEST_PAUSE_SECONDS."""

    DEFAULT_BACKOFF_MAX = 30

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        try:
            wanted = super().get_retry_after(response)
        except (urllib3.exceptions.InvalidHeader, OverflowError, ValueError):
            return None
        return None if wanted is None else min(wanted, LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True)
class Answer:
    """An answer read to its end. `date` is the server's clock from the Date header."""

    status: int
    body: bytes
    date: datetime | None
    url: str


class RefusedError(SiteError):
    """The server answered with a status of 400 or more."""

    def __init__(self, what: str, *, status: int, where: str, advice: str | None) -> None:
        super().__init__(what, where=where, advice=advice)
        self.status = status


class _BrokenAnswerError(Exception):
    """The answer began and broke off; asking again may help."""


class FhirClient:
    """Reads from one site's server. Counts requests by resource type and status in `requests`.

    Raises ConfigError on a base_url that may not be used, SiteError on everything the network can do.
    """

    def __init__(self, name: str, site: Site) -> None:
        self.name, self._site = name, site
        if site.base_url is None:
            raise ConfigError(
                "the site has no base_url", where=f"site {name}", advice="add one, or use `rwe import`"
            )
        self.base_url = site.base_url
        parts = urlsplit(self.base_url)
        if parts.scheme == "http" and not (
            site.allow_plain_http == "loopback only" and _is_loopback(parts.hostname or "")
        ):
            raise ConfigError(
                "base_url is plain http, which anyone on the way can read",
                where=f"site {name}",
                advice='use https, or for a server on this machine set allow_plain_http: "loopback only"',
            )
        try:
            self._origin = _origin(parts)
        except ValueError:
            raise ConfigError(
                "base_url has a port that is no number", where=f"site {name}", advice=_CHECK_URL
            ) from None
        self.requests: dict[str, Counter[str]] = {}
        self._session = self._new_session()

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # .netrc, proxies and CA bundles of the environment decide nothing here
        session.headers.update(
            {
                "Accept": "application/fhir+json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"rwe/{__version__}",
            }
        )
        most = self._site.max_retries
        retry = _PatientRetry(
            total=most,
            connect=min(most, 2),  # a dead server is told soon
            read=min(most, 2),
            status=most,
            other=0,
            redirect=0,
            status_forcelist=_BUSY,
            allowed_methods=frozenset(
                {"GET", "POST"}
            ),  # the only POST here is _search, which changes nothing
            backoff_factor=0.5,
            backoff_jitter=0.5,
            raise_on_status=False,
            respect_retry_after_header=True,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=4))
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def address(self, link: str, resource_type: str) -> str:
        """The absolute address of a link that the server gave.

        Raises SiteError if it leads to another origin: another server is not asked about patients.
        """
        url = urljoin(self.base_url + "/", link)
        try:
            origin = _origin(urlsplit(url))
        except ValueError:
            raise self.error("the server gave a link that is no address", resource_type) from None
        if origin != self._origin:
            raise self.error(
                "the server's link leads to another host, port or scheme",
                resource_type,
                advice="make base_url the same as the base address the server itself is configured with",
            )
        return url

    def request(
        self,
        resource_type: str,
        url: str,
        *,
        form: str | None = None,
        accept: Collection[int] = (),
    ) -> Answer:
        """GET `url`, or POST `form` (url-encoded) to it, and read the answer to its end.

        `resource_type` is what errors and counts call it. A status of 400 or more raises SiteError unless
        it is in `accept`. Broken answers are asked for again.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self._once(resource_type, url, form)
            except _BrokenAnswerError:
                if attempt == _ATTEMPTS:
                    raise self.error(
                        "the answer broke off each time it was asked for",
                        resource_type,
                        advice="try a smaller page_size or a longer timeout_seconds",
                    ) from None
                self.pause(attempt)
                continue
            if answer.status == 500 and attempt < _ATTEMPTS and 500 not in accept:
                self.pause(attempt)
                continue
            break
        if answer.status >= 400 and answer.status not in accept:
            raise self._refusal(answer.status, resource_type)
        return answer

    def pause(self, attempt: int) -> None:
        """Wait before asking again, longer with each attempt (seconds)."""
        if self._site.max_retries:
            time.sleep(0.2 * attempt + random.uniform(0, 0.2))

    def _once(self, resource_type: str, url: str, form: str | None) -> Answer:
        for _ in range(4):
            try:
                response = self._session.request(
                    "GET" if form is None else "POST",
                    url,
                    data=form,
                    headers={"Content-Type": "application/x-www-form-urlencoded"}
                    if form is not None
                    else None,
                    timeout=(min(10.0, self._site.timeout_seconds), self._site.timeout_seconds),
                    allow_redirects=False,
                    stream=True,
                )
            except requests.RequestException as e:
                raise self._unreachable(e, resource_type) from None
            except (urllib3.exceptions.HTTPError, OSError, ValueError):
                raise self.error("the request could not be sent", resource_type) from None
            with response:
                self._count(resource_type, response)
                target = response.headers.get("Location")
                if response.status_code in _REDIRECTS and target and form is None:
                    url = self.address(urljoin(url, target), resource_type)
                    continue
                if 300 <= response.status_code < 400:
                    raise self.error("the server redirects the request", resource_type, advice=_CHECK_URL)
                return Answer(
                    response.status_code,
                    self._read(response, resource_type),
                    _http_date(response.headers.get("Date")),
                    url,
                )
        raise self.error("the server redirects in a circle", resource_type, advice=_CHECK_URL)

    def _read(self, response: requests.Response, resource_type: str) -> bytes:
        body = bytearray()
        try:
            for chunk in response.raw.stream(1 << 16, decode_content=True):
                body += chunk
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise self.error(
                        f"an answer is larger than {LARGEST_ANSWER_BYTES >> 20} MiB",
                        resource_type,
                        advice="set a smaller page_size",
                    )
        except (urllib3.exceptions.HTTPError, OSError):
            raise _BrokenAnswerError from None
        return bytes(body).removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no JSON, but seen

    def _count(self, resource_type: str, response: requests.Response) -> None:
        counts = self.requests.setdefault(resource_type, Counter())
        retries = getattr(response.raw, "retries", None)
        for past in retries.history if retries else ():
            counts[str(past.status or "no answer")] += 1
        counts[str(response.status_code)] += 1

    def _unreachable(self, error: requests.RequestException, resource_type: str) -> SiteError:
        counts = self.requests.setdefault(resource_type, Counter())
        counts["no answer"] += 1
        causes = _causes(error)
        if any(isinstance(c, urllib3.exceptions.NameResolutionError) for c in causes):
            return self.error("the server's name is not known", resource_type, advice=_CHECK_URL)
        if any(isinstance(c, requests.exceptions.SSLError | urllib3.exceptions.SSLError) for c in causes):
            return self.error(
                "no trusted TLS connection to the server",
                resource_type,
                advice="check its certificate and that base_url means https",
            )
        # urllib3 makes a refused connection a kind of time-out; it is none.
        is_refused = any(isinstance(c, urllib3.exceptions.NewConnectionError) for c in causes)
        timeouts = requests.exceptions.Timeout | urllib3.exceptions.TimeoutError
        if not is_refused and any(isinstance(c, timeouts) for c in causes):
            return self.error(
                f"no answer from the server within {self._site.timeout_seconds:g} seconds",
                resource_type,
                advice="try later, or set a longer timeout_seconds",
            )
        return self.error(
            "no answer from the server", resource_type, advice="check that it runs and that base_url is right"
        )

    def _refusal(self, status: int, resource_type: str) -> RefusedError:
        advice = {
            400: "the server may lack a search that is needed: see its CapabilityStatement",
            401: "the server wants a login, or refuses the one it got",
            403: "ask the hospital for the right to read this type",
            404: _CHECK_URL,
            410: "a page expired: try again, with a larger page_size",
            429: "the server stays busy: try later, or set a larger max_retries",
        }.get(status, "try later, and ask the hospital if it stays" if status >= 500 else None)
        where = f"site {self.name}, {resource_type}"
        return RefusedError(
            f"the server answers with status {status}", status=status, where=where, advice=advice
        )

    def error(self, what: str, resource_type: str, *, advice: str | None = None) -> SiteError:
        """A SiteError about this site and type, to raise."""
        return SiteError(what, where=f"site {self.name}, {resource_type}", advice=advice)


_CHECK_URL = "check base_url in rwe.yaml"


def _causes(error: BaseException) -> list[object]:
    """The error, what it wraps (`reason`, arguments) and what caused it."""
    found: list[object] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        one = waiting.pop()
        if not isinstance(one, BaseException) or one in found:
            continue
        found.append(one)
        waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _http_date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return date if date is None or date.tzinfo else date.replace(tzinfo=UTC)
