"""Toxicity, expansion of the infused cells, response, strategy, and the counting process."""

# ruff: noqa: E501 - drawn tables are as wide as they must be

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"


def toxicity(event: str, values: str, expected: str) -> None:
    header, *rows = [line.strip() for line in values.strip().splitlines()]
    matches = "\n".join(f"x | observation | ann | {r.split('|')[0]} | {r.split('|')[1]}" for r in rows)
    run(
        "cohort.toxicity",
        {
            "study.toxicity": f"toxicity | adverse_event | codelist\ntox | {event} | x",
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": f"codelist | kind | patient_id | event_id | event_date\n{matches}",
            "staging.observation": "\n".join([header.replace("day", "observed_day"), *rows]),
        },
        expected,
    )


@pytest.mark.parametrize(
    ("event", "value", "unit", "low", "grade"),
    [
        # CTCAE v5.0: grade 1 below normal, 2 below 1.5, 3 below 1.0, 4 below 0.5 · 10⁹/L.
        ("neutropenia", "2.0", "10*9/L", "1.8", "0"),
        ("neutropenia", "1.8", "10*9/L", "1.8", "0"),
        ("neutropenia", "1.7", "10*9/L", "1.8", "1"),
        ("neutropenia", "1.7", "10*9/L", "", ""),  # 0 or 1: the lower limit of normal is not recorded
        ("neutropenia", "1.5", "10*9/L", "", ""),
        ("neutropenia", "1.49", "10*9/L", "", "2"),
        ("neutropenia", "0.99", "10*9/L", "", "3"),
        ("neutropenia", "0.5", "10*9/L", "", "3"),
        ("neutropenia", "0.49", "10*9/L", "", "4"),
        # Below 75, 50 and 25 · 10⁹/L.
        ("thrombocytopenia", "75", "10*9/L", "150", "1"),
        ("thrombocytopenia", "74", "10*9/L", "", "2"),
        ("thrombocytopenia", "49", "10*9/L", "", "3"),
        ("thrombocytopenia", "24", "10*9/L", "", "4"),
        # Below 100 and 80 g/L, or 6.2 and 4.9 mmol/L; there is no grade 4 by a value.
        ("anaemia", "110", "g/L", "120", "1"),
        ("anaemia", "99", "g/L", "", "2"),
        ("anaemia", "20", "g/L", "", "3"),
        ("anaemia", "6.1", "mmol/L", "", "2"),
        ("anaemia", "4.8", "mmol/L", "", "3"),
    ],
)
def test_a_laboratory_value_has_its_grade_by_ctcae(
    event: str, value: str, unit: str, low: str, grade: str
) -> None:
    toxicity(
        event,
        f"""
        observation_id | day | canonical_number | canonical_unit | reference_low
        x1 | 2020-01-11 | {value} | {unit} | {low}
        """,
        f"adverse_event | day | grade | value_unit | n_values\n{event} | 10 | {grade} | {unit} | 1",
    )


def test_the_worst_value_of_a_day_counts_and_what_lies_before_index_or_in_another_unit_does_not() -> None:
    toxicity(
        "neutropenia",
        """
        observation_id | day        | canonical_number | canonical_unit | value_comparator
        before         | 2019-12-31 | 0.1              | 10*9/L         |
        index          | 2020-01-01 | 1.2              | 10*9/L         |
        morning        | 2020-01-02 | 1.2              | 10*9/L         |
        evening        | 2020-01-02 | 0.7              | 10*9/L         |
        bound          | 2020-01-03 | 0.5              | 10*9/L         | <
        at_bound       | 2020-01-04 | 0.5              | 10*9/L         |
        other          | 2020-01-05 | 0.1              | g/L            |
        """,
        """
        day | grade | value_number | n_values
        0   | 2     | 1.2          | 1
        1   | 3     | 0.7          | 2
        2   | 4     | 0.5          | 1
        3   | 3     | 0.5          | 1
        """,
    )


