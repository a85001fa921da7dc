"""FHIR dates in the lake: the day it was at the site, and how exactly that is known. Oracle: zoneinfo."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwe.lake.dates import DateShapeError, coarsen, read_fhir_date

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago"]
).map(ZoneInfo)
INSTANTS = st.datetimes(datetime(1900, 1, 2), datetime(2100, 12, 30)).map(lambda d: d.replace(microsecond=0))
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@given(INSTANTS, OFFSETS, ZONES)
def test_an_instant_with_an_offset_falls_on_the_day_as_written(
    local: datetime, offset: timezone, zone: ZoneInfo
) -> None:
    written = local.replace(tzinfo=offset)
    text = written.isoformat()
    if text.endswith("Z"):
        return
    found = read_fhir_date(text, zone)
    assert (found.day, found.precision) == (local.date(), "instant")
    assert found.at == written.astimezone(UTC)


@given(INSTANTS, ZONES)
def test_an_instant_in_z_falls_on_the_sites_day(moment: datetime, zone: ZoneInfo) -> None:
    found = read_fhir_date(moment.isoformat() + "Z", zone)
    assert found.day == moment.replace(tzinfo=UTC).astimezone(zone).date()
    assert found.at == moment.replace(tzinfo=UTC)


@given(st.dates(date(1, 1, 1), date(9999, 12, 31)), ZONES)
def test_a_day_is_that_day_in_every_zone(day: date, zone: ZoneInfo) -> None:
    found = read_fhir_date(day.isoformat(), zone)
    assert (found.day, found.precision, found.first_day, found.last_day) == (day, "day", day, day)


@given(st.integers(1, 9999), st.integers(1, 12))
def test_a_month_has_no_day_but_a_first_and_a_last(year: int, month: int) -> None:
    found = read_fhir_date(f"{year:04}-{month:02}", BERLIN)
    assert (found.day, found.precision) == (None, "month")
    assert found.first_day == date(year, month, 1)
    assert found.last_day == date(year, month, calendar.monthrange(year, month)[1])


@given(st.integers(1, 9999))
def test_a_year_has_no_day_but_a_first_and_a_last(year: int) -> None:
    found = read_fhir_date(f"{year:04}", BERLIN)
    assert (found.day, found.precision) == (None, "year")
    assert (found.first_day, found.last_day) == (date(year, 1, 1), date(year, 12, 31))


@given(st.text(alphabet="0123456789-:TZ+. ", max_size=30))
def test_any_text_is_a_date_that_lies_in_its_own_bounds_or_is_refused(text: str) -> None:
    try:
        found = read_fhir_date(text, BERLIN)
    except DateShapeError:
        return
    assert found.first_day <= found.last_day
    assert found.day is None or found.first_day == found.day == found.last_day


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-03-05T23:30:00-05:00", date(2024, 3, 5)),
        ("2024-03-05T23:30:00Z", date(2024, 3, 6)),
        ("2024-07-05T21:59:59Z", date(2024, 7, 5)),
        ("2024-07-05T22:00:00Z", date(2024, 7, 6)),
        ("2016-12-31T23:59:60Z", date(2017, 1, 1)),
        ("2024-03-05T23:30:00.123456789+01:00", date(2024, 3, 5)),
        ("2024-03-05T23:30+01:00", date(2024, 3, 5)),
    ],
)
def test_days_of_instants_at_a_berlin_hospital(text: str, day: date) -> None:
    assert read_fhir_date(text, BERLIN).day == day


def test_a_time_without_an_offset_is_the_day_as_written_and_marked() -> None:
    found = read_fhir_date("2024-03-05T23:30:00", BERLIN)
    assert (found.day, found.has_offset, found.at) == (date(2024, 3, 5), False, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "24-03-05",
        "2024-3-5",
        "2024-02-30",
        "2023-02-29",
        "2024-13",
        "2024-00",
        "0000",
        "05.03.2024",
        "2024-03-05 10:00:00Z",
        "2024-03-05T24:00:00Z",
        "2024-03-05T10:61:00Z",
        "2024-03-05T10:00:61Z",
        "2024-03-05T10:00:00+25:00",
        "2024-03-05T10",
        "9999-12-31T23:59:59Z",
        "２０２４-03-05",
        "2024-03-05\n",
    ],
)
def test_what_is_no_date_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(DateShapeError) as caught:
        read_fhir_date(text, BERLIN)
    assert str(caught.value) == ""


def test_a_birth_date_can_be_kept_to_the_month_or_year() -> None:
    born = read_fhir_date("1960-02-17", BERLIN)
    assert coarsen(born, "day").day == date(1960, 2, 17)
    month, year = coarsen(born, "month"), coarsen(born, "year")
    assert (month.day, month.precision, month.first_day, month.last_day) == (
        None,
        "month",
        date(1960, 2, 1),
        date(1960, 2, 29),
    )
    assert (year.day, year.precision, year.first_day, year.last_day) == (
        None,
        "year",
        date(1960, 1, 1),
        date(1960, 12, 31),
    )
    assert coarsen(read_fhir_date("1960", BERLIN), "month").precision == "year"
