"""The rules of exposure: episodes, salvage, starts whose day is not known, intercurrent events."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"


def episodes(
    records: str,
    expected: str,
    progression: str | None = None,
    protocol: str = PROTOCOL,
    death: str | None = None,
) -> None:
    given = {
        "study.protocol": protocol,
        "study.exposure_tier": "tier\nadministration\ndispense",
        "cohort.index_event": ANN_INDEX,
        "cohort.codelist_match": records,
    }
    if progression:
        given["cohort.progression"] = progression
    if death:
        given["cohort.death"] = death
    run("cohort.exposure_episode", given, expected)


def test_records_at_most_the_gap_apart_are_one_episode() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier           | event_date
        lenalidomide | medication | ann        | administration | 2020-01-11
        lenalidomide | medication | ann        | administration | 2020-03-11
        lenalidomide | medication | ann        | administration | 2020-05-11
        """,
        # 60 days apart are bridged, 61 are not.
        """
        patient_id | episode_number | start_day | end_day | n_records | kind
        ann        | 1              | 10        | 70      | 2         | maintenance
        ann        | 2              | 131       | 131     | 1         | maintenance
        """,
    )


def test_a_gap_is_counted_from_the_end_of_what_was_recorded_before() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier     | event_date | end_day
        lenalidomide | medication | ann        | dispense | 2020-01-02 | 2020-06-01
        lenalidomide | medication | ann        | dispense | 2020-02-01 | 2020-02-10
        lenalidomide | medication | ann        | dispense | 2020-07-01 | 2020-06-01
        """,
        """
        patient_id | episode_number | start_day | end_day
        ann        | 1              | 1         | 182
        """,
    )


def test_tiers_have_episodes_of_their_own_and_only_the_protocols_count() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier     | event_date
        lenalidomide | medication | ann        | request  | 2020-01-11
        lenalidomide | medication | ann        | dispense | 2020-01-21
        car_t        | medication | ann        | dispense | 2020-01-01
        """,
        """
        tier     | start_day | is_counted
        request  | 10        | false
        dispense | 20        | true
        """,
    )


def test_a_record_on_the_index_day_is_a_start_one_before_is_not_and_the_two_never_join() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier           | event_date
        lenalidomide | medication | ann        | administration | 2019-12-31
        lenalidomide | medication | ann        | administration | 2020-01-01
        """,
        """
        episode_number | start_day | kind
        1              | -1        | before_index
        2              | 0         | maintenance
        """,
    )


@pytest.mark.parametrize(("start", "kind"), [("2020-03-30", "maintenance"), ("2020-03-31", "salvage")])
def test_a_start_on_the_progression_day_is_salvage(start: str, kind: str) -> None:
    episodes(
        f"""
        codelist     | kind       | patient_id | tier           | event_date
        lenalidomide | medication | ann        | administration | {start}
        """,
        f"kind\n{kind}",
        progression="patient_id | progression_day\nann | 90",
    )


def test_without_unless_progressed_a_start_after_progression_is_maintenance() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier           | event_date
        lenalidomide | medication | ann        | administration | 2020-06-01
        """,
        "kind\nmaintenance",
        progression="patient_id | progression_day\nann | 90",
        protocol="unless_progressed\nfalse",
    )


VAGUE_START = """
codelist     | kind       | patient_id | tier           | event_date | first_day  | last_day
lenalidomide | medication | ann        | administration |            | 2020-03-01 | 2020-03-31
"""
LATEST_DAY = "start_without_day\nlatest_day"


def test_where_the_protocol_excludes_a_start_without_a_day_the_record_is_no_start() -> None:
    episodes(VAGUE_START, "kind")


def test_a_start_without_a_day_can_be_its_latest_possible_day() -> None:
    episodes(VAGUE_START, "start_day | end_day | kind\n90 | 90 | maintenance", protocol=LATEST_DAY)
    earlier = VAGUE_START + "lenalidomide | medication | ann | administration | 2020-03-20 | |"
    episodes(earlier, "start_day | n_records\n79 | 2", protocol=LATEST_DAY)


