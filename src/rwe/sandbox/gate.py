"""What every request passes on its way: the doorkeeper, a busy server, the clock, the request log."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rwe.sandbox.answers import come_back, outcome
from rwe.sandbox.clock import Clock
from rwe.sandbox.control import SECRET_HEADER, Seen
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.smart import Denial, Gatekeeper, Grant

_REMEMBERED = 50_000


class Gate:
    """An ASGI application around the hospital's. `secret` opens /_control; without one it does not exist."""

    def __init__(
        self, app: ASGIApp, spec: HospitalSpec, clock: Clock, gatekeeper: Gatekeeper, secret: str
    ) -> None:
        self.app, self.spec, self.clock, self.gatekeeper = app, spec, clock, gatekeeper
        self._secret = secret
        self._busy_left = spec.quirks.busy_requests
        self.seen: deque[Seen] = deque(maxlen=_REMEMBERED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        if path.startswith("/_control/"):
            given = headers.get(SECRET_HEADER, "")
            is_ours = bool(self._secret) and hmac.compare_digest(given.encode(), self._secret.encode())
            await (self.app if is_ours else outcome(404, "there is nothing here"))(scope, receive, send)
            return
        status = 500

        async def dated(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["Date"] = self.clock.http_date()
            await send(message)

        try:
            answer = await self._stopped(scope, path, headers)
            await (answer or self.app)(scope, receive, dated)
        finally:
            query = scope["query_string"].decode("latin-1")
            self.seen.append(Seen(scope["method"], path, query, status, "authorization" in headers))

    async def _stopped(self, scope: Scope, path: str, headers: Headers) -> Response | None:
        """An answer in place of the hospital's, or None if the request may in."""
        if not path.startswith("/fhir") or path in ("/fhir/metadata", _WELL_KNOWN):
            return None
        quirks = self.spec.quirks
        if quirks.latency_seconds:
            await asyncio.sleep(quirks.latency_seconds)
        if self._busy_left > 0:
            self._busy_left -= 1
            return outcome(
                quirks.busy_status,
                "too busy",
                come_back(quirks.busy_retry_after, self.clock, quirks.busy_retry_seconds),
            )
        bulk = self.spec.bulk
        if bulk and not bulk.requires_access_token and path.startswith("/fhir/$export-file/"):
            return None  # the address itself is the permission
        grant = self.gatekeeper.look(headers.get("authorization"))
        if isinstance(grant, Denial):
            return outcome(401, "this needs a valid credential", {"WWW-Authenticate": grant.challenge})
        scope["grant"] = grant
        return _forbidden(grant, path)


_WELL_KNOWN = "/fhir/.well-known/smart-configuration"


def _forbidden(grant: Grant, path: str) -> Response | None:
    """403 where the token's scopes do not reach the type that is read or searched."""
    pieces = path.removeprefix("/fhir").strip("/").split("/")
    if not pieces[0] or pieces[0][0] in "$_" or "$export" in pieces:
        return None
    is_search = len(pieces) == 1 or pieces[1] in ("_search", "_history")
    if grant.allows(pieces[0], "s" if is_search else "r"):
        return None
    challenge = 'Bearer realm="fhir", error="insufficient_scope"'
    return outcome(403, "the token's scopes do not allow this", {"WWW-Authenticate": challenge})
