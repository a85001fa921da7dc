"""The rules of response and progression, known to the day or not."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"

STATUS_LISTS = """
codelist    | system | code
response    | snomed | 268910001
response    | snomed | 260415000
progression | snomed | 271299001
"""


def disease_status(answers: str, values: str, expected: str) -> None:
    run(
        "cohort.disease_status",
        {
            "study.protocol": PROTOCOL,
            "study.codelist": STATUS_LISTS,
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": answers,
            "staging.observation_value": values,
        },
        expected,
    )


def test_disease_status_is_read_off_the_codes_of_the_answers() -> None:
    disease_status(
        """
        codelist       | kind        | patient_id | event_id | event_date
        disease_status | observation | ann        | before   | 2019-12-01
        disease_status | observation | ann        | better   | 2020-01-29
        disease_status | observation | ann        | stable   | 2020-02-29
        disease_status | observation | ann        | worse    | 2020-03-31
        disease_status | observation | ann        | silent   | 2020-04-30
        disease_status | observation | ann        | undated  |
        ldh            | observation | ann        | other    | 2020-05-01
        """,
        """
        observation_id | system | code
        before         | snomed | 271299001
        better         | snomed | 268910001
        stable         | snomed | 359746009
        worse          | snomed | 271299001
        undated        | snomed | 271299001
        other          | snomed | 271299001
        """,
        """
        patient_id | status_date | status_day | earliest_day | latest_day | status
        ann        | 2019-12-01  | -31        | -31          | -31        | progressed
        ann        | 2020-01-29  | 28         | 28           | 28         | responding
        ann        | 2020-02-29  | 59         | 59           | 59         | other
        ann        | 2020-03-31  | 90         | 90           | 90         | progressed
        ann        |             |            |              |            | progressed
        """,
    )


def test_a_status_known_to_the_month_has_its_first_and_last_possible_day() -> None:
    disease_status(
        """
        codelist       | kind        | patient_id | event_id | first_day  | last_day
        disease_status | observation | ann        | worse    | 2020-03-01 | 2020-03-31
        disease_status | observation | ann        | better   | 2020-03-01 | 2020-03-31
        disease_status | observation | ann        | stable   | 2020-01-01 | 2020-12-31
        """,
        """
        observation_id | system | code
        worse          | snomed | 271299001
        better         | snomed | 268910001
        stable         | snomed | 359746009
        """,
        """
        patient_id | status_date | status_day | earliest_day | latest_day | status
        ann        |             |            | 60           | 90         | progressed
        ann        |             |            | 0            | 365        | other
        """,
    )


def test_on_one_day_progressed_wins_over_responding() -> None:
    disease_status(
        """
        codelist       | kind        | patient_id | event_id | event_date
        disease_status | observation | ann        | better   | 2020-01-29
        disease_status | observation | ann        | worse    | 2020-01-29
        """,
        "observation_id | system | code\nbetter | snomed | 268910001\nworse | snomed | 271299001",
        "patient_id | status_day | status\nann | 28 | progressed",
    )


def progression(statuses: str, expected: str, death: str | None = None) -> None:
    given = {
        "cohort.index_event": "patient_id | index_date\nann | 2020-01-01\nbob | 2020-01-01",
        "cohort.disease_status": statuses,
    }
    if death:
        given["cohort.death"] = f"patient_id | death_date\nann | {death}"
    run("cohort.progression", given, expected)


def test_progression_is_the_first_one_after_the_index_day() -> None:
    progression(
        """
        patient_id | status_date | earliest_day | latest_day | status
        ann        | 2019-12-01  | -31          | -31        | progressed
        ann        | 2020-01-01  | 0            | 0          | progressed
        ann        | 2020-03-31  | 90           | 90         | progressed
        ann        | 2020-04-30  | 120          | 120        | progressed
        bob        | 2020-03-31  | 90           | 90         | responding
        """,
        """
        patient_id | progression_date | progression_day
        ann        | 2020-03-31       | 90
        """,
    )


@pytest.mark.parametrize(
    ("earliest", "latest", "day"),
    [
        ("60", "90", "90"),  # known to the month: progressed by its end
        ("1", "30", "30"),
        ("0", "30", None),  # can be the disease the index treatment was given for
        ("-31", "-1", None),
        ("", "", None),  # on no known date
    ],
)
def test_a_vague_progression_surely_after_index_counts_from_its_last_possible_day(
    earliest: str, latest: str, day: str | None
) -> None:
    progression(
        f"""
        patient_id | earliest_day | latest_day | status
        ann        | {earliest}   | {latest}   | progressed
        """,
        f"progression_date | progression_day\n| {day}" if day else "progression_day",
    )


def test_of_a_vague_and_a_known_progression_the_one_sure_first_counts() -> None:
    both = """
    patient_id | status_date  | earliest_day | latest_day | status
    ann        |              | 60           | 90         | progressed
    ann        | 2020-03-{d}  | {day}        | {day}      | progressed
    """
    sure = "progression_date | progression_day\n"
    progression(both.format(d="21", day="80"), sure + "2020-03-21 | 80")
    progression(both.format(d="31", day="90"), sure + "2020-03-31 | 90")
    progression(both.replace("2020-03-{d}", "2020-04-10").format(day="100"), sure + "| 90")


def test_a_vague_progression_comes_no_later_than_death_in_the_same_month() -> None:
    vague = "patient_id | earliest_day | latest_day | status\nann | 60 | 90 | progressed"
    progression(vague, "progression_day\n70", death="2020-03-11")
    progression(vague, "progression_day\n90", death="2020-04-11")