def test_a_record_on_no_known_date_is_no_start_by_any_rule() -> None:
    undated = "codelist | kind | patient_id | tier\nlenalidomide | medication | ann | administration"
    episodes(undated, "kind", protocol=LATEST_DAY)


@pytest.mark.parametrize(
    ("death", "start_day"), [("2020-03-11", "70"), ("2020-04-11", "90"), ("2020-02-11", "90")]
)
def test_the_latest_possible_day_of_a_start_is_no_later_than_death_in_the_same_month(
    death: str, start_day: str
) -> None:
    episodes(
        VAGUE_START,
        f"start_day\n{start_day}",
        protocol=LATEST_DAY,
        death=f"patient_id | death_date\nann | {death}",
    )


def undated_start(
    expected: str,
    *,
    period: str = "2020-03-01 | 2020-03-31",
    tier: str = "administration",
    known: str = "",
    progression: str = "",
    protocol: str = PROTOCOL,
) -> None:
    run(
        "cohort.undated_start",
        {
            "study.protocol": protocol,
            "study.exposure_tier": "tier\nadministration",
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": f"""
            codelist     | kind       | patient_id | tier           | event_date | first_day | last_day
            lenalidomide | medication | ann        | {tier}         |            | {period}
            lenalidomide | medication | ann        | administration | {known or "2019-12-31"} | |
            """,
            "cohort.progression": f"patient_id | progression_day\nann | {progression}",
        },
        expected,
    )


MARCH = "patient_id | earliest_day | latest_day\nann | 60 | 90"
NOBODY = "patient_id"


def test_a_first_record_after_index_known_to_the_month_leaves_the_start_without_a_day() -> None:
    undated_start(MARCH)
    undated_start(MARCH, known="2020-04-30")
    undated_start(MARCH, known="2020-03-02")


def test_a_start_known_to_the_day_before_the_vague_record_is_the_start() -> None:
    undated_start(NOBODY, known="2020-02-29")
    undated_start(NOBODY, known="2020-03-01")


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("2019-12-01 | 2019-12-31", NOBODY),
        ("2020-01-01 | 2020-01-31", "earliest_day | latest_day\n0 | 30"),
        ("2019-12-10 | 2020-01-01", "earliest_day | latest_day\n0 | 0"),
        (" | ", NOBODY),  # no date at all says nothing of the order
    ],
)
def test_a_vague_record_counts_if_it_may_lie_on_or_after_index(period: str, expected: str) -> None:
    undated_start(expected, period=period)


def test_a_vague_record_that_is_salvage_or_of_no_counted_tier_leaves_no_start_open() -> None:
    undated_start(NOBODY, tier="request")
    undated_start(NOBODY, progression="60")
    undated_start(MARCH, progression="61")
    undated_start(MARCH, progression="60", protocol="unless_progressed\nfalse")


def intercurrent(records: str, expected: str, codelist: str = "transplant") -> None:
    run(
        "cohort.intercurrent_event",
        {
            "study.protocol": PROTOCOL,
            "study.intercurrent_event": f"event | codelist | handling\nnext | {codelist} | composite",
            "study.intercurrent_source": "event | source\nnext | procedure\nnext | medication",
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": records,
        },
        expected,
    )


def test_an_intercurrent_event_is_the_first_after_the_index_day() -> None:
    intercurrent(
        """
        codelist   | kind       | patient_id | event_date
        transplant | procedure  | ann        | 2020-01-01
        transplant | procedure  | ann        | 2020-03-01
        transplant | medication | ann        | 2020-02-01
        transplant | condition  | ann        | 2020-01-15
        """,
        """
        event | patient_id | event_date | event_day | handling
        next  | ann        | 2020-02-01 | 31        | composite
        """,
    )


def test_a_second_index_treatment_is_one_outside_the_days_of_the_first() -> None:
    intercurrent(
        """
        codelist | kind      | patient_id | event_date
        car_t    | procedure | ann        | 2020-01-15
        car_t    | procedure | ann        | 2020-01-16
        """,
        "event_day\n15",
        codelist="car_t",
    )
