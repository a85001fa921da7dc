"""The hash of a build's content: what it tells apart, and what it does not."""

from __future__ import annotations

import math

import duckdb
import pytest

from rwe.warehouse.identity import content_hash


def hashed(rows: str, *, threads: int = 2, columns: str = "a, b") -> str:
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.execute("create schema cohort")
        connection.execute(f"create table cohort.t as select * from ({rows}) as v({columns})")
        return content_hash(connection, ["cohort.t"])


def test_the_order_of_rows_and_the_number_of_threads_change_nothing() -> None:
    rows = "select i, sqrt(i) from range(200000) r(i)"
    straight = hashed(rows, threads=1)
    assert hashed(f"{rows} order by hash(i)", threads=4) == straight
    assert hashed("select i, sqrt(i) from range(199999) r(i)") != straight


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("values ('a', 'bc')", "values ('ab', 'c')"),
        ("values ('a', null)", "values ('a', '')"),
        ("values ('a', null)", "values ('a', '-')"),
        ("values (null, 'a')", "values ('a', null)"),
        ("values ('x', 1), ('x', 1)", "values ('x', 1)"),
        ("values (1, 2::integer)", "values (1, 2::bigint)"),
        (f"values (1, {0.1!r}::double)", f"values (1, {math.nextafter(0.1, 1)!r}::double)"),
        ("values (1, 0.0::double)", "values (1, -0.0::double)"),
        ("values (1, 1e308::double)", f"values (1, {math.nextafter(1e308, 0)!r}::double)"),
        ("values (1, 5e-324::double)", "values (1, 0.0::double)"),
    ],
)
def test_rows_that_differ_in_anything_have_another_hash(one: str, other: str) -> None:
    assert hashed(one) != hashed(other)


def test_the_name_of_a_column_counts() -> None:
    assert hashed("values (1, 2)") != hashed("values (1, 2)", columns="a, c")
