"""A patient at two sites is counted once, and the hub learns neither who nor when."""

from __future__ import annotations

import os
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from rwe.sharing.linking import Record, Token, among, joined, left_out, same_persons, tokens_of

STUDY, HASH = "study", "0" * 64
ANNA, BEN, CLEO = (bytes([i]).hex() * 16 for i in (1, 2, 3))  # their link tokens, as every site makes them


def shared(tokens: dict[str, str], days: dict[str, date], *, protocol: str = HASH) -> list[Token]:
    return list(tokens_of(tokens, days, study=STUDY, protocol_sha256=protocol).values())


def test_the_record_of_the_first_index_event_is_kept() -> None:
    a = shared({"a1": ANNA, "a2": BEN}, {"a1": date(2019, 5, 1), "a2": date(2020, 1, 1)})
    b = shared({"b1": ANNA, "b3": CLEO}, {"b1": date(2019, 4, 1), "b3": date(2020, 1, 1)})
    persons = same_persons({"A": a, "B": b})
    assert persons == [(Record("B", "b1", 0), Record("A", "a1", 30))]
    assert left_out(persons) == {"A": {"a1"}}


def test_on_one_day_the_site_first_by_name_wins() -> None:
    day = {"x": date(2019, 5, 1)}
    persons = same_persons({"B": shared({"x": ANNA}, day), "A": shared({"x": ANNA}, day)})
    assert left_out(persons) == {"B": {"x"}}


def test_of_three_sites_one_record_is_left() -> None:
    days = (date(2020, 3, 1), date(2020, 1, 1), date(2020, 2, 1))
    sites = {s: shared({s: ANNA}, {s: d}) for s, d in zip("ABC", days, strict=True)}
    assert left_out(same_persons(sites)) == {"A": {"A"}, "C": {"C"}}


def test_two_records_at_one_site_alone_are_its_own_matter() -> None:
    days = {"a1": date(2019, 5, 1), "a2": date(2019, 6, 1)}
    assert same_persons({"A": shared({"a1": ANNA, "a2": ANNA}, days)}) == []


def test_who_has_no_index_date_has_no_token() -> None:
    assert shared({"a1": ANNA}, {}) == []


def test_a_token_of_one_study_says_nothing_of_another() -> None:
    day = {"x": date(2019, 5, 1)}
    here, there = shared({"x": ANNA}, day), shared({"x": ANNA}, day, protocol="1" * 64)
    assert same_persons({"A": here, "B": there}) == []
    assert here[0].masked_day != there[0].masked_day


def test_masked_days_of_a_site_tell_no_day() -> None:
    """1,000 patients of one index day: their masked days spread over all of 2^32, low and high bits alike."""
    tokens = {f"p{i}": os.urandom(16).hex() for i in range(1_000)}
    found = shared(tokens, dict.fromkeys(tokens, date(2020, 1, 1)))
    for bit in range(32):
        ones = sum(t.masked_day >> bit & 1 for t in found)
        assert 400 < ones < 600  # a fair coin: six standard deviations
    assert len({t.masked_day for t in found}) > 990


DAYS = st.dates(date(1950, 1, 1), date(2100, 1, 1))


@given(DAYS, st.integers(-20_000, 20_000), st.binary(min_size=16, max_size=16))
def test_days_between_two_index_events_survive_the_mask(first: date, apart: int, token: bytes) -> None:
    """Also where the mask carries a day over the end of its range."""
    second = date.fromordinal(first.toordinal() + apart)
    a, b = shared({"a": token.hex()}, {"a": first}), shared({"b": token.hex()}, {"b": second})
    ((_, later),) = same_persons({"A": a, "B": b})
    assert later.offset == abs(apart)


def test_who_was_known_before_stays_known_after_the_tokens_are_gone() -> None:
    """A and B were linked; later C comes and only A has tokens again: all three are one person."""
    before = [(Record("A", "a", 0), Record("B", "b", 30))]
    now = [(Record("C", "c", 0), Record("A", "a", 10))]
    assert joined(before, now) == [(Record("C", "c", 0), Record("A", "a", 10), Record("B", "b", 40))]


def test_a_corrected_index_day_changes_who_was_first() -> None:
    before = [(Record("A", "a", 0), Record("B", "b", 30))]
    now = [(Record("B", "b", 0), Record("A", "a", 5))]
    assert joined(before, now) == now


def test_a_person_who_left_a_site_is_counted_at_the_other() -> None:
    person = (Record("A", "a", 0), Record("B", "b", 30))
    assert among([person], {"A": set(), "B": {"b"}}) == []
    assert among([person], {"A": {"a"}, "B": {"b"}}) == [person]
