"""The request budget as a server sees it: retries count, places are shared, quiet hours stop a run."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site
from rwe.fhir.budget import QuietHoursError, RequestBudget
from rwe.fhir.client import FhirClient
from tests.contract.wire import answers, bundle, client_for, run


def test_retries_and_pages_keep_to_the_rate(httpserver: HTTPServer) -> None:
    times: list[float] = []

    def timed(response: Response) -> Response:
        times.append(time.monotonic())
        return response

    busy = [lambda _: timed(Response(status=503, headers={"Retry-After": "0"}))] * 2
    page = bundle("1", following="/fhir/Encounter?_page=2")
    answers(httpserver, *busy, lambda _: timed(Response(page)), lambda _: timed(Response(bundle("2"))))
    assert run(client_for(httpserver, max_requests_per_second=5))[0] == ["1", "2"]
    assert len(times) == 4
    assert all(later - earlier > 0.15 for earlier, later in pairwise(times))


def test_threads_share_the_places(httpserver: HTTPServer) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def slow(request: Request) -> Response:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1
        return Response(b"{}")

    with HTTPServer(threaded=True) as server:
        server.expect_request("/fhir/Patient").respond_with_handler(slow)
        client = client_for(server, max_concurrency=3)
        threads = [threading.Thread(target=client.request, args=("Patient", "Patient")) for _ in range(9)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert most == 3
    assert client.requests == {"Patient": {"200": 9}}


def test_a_run_stops_when_quiet_hours_begin(httpserver: HTTPServer) -> None:
    site = Site(
        base_url=httpserver.url_for("/fhir"),
        allow_plain_http="loopback only",
        quiet_hours="07:00-19:00",
        time_zone="America/Chicago",
    )
    minutes = iter([58, 59, 60, 61])

    def now() -> datetime:
        minute = next(minutes)
        return datetime(2025, 7, 1, 11 + minute // 60, minute % 60, tzinfo=UTC)  # 12:00 UTC is 7:00 there

    seen = answers(httpserver, *[bundle(str(i), following=f"/fhir/Encounter?_page={i}") for i in range(9)])
    with FhirClient("clinic", site, budget=RequestBudget("clinic", site, now=now)) as client:
        with pytest.raises(QuietHoursError, match="run it again after 19:00"):
            run(client)
        assert len(seen) == 2
