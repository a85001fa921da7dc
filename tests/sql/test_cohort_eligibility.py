"""Who is eligible, step by step, and how the attrition counts them."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"

STEPS = """
step_number | step      | kind      | criterion
1           | criterion | criterion | criterion
"""


def criterion(rule: str, given: dict[str, str], is_met: bool) -> None:
    run(
        "cohort.eligibility",
        {
            "study.protocol": PROTOCOL,
            "study.step": STEPS,
            "study.criterion": rule,
            "cohort.index_event": ANN_INDEX,
            **given,
        },
        f"patient_id | step | is_met\nann | criterion | {str(is_met).lower()}",
    )


@pytest.mark.parametrize(
    ("age", "is_met"), [("17.99", False), ("18", True), ("75", True), ("75.01", False), ("", False)]
)
def test_age_bounds_are_inclusive_and_an_unknown_age_is_not_eligible(age: str, is_met: bool) -> None:
    criterion(
        "criterion | kind | min_value | max_value\ncriterion | age_at_index | 18 | 75",
        {"cohort.demographic": f"patient_id | age_years\nann | {age}"},
        is_met,
    )


@pytest.mark.parametrize(
    ("first_day", "last_day", "is_met"),
    [
        ("2020-01-01", "2020-01-01", True),
        ("2020-01-02", "2020-01-02", False),
        ("2019-12-02", "2019-12-02", True),
        ("2019-12-01", "2019-12-01", False),
        ("2019-12-02", "2019-12-31", True),
        ("2019-12-01", "2019-12-31", False),
        ("", "", False),
    ],
)
def test_an_event_must_surely_lie_in_its_window(first_day: str, last_day: str, is_met: bool) -> None:
    recorded = {
        "cohort.codelist_match": f"""
        codelist | kind      | patient_id | first_day   | last_day
        dlbcl    | condition | ann        | {first_day} | {last_day}
        """
    }
    rule = """
    criterion | kind      | codelist | from_day | to_day | must_be_present
    criterion | condition | dlbcl    | -30      | 0      | {present}
    """
    criterion(rule.format(present="true"), recorded, is_met)
    criterion(rule.format(present="false"), recorded, not is_met)


def test_an_event_of_another_kind_does_not_meet_a_criterion() -> None:
    criterion(
        """
        criterion | kind      | codelist | from_day | to_day | must_be_present
        criterion | procedure | dlbcl    |          | 0      | true
        """,
        {
            "cohort.codelist_match": """
            codelist | kind      | patient_id | first_day  | last_day
            dlbcl    | condition | ann        | 2019-12-02 | 2019-12-02
            """
        },
        False,
    )


@pytest.mark.parametrize(("value", "is_met"), [("1.9", False), ("2", True), ("4", True), ("4.1", False)])
def test_value_bounds_are_inclusive(value: str, is_met: bool) -> None:
    criterion(
        "criterion | kind | min_value | max_value\ncriterion | observation | 2 | 4",
        {
            "cohort.observed_value": f"purpose | name | patient_id | value_number\n"
            f"criterion | criterion | ann | {value}"
        },
        is_met,
    )


def test_a_missing_value_does_not_meet_a_criterion() -> None:
    criterion("criterion | kind\ncriterion | observation", {}, False)


@pytest.mark.parametrize(
    ("not_before", "not_after", "is_met"),
    [
        ("2020-01-01", "2020-01-01", True),
        ("2020-01-02", "", False),
        ("", "2019-12-31", False),
        ("", "", True),
    ],
)
def test_the_calendar_period_of_index_is_inclusive(not_before: str, not_after: str, is_met: bool) -> None:
    criterion(
        f"criterion | kind | not_before | not_after\ncriterion | index_period | {not_before} | {not_after}",
        {},
        is_met,
    )


def step(kind: str, given: dict[str, str], is_met: bool, protocol: str = PROTOCOL) -> None:
    tables = {
        "study.protocol": protocol,
        "study.step": f"step_number | step | kind\n1 | {kind} | {kind}",
        "cohort.index_event": ANN_INDEX,
        **given,
    }
    run("cohort.eligibility", tables, f"patient_id | is_met\nann | {str(is_met).lower()}")


@pytest.mark.parametrize(
    ("day", "end_day", "tier", "is_met"),
    [
        ("2019-12-31", "", "administration", False),
        ("2019-07-05", "", "administration", False),
        ("2019-07-04", "", "administration", True),
        ("2019-01-01", "2019-07-05", "administration", False),
        ("2019-01-01", "2019-07-04", "administration", True),
        ("2020-01-01", "", "administration", True),
        ("2019-12-02", "", "request", False),
        ("2019-07-04", "", "request", True),
        ("2020-01-01", "", "request", True),
    ],
)
def test_new_users_had_no_record_of_the_exposure_in_the_washout_of_whatever_tier(
    day: str, end_day: str, tier: str, is_met: bool
) -> None:
    step(
        "new_user",
        {
            "study.exposure_tier": "tier\nadministration",
            "cohort.codelist_match": f"""
            codelist     | kind       | patient_id | tier   | first_day | last_day | end_day
            lenalidomide | medication | ann        | {tier} | {day}     | {day}    | {end_day}
            """,
        },
        is_met,
        protocol="has_washout | washout_days\ntrue | 180",
    )


@pytest.mark.parametrize(
    ("until", "is_met"), [("2020-06-01", False), ("2019-07-05", False), ("2019-07-04", True), ("", True)]
)
def test_what_was_begun_long_before_and_goes_on_reaches_into_the_washout(until: str, is_met: bool) -> None:
    step(
        "new_user",
        {
            "cohort.codelist_match": f"""
            codelist     | kind       | patient_id | tier      | first_day  | last_day   | ongoing_until_date
            lenalidomide | medication | ann        | statement | 2018-11-27 | 2018-11-27 | {until}
            """
        },
        is_met,
        protocol="has_washout | washout_days\ntrue | 180",
    )


def test_a_vague_exposure_surely_before_index_and_possibly_in_the_washout_excludes() -> None:
    step(
        "new_user",
        {
            "study.exposure_tier": "tier\nadministration",
            "cohort.codelist_match": """
            codelist     | kind       | patient_id | tier           | first_day  | last_day
            lenalidomide | medication | ann        | administration | 2019-01-01 | 2019-12-31
            """,
        },
        False,
        protocol="has_washout | washout_days\ntrue | 180",
    )


def test_a_washout_without_days_reaches_over_the_whole_record() -> None:
    step(
        "new_user",
        {
            "study.exposure_tier": "tier\nadministration",
            "cohort.codelist_match": """
            codelist     | kind       | patient_id | tier           | first_day  | last_day
            lenalidomide | medication | ann        | administration | 1999-01-01 | 1999-12-31
            """,
        },
        False,
        protocol="has_washout | washout_days\ntrue |",
    )


def test_a_death_before_index_excludes_and_one_on_the_index_day_does_not() -> None:
    rule = "death_not_before_index"
    step(rule, {"cohort.death": "patient_id | death_date\nann | 2019-12-31"}, False)
    step(rule, {"cohort.death": "patient_id | death_date\nann | 2020-01-01"}, True)
    step(rule, {}, True)


def test_a_death_to_which_the_rules_give_no_day_excludes() -> None:
    step("death_day_known", {"cohort.death": "patient_id | death_date\nann |"}, False)
    step("death_day_known", {"cohort.death": "patient_id | death_date\nann | 2020-02-01"}, True)
    step("death_day_known", {}, True)


def test_a_first_start_without_a_day_excludes_where_the_protocol_says_so() -> None:
    step("start_day_known", {"cohort.undated_start": "patient_id\nann"}, False)
    step("start_day_known", {"cohort.undated_start": "patient_id\nbob"}, True)


def test_whoever_has_no_patient_record_or_no_index_day_is_excluded() -> None:
    step("patient_known", {}, False)
    step("patient_known", {"cohort.demographic": "patient_id | is_patient_known\nann | true"}, True)
    step("index_day_known", {"cohort.index_event": "patient_id | index_date\nann |"}, False)


def test_an_index_event_after_the_data_cut_off_is_not_known_at_it() -> None:
    step("index_before_cutoff", {}, False, protocol="data_cutoff\n2019-12-31")
    step("index_before_cutoff", {}, True, protocol="data_cutoff\n2020-01-01")


def test_attrition_counts_a_patient_at_the_first_step_that_excludes() -> None:
    run(
        "cohort.attrition",
        {
            "study.step": "step_number | step\n1 | index_event\n2 | adult\n3 | dlbcl\n4 | analysed",
            "cohort.eligibility": """
            patient_id | step_number | is_met
            ann        | 1           | true
            ann        | 2           | true
            ann        | 3           | true
            ann        | 4           | true
            bob        | 1           | true
            bob        | 2           | false
            bob        | 3           | false
            bob        | 4           | true
            cat        | 1           | true
            cat        | 2           | true
            cat        | 3           | false
            cat        | 4           | true
            """,
        },
        """
        step_number | step        | n_before | n_excluded | n_after
        1           | index_event | 3        | 0          | 3
        2           | adult       | 3        | 1          | 2
        3           | dlbcl       | 2        | 1          | 1
        4           | analysed    | 1        | 0          | 1
        """,
    )


def test_attrition_of_a_study_without_patients_is_zeros() -> None:
    run(
        "cohort.attrition",
        {"study.step": "study | step_number | step\nt | 1 | index_event"},
        "study | n_before | n_excluded | n_after\nt | 0 | 0 | 0",
    )
