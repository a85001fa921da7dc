"""Measured covariates over time: what changes them after index, and what they are before."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

SURVIVAL = "patient_id | time_days\nann | 400\nbob | 400\ncat | 400\ndan | 90"
LDH = "covariate | kind | transform\nldh | observation | none"


def changes(values: str, expected: str, baseline: str = "", covariate: str = LDH) -> None:
    """`values` are after index; so is everything of cohort.measured_value that is in no window."""
    header, *rows = [line.strip() for line in values.strip().splitlines()]
    after = "\n".join(
        [f"{header} | name | purpose | is_in_window", *(f"{r} | ldh | covariate | false" for r in rows)]
    )
    run(
        "cohort.covariate_change",
        {
            "study.covariate": covariate,
            "cohort.survival": SURVIVAL,
            "cohort.baseline": baseline or "patient_id | covariate | value\nann | ldh | 200",
            "cohort.measured_value": after,
        },
        expected,
    )


def test_only_a_value_that_differs_from_the_one_before_changes_a_covariate() -> None:
    changes(
        """
        patient_id | observed_day | value_number
        ann        | 10           | 200
        ann        | 30           | 310
        ann        | 60           | 310
        ann        | 90           | 200
        """,
        "patient_id | covariate | day | value\nann | ldh | 30 | 310.0\nann | ldh | 90 | 200.0",
    )


def test_the_first_value_after_index_makes_a_missing_one_known() -> None:
    changes(
        """
        patient_id | observed_day | value_number
        bob        | 30           | 310
        cat        | 30           | 310
        """,
        "patient_id | day | value\nbob | 30 | 310.0\ncat | 30 | 310.0",
        baseline="patient_id | covariate | value\nbob | ldh |\ncat | other | 310",
    )


def test_of_several_values_of_one_day_their_mean_counts_as_at_index() -> None:
    changes(
        """
        patient_id | event_id | observed_day | value_number
        ann        | a        | 30           | 0.1
        ann        | b        | 30           | 0.3
        ann        | c        | 30           | 0.7
        bob        | d        | 30           | 0.12345678901234568
        bob        | e        | 30           | 0.12345678901234568
        """,
        "patient_id | day | value\nann | 30 | 0.3666666666666667\nbob | 30 | 0.12345678901234568",
    )


def test_a_value_at_index_or_on_the_last_day_or_later_or_in_another_unit_changes_nothing() -> None:
    changes(
        """
        patient_id | observed_day | value_number | is_counted
        dan        | 0            | 310          | true
        dan        | 89           | 320          | true
        dan        | 90           | 330          | true
        dan        | 91           | 340          | true
        dan        | 30           | 350          | false
        eve        | 30           | 360          | true
        """,
        "patient_id | day | value\ndan | 89 | 320.0",
    )


@pytest.mark.parametrize(
    ("transform", "recorded", "value"),
    [
        ("log", "1", "0.0"),
        ("log", "0", None),
        ("log1p", "0", "0.0"),
        ("log1p", "-1", None),
        ("none", "0", "0.0"),
    ],
)
def test_a_value_is_transformed_as_at_index_and_what_has_no_logarithm_changes_nothing(
    transform: str, recorded: str, value: str | None
) -> None:
    expected = "patient_id | day | value\n" + (f"bob | 30 | {value}\n" if value else "")
    changes(
        f"patient_id | observed_day | value_number\nbob | 30 | {recorded}",
        expected,
        covariate=f"covariate | kind | transform\nldh | observation | {transform}",
    )


def test_a_value_without_a_logarithm_stands_between_two_that_are_alike_and_neither_changes() -> None:
    """The last known value goes on: there is no change back from what was never known."""
    changes(
        """
        patient_id | observed_day | value_number
        bob        | 30           | 1
        bob        | 40           | 0
        bob        | 50           | 1
        """,
        "patient_id | day | value\nbob | 30 | 0.0",
        covariate="covariate | kind | transform\nldh | observation | log",
    )


def test_a_criterion_of_the_same_name_is_no_covariate() -> None:
    run(
        "cohort.covariate_change",
        {
            "study.covariate": LDH,
            "cohort.survival": SURVIVAL,
            "cohort.measured_value": "name | purpose | patient_id | observed_day | value_number\n"
            "ldh | criterion | ann | 30 | 310",
        },
        "patient_id | day",
    )


@pytest.mark.parametrize(
    ("transform", "recorded", "before_first", "value"),
    [
        ("none", "", "0", "0.0"),
        ("log1p", "", "0", "0.0"),
        ("none", "5", "0", "5.0"),
        ("log", "1", "7", "0.0"),
        ("log1p", "", "", None),
    ],
)
def test_before_the_first_value_a_followed_covariate_is_what_the_protocol_says(
    transform: str, recorded: str, before_first: str, value: str | None
) -> None:
    seen = f"ann | copies | covariate | {recorded} | 0" if recorded else "bob | copies | covariate | 5 | 0"
    run(
        "cohort.baseline",
        {
            "study.covariate": "covariate | kind | transform | before_first\n"
            f"copies | observation | {transform} | {before_first}",
            "cohort.demographic": "patient_id | index_date\nann | 2020-01-01",
            "cohort.observed_value": f"patient_id | name | purpose | value_number | observed_day\n{seen}",
        },
        f"patient_id | value | is_missing\nann | {value or ''} | {'false' if value else 'true'}",
    )


COVARIATES = """
covariate | kind           | over_time
copies    | observation    | true
ldh       | observation    | false
remission | disease_status | true
"""
CHANGES = """
patient_id | covariate | day | value
ann        | copies    | 30  | 9
ann        | ldh       | 40  | 310
ann        | remission | 60  | 1
"""


def test_the_counting_process_is_cut_only_where_something_that_is_followed_changes() -> None:
    run(
        "cohort.person_period",
        {
            "study.covariate": COVARIATES,
            "cohort.survival": "patient_id | time_days | is_event\nann | 100 | true",
            "cohort.covariate_change": CHANGES,
        },
        "start_day | stop_day\n0 | 30\n30 | 60\n60 | 100",
    )


def test_in_a_period_before_its_first_change_a_measured_value_is_that_at_index() -> None:
    run(
        "cohort.person_period_covariate",
        {
            "study.covariate": COVARIATES,
            "cohort.person_period": "patient_id | period_number | start_day\n"
            "ann | 1 | 0\nann | 2 | 30\nbob | 1 | 0",
            "cohort.covariate_change": CHANGES,
            "cohort.baseline": "patient_id | covariate | value\nann | copies | 4\nann | ldh | 200",
        },
        """
        patient_id | period_number | covariate | value
        ann        | 1             | copies    | 4.0
        ann        | 2             | copies    | 9.0
        ann        | 1             | remission | 0.0
        ann        | 2             | remission | 0.0
        bob        | 1             | copies    |
        bob        | 1             | remission | 0.0
        """,
    )