def copies_by_day(values: str, expected: str) -> None:
    header, *rows = [line.strip() for line in values.strip().splitlines()]
    matches = "\n".join(f"x | observation | ann | {r.split('|')[0]} | {r.split('|')[1]}" for r in rows)
    run(
        "cohort.copies_by_day",
        {
            "study.cart_copies": "codelist | unit\nx | {copies}/ug",
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": f"codelist | kind | patient_id | event_id | event_date\n{matches}",
            "staging.observation": "\n".join([header.replace("day", "observed_day"), *rows]),
        },
        expected,
    )


def test_copies_are_a_days_mean_in_the_protocols_unit_from_index_on_and_0_below_a_bound() -> None:
    copies_by_day(
        """
        observation_id | day        | value_number | value_unit  | value_comparator
        before         | 2019-12-31 | 999          | {copies}/ug |
        at_index       | 2020-01-01 | 8            | {copies}/ug |
        twice          | 2020-01-08 | 100          | copies/ug   |
        again          | 2020-01-08 | 300          | copies/µg   |
        gone           | 2020-01-15 | 25           | {copies}/ug | <
        per_nanogram   | 2020-01-18 | 5            | {copies}/ng |
        other          | 2020-01-20 | 7            | g/L         |
        negative       | 2020-01-21 | -1           | {copies}/ug |
        """,
        """
        patient_id | day | copies | copies_unit | n_values
        ann        | 0   | 8.0    | {copies}/ug | 1
        ann        | 7   | 200.0  | {copies}/ug | 2
        ann        | 14  | 0.0    | {copies}/ug | 1
        ann        | 17  | 5000.0 | {copies}/ug | 1
        """,
    )


def cart_copies(days: str, expected: str) -> None:
    run("cohort.cart_copies", {"cohort.copies_by_day": days}, expected)


def test_the_area_is_by_trapezoids_from_nothing_on_day_0_and_cut_at_day_28() -> None:
    # 0→100 over 10 days: 500; 100→60 over 10: 800; 60→20 over 20 days, of which 8 (60→44): 416.
    cart_copies(
        """
        patient_id | day | copies | copies_unit
        ann        | 10  | 100    | {copies}/ug
        ann        | 20  | 60     | {copies}/ug
        ann        | 40  | 20     | {copies}/ug
        """,
        """
        patient_id | copies_unit | n_days | peak_copies | peak_day | auc_0_28 | last_detectable_day | last_measured_day
        ann        | {copies}/ug | 3      | 100.0       | 10       | 1716.0   | 40                  | 40
        """,
    )


def test_an_area_that_is_not_measured_to_day_28_is_none() -> None:
    cart_copies(
        """
        patient_id | day | copies
        ann        | 0   | 8
        ann        | 7   | 200
        ann        | 14  | 0
        """,
        """
        n_days | peak_copies | peak_day | auc_0_28 | last_detectable_day | last_measured_day
        3      | 200.0       | 7        |          | 7                   | 14
        """,
    )


def test_cells_that_were_never_seen_have_an_area_of_0_and_no_last_day() -> None:
    cart_copies(
        "patient_id | day | copies\nann | 28 | 0",
        "peak_copies | peak_day | auc_0_28 | last_detectable_day\n0.0 | 28 | 0.0 |",
    )


def test_response_is_a_period_of_one_status_and_a_progression_after_a_response_is_a_relapse() -> None:
    run(
        "cohort.response",
        {
            "cohort.disease_status": """
            patient_id | status_day | status
            ann        | -5         | responding
            ann        | 30         | responding
            ann        | 60         | responding
            ann        | 90         | other
            ann        | 120        | progressed
            ann        |            | progressed
            ann        | 150        | responding
            bob        | 0          | responding
            bob        | 20         | progressed
            """
        },
        """
        patient_id | response_number | status     | from_day | until_day | is_relapse
        ann        | 1               | responding | 30       | 90        | false
        ann        | 2               | other      | 90       | 120       | false
        ann        | 3               | progressed | 120      | 150       | true
        ann        | 4               | responding | 150      |           | false
        bob        | 1               | progressed | 20       |           | false
        """,
    )


