"""How a FHIR server writes its answers: bodies, refusals, and when to come back."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rwe.sandbox.clock import Clock
from rwe.sandbox.options import RetryAfter

Query = list[tuple[str, str]]
_FHIR_JSON = "application/fhir+json;charset=utf-8"
_ISSUES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    410: "not-found",
    415: "not-supported",
    429: "throttled",
    503: "transient",
}


def fhir_json(body: bytes, headers: dict[str, str] | None = None, *, status: int = 200) -> Response:
    return Response(body, status_code=status, headers=headers, media_type=_FHIR_JSON)


def outcome(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An OperationOutcome."""
    issue = {"severity": "error", "code": _ISSUES.get(status, "processing"), "diagnostics": text}
    body = msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]})
    return fhir_json(body, headers, status=status)


async def refused(_: Request, problem: Exception) -> Response:
    """An OperationOutcome that names parameters, never their values."""
    if isinstance(problem, HTTPException):
        return outcome(problem.status_code, problem.detail, dict(problem.headers or {}))
    return outcome(400, str(problem))


def pairs(text: str) -> Query:
    return parse_qsl(text, keep_blank_values=True)


def origin_of(url: str) -> str:
    """SCHEME://HOST:PORT of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def on_origin(url: str, origin: str) -> str:
    """The address, moved to another origin unless that is empty."""
    if not origin:
        return url
    parts = urlsplit(url)
    return origin.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


def come_back(manner: RetryAfter, clock: Clock, seconds: int = 1) -> dict[str, str]:
    """A Retry-After header `seconds` ahead, as one kind of server writes it."""
    at = clock.now() + timedelta(seconds=seconds)
    written: dict[RetryAfter, str] = {
        "seconds": str(seconds),
        "date": format_datetime(at, usegmt=True),
        "epoch": str(round(at.timestamp())),
    }
    return {"Retry-After": written[manner]} if manner in written else {}


def encoded(content: Any) -> bytes:
    return msgspec.json.encode(content)
