"""How gently a server is asked, which address belongs to which origin, and tracebacks without values."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rwe.config import Site, parse_settings
from rwe.errors import ConfigError
from rwe.fhir.budget import Ceiling, CeilingError, QuietHoursError, RequestBudget
from rwe.fhir.origin import Origin
from rwe.tracebacks import safe_traceback


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, at: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self.seconds, self.at = 0.0, at

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def budget(self, **fields: Any) -> RequestBudget:
        return RequestBudget(
            "clinic", Site(**fields), clock=lambda: self.seconds, sleep=self.sleep, now=lambda: self.at
        )


def test_no_second_sees_more_requests_than_allowed() -> None:
    clock = Time()
    budget = clock.budget(max_requests_per_second=4)
    starts = []
    for _ in range(20):
        budget.turn()
        starts.append(clock.seconds)
    assert starts == pytest.approx([i / 4 for i in range(20)])


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    clock = Time()
    budget = clock.budget(max_requests_per_second=2)
    budget.turn()
    clock.seconds = 60
    starts = []
    for _ in range(3):
        budget.turn()
        starts.append(clock.seconds)
    assert starts == [60, 60.5, 61]


def test_threads_share_the_rate_and_the_places() -> None:
    budget = RequestBudget("clinic", Site(max_requests_per_second=50, max_concurrency=2))
    lock, under_way, most = threading.Lock(), 0, 0
    starts: list[float] = []

    def work() -> None:
        nonlocal under_way, most
        with budget.slot():
            with lock:
                under_way += 1
                most = max(most, under_way)
                starts.append(time.monotonic())
            time.sleep(0.05)
            with lock:
                under_way -= 1

    threads = [threading.Thread(target=work) for _ in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == 2
    assert max(starts) - min(starts) >= 9 / 50 - 0.01


@pytest.mark.parametrize(
    ("hours", "utc", "is_quiet"),
    [
        ("07:00-19:00", "05:59", False),  # 06:59 in Berlin, in winter
        ("07:00-19:00", "06:00", True),
        ("07:00-19:00", "17:59", True),
        ("07:00-19:00", "18:00", False),
        ("22:00-04:30", "21:30", True),
        ("22:00-04:30", "03:29", True),
        ("22:00-04:30", "03:30", False),
        ("22:00-04:30", "12:00", False),
    ],
)
def test_quiet_hours_go_by_the_sites_clock_and_may_span_midnight(
    hours: str, utc: str, is_quiet: bool
) -> None:
    at = datetime.fromisoformat(f"2025-01-15T{utc}:00+00:00")
    budget = Time(at).budget(quiet_hours=hours, time_zone="Europe/Berlin")
    if not is_quiet:
        budget.turn()
        return
    with pytest.raises(QuietHoursError) as caught, budget.slot():
        pytest.fail("a request began")
    assert str(caught.value) == (
        f"site clinic: quiet hours, {hours} Europe/Berlin: no request is sent; "
        f"run it again after {hours[-5:]}."
    )


def test_a_place_is_free_again_after_an_error() -> None:
    budget = Time().budget(max_concurrency=1)
    for _ in range(3):
        with pytest.raises(KeyError), budget.slot():
            raise KeyError


def test_the_ceiling_counts_by_type_and_says_which_was_reached() -> None:
    ceiling = Ceiling("clinic", Site(max_resources_per_type=1000))
    ceiling.add("Patient", 1000)
    ceiling.add("Observation", 999)
    ceiling.add("Observation")
    with pytest.raises(CeilingError, match="clinic, Observation: more than 1,000 resources"):
        ceiling.add("Observation")
    Ceiling("clinic", Site()).add("Observation", 10**9)


# Origins

SAME = ["https://a.example", "HTTPS://A.example:443/x", "https://a.example?x", "https://a.example#@b.example"]
OTHER = [
    "http://a.example",
    "https://a.example:8443",
    "https://a.example.evil.example",
    "https://evil-a.example",
    "https://a.example.",
    "https://b.example/https://a.example",
]
NONE = [
    "https://a.example@evil.example/",
    "https://a.example:x@evil.example/",
    "https://a.example\\@evil.example/",
    "https://evil.example\\.a.example/",
    "https://a.example\t.evil.example",
    "https://a.example:99999",
    "https://",
    "//a.example",
    "file:///etc/passwd",
    "https://a.example%2eevil.example",
    "https://ä.example",
    "https:a.example",
]


def test_an_origin_is_scheme_host_and_port() -> None:
    mine = Origin.of("https://a.example/fhir")
    assert all(Origin.of(url) == mine for url in SAME)
    assert all(Origin.of(url) != mine for url in OTHER)
    assert str(mine) == "https://a.example"


@pytest.mark.parametrize("url", NONE)
def test_an_address_that_parsers_read_differently_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"^no (plain|port)"):
        Origin.of(url)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:80", True),
        ("http://localhost", True),
        ("http://localhost.evil.example", False),
        ("http://0.0.0.0", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_this_machine(url: str, is_loopback: bool) -> None:
    assert Origin.of(url).is_loopback == is_loopback


# Settings

WRONG_SETTINGS = {
    "auth: {kind: magic}": "sites.a.auth: kind is none of none, smart, bearer, basic",
    "auth: {token_file: x}": "sites.a.auth: kind is missing: one of none, smart, bearer, basic",
    "auth: {kind: bearer, token: hunter2}": "the field token would hold a secret",
    "auth: {kind: basic, user: u, password: hunter2}": "the field password would hold a secret",
    "auth: {kind: smart, client_id: c, client_secret: hunter2}": "client_secret would hold a secret",
    "auth: {kind: smart, client_id: c, key_file: '-----BEGIN hunter2'}": "the field key_file holds a key",
    "token: hunter2": "the field token would hold a secret",
    "auth: {kind: smart, client_id: c}": "give one of key_file and key_env",
    "auth: {kind: bearer, token_file: a, token_env: B}": "give one of token_file and token_env",
    "auth: {kind: smart, client_id: c, key_file: k, algorithm: HS256}": "sites.a.auth.algorithm",
    "auth: {kind: smart, client_id: c, key_file: k, colour: x}": "unknown field sites.a.auth.colour",
    "token_origins: ['http://files.example.org']": "no https origin",
    "token_origins: ['https://files.example.org/path']": "no https origin",
    "proxy: 'http://u:hunter2@proxy.example.org'": "proxy holds a credential",
    "quiet_hours: '7-19'": "no hours of a day",
    "quiet_hours: '07:00-07:00'": "begin and end at the same time",
    "client_cert_file: a.pem": "client_cert_file and client_key_file go together",
    "cohort: {source: group}": "missing field sites.a.cohort.id",
    "cohort: {source: guess}": "source is none of search, group, patients",
    "export_level: group": "needs cohort: {source: group",
    "max_requests_per_second: 0": "sites.a.max_requests_per_second",
}


@pytest.mark.parametrize("line", WRONG_SETTINGS)
def test_a_wrong_setting_is_told_by_field_and_never_by_value(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(f"pseudonyms: {{key_file: /k}}\nsites:\n  a: {{{line}}}\n", "rwe.yaml")
    assert WRONG_SETTINGS[line] in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in safe_traceback(caught.value)


def test_paths_start_at_the_workspace() -> None:
    text = "pseudonyms: {key_file: /k}\nsites:\n  a: {ca_file: ca.pem, opt_out_file: /abs/out.txt}\n"
    site = parse_settings(text, "rwe.yaml", Path("/srv/space")).sites["a"]
    assert site.ca_file == Path("/srv/space/ca.pem")
    assert site.opt_out_file == Path("/abs/out.txt")


def test_test_data_never_enters() -> None:
    assert "HTEST" in Site(security_labels={"exclude": []}).security_labels.excluded


# Tracebacks


def test_a_traceback_shows_places_and_types_but_no_text_of_foreign_errors() -> None:
    try:
        try:
            Site.model_validate({"page_size": "hunter2"})
        except ValidationError as e:
            raise ConfigError("page_size is no number", where="rwe.yaml") from e
    except ConfigError as error:
        told = safe_traceback(error)
    assert told.index("ValidationError") < told.index(
        "rwe.errors.ConfigError: rwe.yaml: page_size is no number."
    )
    assert "test_budget.py" in told
    assert "input_value" not in told
