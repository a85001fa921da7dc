"""A hospital's network on a bad night, as an addon of mitmproxy. Seeded; counts what it did.

    RWE_FAULT_SEED   the seed
    RWE_FAULT_LOG    a file of one JSON line a fault: {"fault": NAME}; its lines are the counts
    RWE_FAULT_OFF    a file; while it exists nothing is disturbed

Runs in mitmproxy's own environment, so it imports nothing of rwe.
"""

from __future__ import annotations

import json
import os
import random
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import http

#: Of a hundred requests, how many meet which fault.
SHARES = {
    "unavailable_503": 15,
    "busy_429": 10,
    "reset": 5,
    "truncated": 5,
    "html_200": 1,
    "unauthorized_401": 1,
    "duplicated_page": 6,
}
#: Of a hundred requests for a next page, how many find it expired, until a search begun anew names it.
EXPIRED_SHARE = 8
#: Of a hundred requests for a next page, how many get the page before once more, the first time.
REPLAYED_SHARE = 6


class BadNight:
    def __init__(self) -> None:
        self._rng = random.Random(int(os.environ["RWE_FAULT_SEED"]))
        self._log = Path(os.environ["RWE_FAULT_LOG"])
        self._off = Path(os.environ["RWE_FAULT_OFF"])
        self._expired: set[str] = set()
        self._before: dict[str, bytes] = {}
        """By the address of a next page, the page that named it; until it was asked for."""

    def _note(self, fault: str) -> None:
        with self._log.open("a", encoding="ascii") as f:
            f.write(json.dumps({"fault": fault}) + "\n")

    def _draw(self) -> str | None:
        point = self._rng.uniform(0, 100)
        for fault, share in SHARES.items():
            point -= share
            if point < 0:
                return fault
        return None

    def request(self, flow: http.HTTPFlow) -> None:
        path = flow.request.path.partition("?")[0]
        if self._off.exists() or path.endswith("/metadata"):
            return
        if "_getpages=" in flow.request.path and self._spoils_the_next_page(flow):
            return
        fault = self._draw()
        if fault == "unauthorized_401" and path.endswith("/token"):
            fault = None  # the authorization server means it: that is no fault of the network
        flow.metadata["fault"] = fault
        if fault == "unavailable_503":
            self._answer(flow, fault, 503, {})
        elif fault == "busy_429":
            kind, headers = self._retry_after()
            self._answer(flow, f"{fault}_{kind}", 429, headers)
        elif fault == "unauthorized_401":
            self._answer(flow, fault, 401, {})
        elif fault == "html_200":
            body, headers = b"<html><body>Sign in</body></html>", {"Content-Type": "text/html"}
            self._answer(flow, fault, 200, headers, body)
        elif fault == "reset":
            self._note(fault)
            flow.kill()

    def _spoils_the_next_page(self, flow: http.HTTPFlow) -> bool:
        path = flow.request.path
        if path in self._expired or self._rng.uniform(0, 100) < EXPIRED_SHARE:
            self._expired.add(path)
            self._answer(flow, "expired_410", 410, {})
            return True
        before = self._before.pop(path, None)
        if before is None or self._rng.uniform(0, 100) >= REPLAYED_SHARE:
            return False
        self._answer(flow, "replayed_page", 200, {"Content-Type": "application/fhir+json"}, before)
        return True

    def _remember(self, content: bytes) -> None:
        try:
            page: Any = json.loads(content)
        except ValueError:
            return
        for link in page.get("link", ()) if isinstance(page, dict) else ():
            if isinstance(link, dict) and link.get("relation") == "next" and "_getpages=" in link["url"]:
                parts = urlsplit(link["url"])
                self._before[f"{parts.path}?{parts.query}"] = content
                self._expired.discard(f"{parts.path}?{parts.query}")

    def _retry_after(self) -> tuple[str, dict[str, str]]:
        kinds: dict[str, dict[str, str]] = {
            "absent": {},
            "seconds": {"Retry-After": "0"},
            "date": {"Retry-After": formatdate(time.time() + 1, usegmt=True)},
            "epoch": {"Retry-After": str(int(time.time()) + 1)},
        }
        kind = self._rng.choice(list(kinds))
        return kind, kinds[kind]

    def _answer(
        self, flow: http.HTTPFlow, fault: str, status: int, headers: dict[str, str], body: bytes = b""
    ) -> None:
        self._note(fault)
        flow.response = http.Response.make(status, body, headers)

    def response(self, flow: http.HTTPFlow) -> None:
        fault = flow.metadata.get("fault")
        if flow.response is None or flow.response.status_code != 200 or not flow.response.content:
            return
        self._remember(flow.response.content)
        if fault == "truncated":
            self._note(fault)
            flow.response.content = flow.response.content[: len(flow.response.content) // 2]
        elif fault == "duplicated_page":
            page: dict[str, Any] = json.loads(flow.response.content)
            if page.get("entry"):
                self._note(fault)
                page["entry"] = page["entry"] * 2
                flow.response.content = json.dumps(page).encode()


addons = [BadNight()]
