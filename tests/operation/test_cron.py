"""Cron expressions, and when they fired last by a site's clock. Known answers from calendars."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from rwe.cron import parse_cron

BERLIN, CHICAGO = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Chicago")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "now", "expected"),
    [
        # Summer time in Berlin is UTC+2, winter time UTC+1; in Chicago UTC-5 and UTC-6.
        ("30 1 * * *", BERLIN, "2026-07-10T12:00", "2026-07-09T23:30"),
        ("30 1 * * *", BERLIN, "2026-01-10T12:00", "2026-01-10T00:30"),
        ("30 1 * * *", CHICAGO, "2026-07-10T06:29", "2026-07-09T06:30"),
        ("30 1 * * *", CHICAGO, "2026-07-10T06:30", "2026-07-10T06:30"),
        ("0 3 * * 0", BERLIN, "2026-07-10T12:00", "2026-07-05T01:00"),  # 5 July 2026 is a Sunday
        ("0 3 * * 7", BERLIN, "2026-07-10T12:00", "2026-07-05T01:00"),
        ("0 3 * * sun", BERLIN, "2026-07-10T12:00", "2026-07-05T01:00"),
        ("0 22 * * mon-fri", BERLIN, "2026-07-12T12:00", "2026-07-10T20:00"),  # a Sunday: Friday's
        ("*/20 4-5 * * *", BERLIN, "2026-07-10T02:55", "2026-07-10T02:40"),
        ("0 0 29 2 *", BERLIN, "2026-07-10T12:00", "2024-02-28T23:00"),
        ("0 0 13 * 5", BERLIN, "2026-07-11T12:00", "2026-07-09T22:00"),  # the 13th or a Friday: 10 July
        # 02:30 does not exist on 29 March 2026 in Berlin, and is 03:30 by the clock on the wall.
        ("30 2 * * *", BERLIN, "2026-03-29T10:00", "2026-03-29T01:30"),
    ],
)
def test_when_it_fired_last(cron: str, zone: ZoneInfo, now: str, expected: str) -> None:
    assert parse_cron(cron).last_before(utc(now), zone) == utc(expected)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 1 * *", "five fields"),
        ("@daily", "five fields"),
        ("60 1 * * *", "minute is not between 0 and 59"),
        ("0 24 * * *", "hour is not between 0 and 23"),
        ("0 1 32 * *", "day of the month"),
        ("0 1 * 13 *", "month is not between 1 and 12"),
        ("0 1 * * 8", "day of the week"),
        ("0 5-2 * * *", "hour can never be"),
        ("*/0 1 * * *", "minute can never be"),
        ("0 1 * * mondays", "day of the week"),
        ("0 1 30 2 *", "never fires"),
        ("0 1 ; rm -rf", "cannot be read"),
    ],
)
def test_what_is_no_cron_expression_is_named(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_cron(text)