@pytest.mark.parametrize(
    ("start", "salvage", "progression", "time", "kind", "strategy", "known", "treated", "control"),
    [
        ("180", "", "", "400", "within_grace", "maintenance", "180", "", "180"),
        ("0", "", "", "0", "within_grace", "maintenance", "0", "", "0"),
        ("181", "", "", "400", "after_grace", "no_maintenance", "180", "180", ""),
        ("", "", "", "181", "never", "no_maintenance", "180", "180", ""),
        ("", "", "", "180", "never", "", "", "", ""),  # ended in the grace period: in keeping with both
        ("", "150", "100", "400", "salvage", "no_maintenance", "180", "", ""),  # progressed first: excused
        ("", "250", "200", "400", "salvage", "no_maintenance", "180", "180", ""),
    ],
)
def test_a_strategy_is_known_at_the_start_or_at_the_end_of_the_grace_period(
    start: str,
    salvage: str,
    progression: str,
    time: str,
    kind: str,
    strategy: str,
    known: str,
    treated: str,
    control: str,
) -> None:
    run(
        "cohort.strategy",
        {
            "study.protocol": PROTOCOL,  # 180 days of grace, unless progressed
            "cohort.survival": "patient_id | start_day | salvage_start_day | progression_day | time_days\n"
            f"ann | {start} | {salvage} | {progression} | {time}",
        },
        "start_kind | strategy | known_day | departs_treated_day | departs_control_day\n"
        f"{kind} | {strategy} | {known} | {treated} | {control}",
    )


def test_without_the_rule_of_progression_nobody_is_excused() -> None:
    run(
        "cohort.strategy",
        {
            "study.protocol": "unless_progressed\nfalse",
            "cohort.survival": "patient_id | progression_day | time_days\nann | 100 | 400",
        },
        "departs_treated_day | departs_control_day\n180 |",
    )


SURVIVAL = """
patient_id | site  | time_days | is_event | start_day | salvage_start_day | progression_day
changing   | north | 400       | true     | 60        | 250               | 200
plain      | north | 30        | false    |           |                   |
none       | north | 0         | true     |           |                   |
at_once    | north | 50        | true     | 0         |                   |
at_the_end | north | 50        | true     | 50        |                   |
"""
CHANGES = """
patient_id | covariate  | day | value
changing   | responding | 30  | 1
changing   | responding | 200 | 0
changing   | responding | 400 | 1
changing   | progressed | 200 | 1
"""


def test_the_counting_process_is_cut_where_something_changes_and_holds_from_the_end_of_the_day() -> None:
    run(
        "cohort.person_period",
        {
            "cohort.survival": SURVIVAL,
            "study.covariate": "covariate | over_time\nresponding | true\nprogressed | true",
            "cohort.covariate_change": CHANGES,
        },
        """
        patient_id | period_number | start_day | stop_day | is_event | is_exposed | is_salvage | is_progressed
        changing   | 1             | 0         | 30       | false    | false      | false      | false
        changing   | 2             | 30        | 60       | false    | false      | false      | false
        changing   | 3             | 60        | 200      | false    | true       | false      | false
        changing   | 4             | 200       | 250      | false    | true       | false      | true
        changing   | 5             | 250       | 400      | true     | true       | true       | true
        plain      | 1             | 0         | 30       | false    | false      | false      | false
        none       | 1             | 0         | 0        | true     | false      | false      | false
        at_once    | 1             | 0         | 50       | true     | true       | false      | false
        at_the_end | 1             | 0         | 50       | true     | false      | false      | false
        """,
    )


def test_a_covariate_has_in_a_period_the_value_of_its_last_change_before() -> None:
    run(
        "cohort.person_period_covariate",
        {
            "study.covariate": """
            covariate  | kind           | over_time
            responding | disease_status | true
            age        | age_at_index   | false
            """,
            "cohort.person_period": """
            patient_id | period_number | start_day
            ann        | 1             | 0
            ann        | 2             | 30
            ann        | 3             | 60
            ann        | 4             | 200
            bob        | 1             | 0
            """,
            "cohort.covariate_change": """
            patient_id | covariate  | day | value
            ann        | responding | 30  | 1
            ann        | responding | 200 | 0
            """,
        },
        """
        patient_id | period_number | covariate  | value
        ann        | 1             | responding | 0.0
        ann        | 2             | responding | 1.0
        ann        | 3             | responding | 1.0
        ann        | 4             | responding | 0.0
        bob        | 1             | responding | 0.0
        """,
    )
