"""The rules of measured values: window, unit, nearness to index, several on one day."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.sql.drawn import run

ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"


def measured_value(records: str, values: str, expected: str, asked: str = "-30 | 0 |") -> None:
    run(
        "cohort.measured_value",
        {
            "study.covariate": f"""
            kind        | covariate | codelist | from_day | to_day | unit
            observation | ldh       | ldh      | {asked}
            """,
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": records,
            "staging.observation": values,
        },
        expected,
    )


def test_a_value_counts_inside_its_window_or_follows_a_covariate_after_index_if_it_is_a_number() -> None:
    measured_value(
        """
        codelist | kind        | patient_id | event_id | event_date
        ldh      | observation | ann        | first    | 2019-12-02
        ldh      | observation | ann        | too_old  | 2019-12-01
        ldh      | observation | ann        | too_late | 2020-01-02
        ldh      | observation | ann        | no_value | 2020-01-01
        ldh      | observation | ann        | vague    |
        """,
        """
        observation_id | value_number | value_comparator
        first          | 100          | <
        too_old        | 200          |
        too_late       | 300          |
        no_value       |              |
        vague          | 400          |
        """,
        """
        name | purpose   | event_id | value_number | value_comparator | observed_day | is_in_window
        ldh  | covariate | first    | 100.0        | <                | -30          | true
        ldh  | covariate | too_late | 300.0        |                  | 1            | false
        """,
    )


def test_an_open_window_reaches_over_the_whole_record() -> None:
    measured_value(
        "codelist | kind | patient_id | event_id | event_date\nldh | observation | ann | old | 1990-01-01",
        "observation_id | value_number\nold | 100",
        "value_number\n100.0",
        asked=" | |",
    )


@pytest.mark.parametrize(
    ("asked", "recorded", "is_counted"),
    [
        ("U/L", "U/L", True),
        ("U/L", "ukat/L", True),  # 1 katal is 60 million U
        ("U/L", "IU/L", False),  # international units are each of their own
        ("U/L", "g/L", False),
        ("mg/dL", "mg/dl", True),
        ("10*9/L", "K/uL", True),
        ("10*9/L", "x10E3/uL", True),
        ("g/dL", "gm/dl", True),
        ("mmol/L", "mEq/L", False),  # it takes the charge of the ion
        ("mmol/L", "mg/dL", False),  # it takes the molar mass
        ("U/L", "u/l", False),  # UCUM codes keep their case
        ("U/L", "", False),
        ("", "ukat/L", True),
        ("", "", True),
    ],
)
def test_a_value_in_another_unit_than_the_protocols_does_not_count(
    asked: str, recorded: str, is_counted: bool
) -> None:
    measured_value(
        "codelist | kind | patient_id | event_id | event_date\nldh | observation | ann | x | 2019-12-31",
        f"observation_id | value_number | value_unit\nx | 4.2 | {recorded}",
        f"event_id | recorded_unit | is_counted\nx | {recorded} | {str(is_counted).lower()}",
        asked=f"-30 | 0 | {asked}",
    )


def test_a_criterion_has_a_unit_of_its_own() -> None:
    run(
        "cohort.measured_value",
        {
            "study.criterion": """
            kind        | criterion | codelist | unit
            observation | in_units  | ldh      | U/L
            observation | in_katals | ldh      | ukat/L
            """,
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": "codelist | kind | patient_id | event_id | event_date\n"
            "ldh | observation | ann | x | 2019-12-31",
            "staging.observation": "observation_id | value_number | value_unit\nx | 4.2 | ukat/L",
        },
        """
        purpose   | name      | is_counted | value_number | value_unit | recorded_number
        criterion | in_units  | true       | 252.0        | U/L        | 4.2
        criterion | in_katals | true       | 4.2          | ukat/L     | 4.2
        """,
    )


def observed_value(values: str, expected: str) -> None:
    run("cohort.observed_value", {"cohort.measured_value": values}, expected)


def test_the_value_nearest_to_index_counts_and_of_two_days_equally_near_the_later() -> None:
    observed_value(
        """
        purpose   | name | patient_id | value_number | observed_day
        covariate | ldh  | ann        | 100          | -5
        covariate | ldh  | ann        | 200          | -3
        covariate | ldh  | ann        | 300          | 3
        covariate | ldh  | bob        | 400          | -9
        criterion | ldh  | ann        | 500          | -4
        """,
        """
        purpose   | name | patient_id | value_number | n_values | observed_day
        covariate | ldh  | ann        | 300.0        | 1        | 3
        covariate | ldh  | bob        | 400.0        | 1        | -9
        criterion | ldh  | ann        | 500.0        | 1        | -4
        """,
    )


@pytest.mark.parametrize("values", list(permutations(("0.1", "0.3", "0.7"))))
def test_of_several_values_of_one_day_their_mean_counts_in_whatever_order(values: tuple[str, ...]) -> None:
    first, second, third = values
    observed_value(
        f"""
        name | patient_id | event_id | value_number | observed_day
        ldh  | ann        | a        | {first}      | -1
        ldh  | ann        | b        | {second}     | -1
        ldh  | ann        | c        | {third}      | -1
        ldh  | ann        | older    | 9            | -2
        """,
        # 1.1 / 3; added up as doubles in another order, the last digits are 64.
        "value_number | n_values | observed_day\n0.3666666666666667 | 3 | -1",
    )


def test_values_of_one_day_that_are_alike_are_that_value_to_the_last_digit() -> None:
    observed_value(
        """
        name | patient_id | event_id | value_number        | observed_day
        ldh  | ann        | a        | 0.12345678901234568 | -1
        ldh  | ann        | b        | 0.12345678901234568 | -1
        ldh  | ann        | c        | 0.12345678901234568 | -1
        """,
        "value_number | n_values\n0.12345678901234568 | 3",
    )


def test_a_number_beyond_all_measure_stops_no_build() -> None:
    observed_value(
        """
        name | patient_id | event_id | value_number | observed_day
        ldh  | ann        | a        | 1e300        | -1
        ldh  | ann        | b        | 3e300        | -1
        """,
        "value_number\n2e+300",
    )


def test_what_does_not_count_gives_way_to_a_value_further_from_index() -> None:
    observed_value(
        """
        name | patient_id | value_number | observed_day | is_counted
        ldh  | ann        | 4.2          | -1           | false
        ldh  | ann        | 250          | -9           | true
        ldh  | bob        | 4.2          | -1           | false
        """,
        "patient_id | value_number | observed_day\nann | 250.0 | -9",
    )
