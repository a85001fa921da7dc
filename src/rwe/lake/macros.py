"""The SQL macros of the fast way: `terms.py` and `dates.py` once more, as DuckDB computes them.

A macro `…_ok` says that a value is in order in the narrowest sense, so that the other macros need not look.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from rwe.lake.terms import UCUM

#: In these years an instant in Z may be moved to the site's zone by DuckDB.
_FIRST_YEAR, _LAST_YEAR = 1970, 2037
_TIME = r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-3]):[0-5]\d)"
_MOMENT = rf"\d{{4}}-\d\d-\d\d{_TIME}"
_DATE = rf"\d{{4}}(-(0[1-9]|1[0-2]))?|\d{{4}}-\d\d-\d\d({_TIME})?"

_MACROS = {
    # A label or tag that keeps a resource out is not there.
    "rwe_unlabelled(l, labels)": "l is null or len(list_filter(l, lambda k: k.code in labels)) = 0",
    "rwe_plain(l)": "l is null or len(l) = 0",
    "rwe_code_ok(t)": "length(t) <= 64 and regexp_full_match(t, '[!-~]+( [!-~]+)*')",
    "rwe_system_ok(t)": "length(t) <= 256 and regexp_full_match(t, '[A-Za-z][A-Za-z0-9+.-]*:[!-~]+')",
    "rwe_codings_ok(l)": (
        "l is null or len(list_filter(l, lambda k: not ((k.system is null or rwe_system_ok(k.system))"
        " and (k.code is null or rwe_code_ok(k.code))))) = 0"
    ),
    "rwe_unit(q)": (
        r"case when regexp_full_match(q.unit, '[A-Za-z0-9µμ%/.*^()\[\]{}_°-]{1,20}') then q.unit end"
    ),
    "rwe_ucum(q)": (
        f"case when q.system = '{UCUM}' and length(q.code) <= 64 and regexp_full_match(q.code, '[!-~]+')"
        " then q.code end"
    ),
    "rwe_unit_ok(q)": (
        "q is null or (coalesce(q.unit, '') = '' and coalesce(q.code, '') = '')"
        " or rwe_unit(q) is not null or rwe_ucum(q) is not null"
    ),
    # Microseconds since 1970 of an instant with an offset.
    "rwe_micros(t)": "epoch_us(try_cast(t as TIMESTAMPTZ))",
    "rwe_moment(t)": "make_timestamp(rwe_micros(t))",
    "rwe_moment_ok(t)": (
        f"t is null or (regexp_full_match(t, '{_MOMENT}') and t >= '1900' and t < '2100'"
        " and rwe_micros(t) is not null)"
    ),
    "rwe_second(t)": (
        "case when length(t) > 10 then make_timestamp(rwe_micros(t)"
        " - ((rwe_micros(t) % 1000000) + 1000000) % 1000000) end"
    ),
    "rwe_precision(t)": (
        "case when length(t) > 10 then 'instant' when length(t) = 10 then 'day'"
        " when length(t) = 7 then 'month' when length(t) = 4 then 'year' end"
    ),
    "rwe_first_day(t)": (
        "case when length(t) = 7 then try_cast(t || '-01' as DATE)"
        " when length(t) = 4 then try_cast(t || '-01-01' as DATE) else rwe_day(t) end"
    ),
    "rwe_last_day(t)": (
        "case when length(t) = 7 then last_day(try_cast(t || '-01' as DATE))"
        " when length(t) = 4 then try_cast(t || '-12-31' as DATE) else rwe_day(t) end"
    ),
}

_IN_UTC = {
    "rwe_day(t)": "case when length(t) >= 10 then try_cast(t[1:10] as DATE) end",
    "rwe_date_ok(t)": (
        f"t is null or (regexp_full_match(t, '{_DATE}') and t >= '1900' and t < '2100'"
        " and (length(t) < 10 or try_cast(t[1:10] as DATE) is not null))"
    ),
}


def _in_zone(zone: ZoneInfo, doubtful_years: list[int]) -> dict[str, str]:
    years = ", ".join(f"'{year}'" for year in doubtful_years) or "''"
    return {
        "rwe_day(t)": (
            "case when length(t) > 10 and ends_with(t, 'Z')"
            f" then cast(timezone('{zone.key}', try_cast(t as TIMESTAMPTZ)) as DATE)"
            " when length(t) >= 10 then try_cast(t[1:10] as DATE) end"
        ),
        "rwe_date_ok(t)": (
            f"({_IN_UTC['rwe_date_ok(t)']}) and (t is null or length(t) <= 10 or not ends_with(t, 'Z')"
            f" or (t >= '{_FIRST_YEAR}-01-02' and t < '{_LAST_YEAR}-12-31' and t[1:4] not in ({years})))"
        ),
    }


def create_macros(connection: duckdb.DuckDBPyConnection, zone: ZoneInfo) -> None:
    """Create the macros in a connection, for a site in this time zone."""
    connection.execute("set TimeZone = 'UTC'")
    in_zone = _IN_UTC
    if zone.key not in {"UTC", "Etc/UTC"}:
        in_zone = _in_zone(zone, _doubtful_years(connection, zone))
    for name, body in (in_zone | _MACROS).items():
        connection.execute(f"create or replace temp macro {name} as ({body})")


def _doubtful_years(connection: duckdb.DuckDBPyConnection, zone: ZoneInfo) -> list[int]:
    """The years in which DuckDB's time zones are not Python's: their data may be of different ages."""
    moments, seconds = _offsets(zone)
    known = pa.table({"micros": pa.array(moments, pa.int64()), "seconds": pa.array(seconds, pa.int64())})
    connection.register("rwe_known", known)
    found = connection.execute(
        """
        select distinct year(make_timestamp(micros)) from rwe_known
        where epoch_us(timezone(?, make_timestamptz(micros))) - micros <> seconds * 1000000
        """,
        [zone.key],
    ).fetchall()
    connection.unregister("rwe_known")
    return sorted({year + n for (year,) in found for n in (-1, 0, 1)})


@lru_cache(maxsize=8)
def _offsets(zone: ZoneInfo) -> tuple[list[int], list[int]]:
    """Moments in microseconds, and how many seconds local time is ahead then, by Python's time zones: each
    day, and each quarter of an hour of the days on which that changes."""
    first = int(datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
    days = [first + 86_400 * n for n in range((_LAST_YEAR - _FIRST_YEAR + 1) * 366)]
    known = {day: _seconds(day, zone) for day in days}
    for day, following in pairwise(days):
        if known[day] != known[following]:
            known |= {at: _seconds(at, zone) for at in range(day, following, 900)}
    return [at * 1_000_000 for at in known], list(known.values())


def _seconds(epoch: int, zone: ZoneInfo) -> int:
    return int((datetime.fromtimestamp(epoch, zone).utcoffset() or timedelta()).total_seconds())
