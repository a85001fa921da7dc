"""Several sites' tables as one: what is known of each and what then is known of all."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from rwe.analyse.pool_tables import concatenated
from rwe.analyse.read import StudyTables
from tests.integration.cohort_nights import Person
from tests.unit.history_tables import tables


def part(site: str, until: date | None) -> StudyTables:
    return replace(tables([Person(f"{site}-1", site)]), data_cutoff=until)


MAY, JUNE = date(2024, 5, 31), date(2024, 6, 30)


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [(MAY, JUNE, JUNE), (JUNE, MAY, JUNE), (MAY, None, None), (None, MAY, None), (None, None, None)],
)
def test_the_last_day_of_care_is_the_last_of_all_sites_or_not_known(
    first: date | None, second: date | None, whole: date | None
) -> None:
    """A share tells no day: the data analysed may end after the hub's own."""
    assert concatenated([part("north", first), part("river", second)], ()).data_cutoff == whole


def test_one_sites_own_tables_keep_their_last_day() -> None:
    assert concatenated([part("north", MAY)], ()).data_cutoff == MAY
