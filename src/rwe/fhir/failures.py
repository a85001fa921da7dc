"""What a failed request is called. The libraries' own texts name addresses, so none of them is passed on."""

from __future__ import annotations

import requests
import urllib3

from rwe.errors import SiteError

CHECK_URL = "check base_url in rwe.yaml"


class RefusedError(SiteError):
    """The server answered with a status of 400 or more."""

    def __init__(self, what: str, *, status: int, where: str, advice: str | None) -> None:
        super().__init__(what, where=where, advice=advice)
        self.status = status


class BrokenAnswerError(SiteError):
    """The answer began and broke off; asking again may help."""


class NoAnswerError(SiteError):
    """No answer came; asking again may help."""


class PagingError(SiteError):
    """A search broke off between its pages: a next link expired or led back. Begun anew it may succeed."""


def refusal(status: int, where: str) -> RefusedError:
    """The error for an answer with a status of 400 or more."""
    advice = {
        400: "the server may lack a search that is needed: see its CapabilityStatement",
        401: "the server wants a login, or refuses the one it got: check auth in rwe.yaml",
        403: "ask the hospital for the right to read this type",
        404: CHECK_URL,
        407: "the proxy wants a login",
        410: "a page expired: try again, with a larger page_size",
        429: "the server stays busy: try later, or set a larger max_retries",
    }.get(status, "try later, and ask the hospital if it stays" if status >= 500 else None)
    return RefusedError(f"the server answers with status {status}", status=status, where=where, advice=advice)


def unreachable(error: requests.RequestException, where: str, timeout_seconds: float) -> SiteError:
    """The error for a request that got no answer."""
    found = _causes(error)
    if any(isinstance(c, urllib3.exceptions.NameResolutionError) for c in found):
        return SiteError("the server's name is not known", where=where, advice=CHECK_URL)
    if any(isinstance(c, requests.exceptions.ProxyError | urllib3.exceptions.ProxyError) for c in found):
        return SiteError(
            "the proxy does not lead to the server", where=where, advice="check proxy in rwe.yaml"
        )
    if any(isinstance(c, requests.exceptions.SSLError | urllib3.exceptions.SSLError) for c in found):
        return SiteError(
            "no trusted TLS connection to the server",
            where=where,
            advice="check its certificate, ca_file, and that base_url means https",
        )
    # urllib3 makes a refused connection a kind of time-out; it is none.
    is_refused = any(isinstance(c, urllib3.exceptions.NewConnectionError) for c in found)
    timeouts = requests.exceptions.Timeout | urllib3.exceptions.TimeoutError
    if not is_refused and any(isinstance(c, timeouts) for c in found):
        return NoAnswerError(
            f"no answer from the server within {timeout_seconds:g} seconds",
            where=where,
            advice="try later, or set a longer timeout_seconds",
        )
    return NoAnswerError(
        "no answer from the server", where=where, advice="check that it runs and that base_url is right"
    )


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
