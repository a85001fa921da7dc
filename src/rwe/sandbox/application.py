"""A hospital's ASGI application: its routes, and the control room that changes it while it runs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rwe.sandbox.answers import origin_of, refused
from rwe.sandbox.clock import Clock
from rwe.sandbox.control import Order
from rwe.sandbox.export import Exports
from rwe.sandbox.gate import Gate
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.nights import Night, mutate
from rwe.sandbox.search import BadSearchError
from rwe.sandbox.service import Service
from rwe.sandbox.smart import Gatekeeper
from rwe.sandbox.store import Store, open_store


def application(spec: HospitalSpec, base_url: str, *, secret: str = "") -> ASGIApp:
    """The ASGI application of a hospital whose endpoint is `base_url` (…/fhir).

    `secret` opens the control room; without one there is none.
    """
    clock = Clock(is_coarse=spec.quirks.whole_seconds)
    store = open_store(spec)
    gatekeeper = Gatekeeper(spec.access, origin_of(base_url))
    service = Service(store, spec, clock, base_url, gatekeeper.endpoint)
    exports = Exports(store, spec.bulk, clock, base_url) if spec.bulk else None
    room = _ControlRoom(spec, store, clock, service=service, gatekeeper=gatekeeper, exports=exports)
    app = Starlette(
        routes=[
            *_access_routes(gatekeeper),
            *(_export_routes(exports) if exports else []),
            Route("/fhir/metadata", service.metadata),
            Route("/fhir", service.page),
            Route("/fhir/_history", service.history),
            Route("/fhir/{resource_type}/_history", service.history),
            Route("/fhir/{resource_type}/_search", service.search_post, methods=["POST"]),
            Route("/fhir/{resource_type}", service.search_get),
            Route("/fhir/{resource_type}/{id}", service.read),
            Route("/_control/do", room.do, methods=["POST"]),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=500, compresslevel=1)],
        exception_handlers={HTTPException: refused, BadSearchError: refused},
    )
    room.gate = Gate(app, spec, clock, gatekeeper, secret)
    return room.gate


def _access_routes(gatekeeper: Gatekeeper) -> list[Route]:
    if gatekeeper.access.mode != "smart":
        return []
    return [
        Route("/fhir/.well-known/smart-configuration", gatekeeper.discovery),
        Route("/auth/token", gatekeeper.token, methods=["POST"]),
    ]


def _export_routes(exports: Exports) -> list[Route]:
    return [
        Route("/fhir/$export", exports.system, methods=["GET", "POST"]),
        Route("/fhir/Patient/$export", exports.patients, methods=["GET", "POST"]),
        Route("/fhir/Group/{id}/$export", exports.group, methods=["GET", "POST"]),
        Route("/fhir/$export-status/{job}", exports.status),
        Route("/fhir/$export-status/{job}", exports.forget, methods=["DELETE"]),
        Route("/fhir/$export-file/{job}/{name}", exports.file),
    ]


class _ControlRoom:
    """The server's side of rwe.sandbox.control."""

    gate: Gate

    def __init__(
        self,
        spec: HospitalSpec,
        store: Store,
        clock: Clock,
        *,
        service: Service,
        gatekeeper: Gatekeeper,
        exports: Exports | None,
    ) -> None:
        self.spec, self.store, self.clock = spec, store, clock
        self.service, self.gatekeeper, self.exports = service, gatekeeper, exports
        self._pending: list[int] = []
        self._pages = 0
        self._nights: list[Night] = []
        service.on_page = self._page_served
        self._every = 0

    async def do(self, request: Request) -> Response:
        order = msgspec.json.decode(await request.body(), type=Order)
        actions: dict[str, Callable[[Order], object]] = {
            "put": self._put,
            "delete": self._delete,
            "mutate": lambda o: mutate(self.store, self.spec, self.clock, o.seed),
            "while_paged": self._while_paged,
            "nights_while_paged": lambda _: self._nights,
            "advance": self._advance,
            "skew": lambda o: self.clock.skew(o.number),
            "now": lambda _: self.clock.now(),
            "revoke_tokens": lambda _: self.gatekeeper.revoke(),
            "register_keys": lambda o: self.gatekeeper.register(o.text),
            "speak_as": lambda o: self._speak_as(o.text),
            "expire_pages": lambda _: self.service.expire_pages(),
            "expire_exports": lambda _: self.exports.expire() if self.exports else None,
            "state": lambda _: self._state(),
            "requests": lambda _: list(self.gate.seen),
            "forget_requests": lambda _: self.gate.seen.clear(),
        }
        try:
            result = actions[order.action](order)
        except KeyError:
            raise HTTPException(404, "there is no such action, type or resource") from None
        return Response(msgspec.json.encode(result), media_type="application/json")

    def _put(self, order: Order) -> None:
        for resource in order.resources:
            self.store.put(resource, self.clock.stamp())
        self.store.refresh_group(self.clock.stamp())

    def _delete(self, order: Order) -> None:
        self.store.delete(order.resource_type, order.resource_id, self.clock.stamp())
        self.store.refresh_group(self.clock.stamp())

    def _while_paged(self, order: Order) -> None:
        self._every, self._pending, self._pages = order.after_pages, list(order.seeds), 0

    def _speak_as(self, base_url: str) -> None:
        self.gatekeeper.move(origin_of(base_url))
        self.service.base_url, self.service.token_endpoint = base_url, self.gatekeeper.endpoint
        if self.exports:
            self.exports.base_url = base_url

    def _page_served(self) -> None:
        self._pages += 1
        if self._pending and self._pages % self._every == 0:
            self._nights.append(mutate(self.store, self.spec, self.clock, self._pending.pop(0)))

    def _advance(self, order: Order) -> None:
        self.clock.advance(order.number)
        self.gatekeeper.advance(order.number)

    def _state(self) -> dict[str, dict[str, object]]:
        return {t: {s.id: s.resource for s in self.store.all(t)} for t in sorted(self.store.types)}
