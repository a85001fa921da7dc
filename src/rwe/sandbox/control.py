"""The test's hand on a running hospital: change its records, its clock, its tokens, and look at its state.

Requests go to /_control on the server's own port and carry a secret that only the starting process knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from http.client import HTTPConnection
from typing import TypeVar

import msgspec

from rwe.errors import SiteError
from rwe.sandbox.dialects import Resource
from rwe.sandbox.nights import Night

SECRET_HEADER = "X-Control-Secret"  # noqa: S105  (the header's name)
_TIMEOUT_SECONDS = 60.0
_T = TypeVar("_T")
State = dict[str, dict[str, Resource]]


@dataclass(frozen=True)
class Seen:
    """A FHIR or token request that the server answered. `query` is as sent, after the question mark."""

    method: str
    path: str
    query: str
    status: int
    is_authorized: bool
    """Whether it carried an Authorization header."""


@dataclass(frozen=True)
class Order:
    """One wish to the control room: what is not meant stays at its default."""

    action: str
    resources: tuple[Resource, ...] = ()
    resource_type: str = ""
    resource_id: str = ""
    seed: int = 0
    seeds: tuple[int, ...] = ()
    after_pages: int = 0
    number: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Control:
    """The control room of one hospital. Methods raise SiteError if it refuses."""

    name: str
    host: str
    port: int
    secret: str

    def __repr__(self) -> str:
        return f"Control({self.name!r})"

    def put(self, *resources: Resource) -> None:
        """File resources, each as new or as the next version; versionId and lastUpdated are the server's."""
        self._do(Order("put", resources=resources), type(None))

    def delete(self, resource_type: str, resource_id: str) -> None:
        """Delete a resource: reading it is 410 from now on."""
        self._do(Order("delete", resource_type=resource_type, resource_id=resource_id), type(None))

    def mutate(self, seed: int) -> Night:
        """Make a night's changes (rwe.sandbox.nights)."""
        return self._do(Order("mutate", seed=seed), Night)

    def while_paged(self, *, after_pages: int, seeds: Iterable[int]) -> None:
        """After each `after_pages` pages of a search or history, make the next of these nights' changes."""
        self._do(Order("while_paged", after_pages=after_pages, seeds=tuple(seeds)), type(None))

    def nights_while_paged(self) -> list[Night]:
        """The nights that `while_paged` has made so far."""
        return self._do(Order("nights_while_paged"), list[Night])

    def advance(self, nights: float = 1.0) -> None:
        """Move the server's clock on. Tokens, exports and page links age with it."""
        self._do(Order("advance", number=nights), type(None))

    def skew(self, seconds: float) -> None:
        """How many seconds the FHIR server's clock is ahead of the true one; negative is behind."""
        self._do(Order("skew", number=seconds), type(None))

    def now(self) -> datetime:
        """The time by the server's clock."""
        return self._do(Order("now"), datetime)

    def revoke_tokens(self) -> int:
        """Every token issued so far is refused from now on; returns how many there were."""
        return self._do(Order("revoke_tokens"), int)

    def register_keys(self, jwks: str) -> None:
        """Replace the client's JWK Set (JSON text). Without effect where the spec names a file."""
        self._do(Order("register_keys", text=jwks), type(None))

    def speak_as(self, base_url: str) -> None:
        """What links, status addresses and the token endpoint are made of from now on: a proxy's …/fhir."""
        self._do(Order("speak_as", text=base_url), type(None))

    def expire_pages(self) -> None:
        """All next links handed out so far answer 410."""
        self._do(Order("expire_pages"), type(None))

    def expire_exports(self) -> None:
        """All export files handed out so far are gone."""
        self._do(Order("expire_exports"), type(None))

    def state(self) -> State:
        """The current resources as a read serves them: type, id, resource."""
        return self._do(Order("state"), State)

    def requests(self) -> list[Seen]:
        """What was asked of the server, in order; the control's own requests are not among it."""
        return self._do(Order("requests"), list[Seen])

    def forget_requests(self) -> None:
        self._do(Order("forget_requests"), type(None))

    def _do(self, order: Order, answer: type[_T]) -> _T:
        connection = HTTPConnection(self.host, self.port, timeout=_TIMEOUT_SECONDS)
        try:
            body = msgspec.json.encode(asdict(order))
            connection.request("POST", "/_control/do", body, {SECRET_HEADER: self.secret})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise SiteError(f"the control room refused {order.action} ({response.status})", where=self.name)
        return msgspec.json.decode(content, type=answer)
