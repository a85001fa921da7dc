"""The rules that turn events into a cohort: death, covariates, follow-up, survival."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"


def death(
    record: str, expected: str, last_contact: str | None = "2020-03-10", protocol: str = PROTOCOL
) -> None:
    given = {
        "study.protocol": protocol,
        "study.death_source": "source | position\npatient | 1\nregistry | 2",
        "cohort.index_event": ANN_INDEX,
        "staging.patient": record,
    }
    if last_contact:
        given["cohort.last_contact"] = f"patient_id | last_contact_date\nann | {last_contact}"
    run("cohort.death", given, expected)


KNOWN_DAY = """
patient_id | deceased_day | deceased_precision | deceased_first_day | deceased_last_day
ann        | 2020-03-31   | day                | 2020-03-31         | 2020-03-31
"""
KNOWN_MONTH = """
patient_id | deceased_precision | deceased_first_day | deceased_last_day
ann        | month              | 2020-03-01         | 2020-03-31
"""
KNOWN_YEAR = """
patient_id | deceased_precision | deceased_first_day | deceased_last_day
ann        | year               | 2020-01-01         | 2020-12-31
"""
NO_DATE = "patient_id | deceased_boolean\nann | true"


def test_a_recorded_day_of_death_is_the_day_of_death() -> None:
    death(
        KNOWN_DAY,
        """
        patient_id | death_date | source             | precision | is_date_imputed | has_conflict
        ann        | 2020-03-31 | deceased_date_time | day       | false           | false
        """,
    )


@pytest.mark.parametrize(
    ("last_contact", "day", "conflict"),
    [
        ("2020-03-10", "2020-03-15", "false"),
        ("2020-03-15", "2020-03-15", "false"),
        ("2020-03-20", "2020-03-20", "false"),
        ("2020-04-20", "2020-03-31", "true"),
    ],
)
def test_a_death_known_to_the_month_is_its_middle_but_never_before_the_last_contact_in_it(
    last_contact: str, day: str, conflict: str
) -> None:
    death(
        KNOWN_MONTH,
        f"death_date | precision | is_date_imputed | has_conflict\n{day} | month | true | {conflict}",
        last_contact,
    )


def test_a_death_known_to_the_year_is_its_middle() -> None:
    death(KNOWN_YEAR, "death_date | precision\n2020-07-01 | year")


def test_a_death_known_to_the_month_has_no_date_if_the_protocol_excludes_it() -> None:
    death(
        KNOWN_MONTH,
        "patient_id | death_date | is_date_imputed\nann | | true",
        protocol="incomplete_death_date\nexclude",
    )


def test_a_death_on_no_known_day_is_at_last_contact_or_has_no_date() -> None:
    death(NO_DATE, "death_date | source | precision\n2020-03-10 | deceased_boolean | none")
    death(NO_DATE, "patient_id | death_date\nann |", protocol="death_without_date\nexclude")


def test_nobody_is_dead_who_is_not_recorded_as_dead() -> None:
    death("patient_id | deceased_boolean\nann | false", "patient_id")
    death("patient_id | deceased_boolean\nann |", "patient_id")


def test_care_after_the_day_of_death_is_a_conflict_and_the_death_stands() -> None:
    death(KNOWN_DAY, "death_date | has_conflict\n2020-03-31 | true", last_contact="2020-04-01")
    death(KNOWN_DAY, "death_date | has_conflict\n2020-03-31 | false", last_contact="2020-03-31")


def test_a_death_that_is_also_recorded_as_alive_is_a_conflict() -> None:
    death(
        """
        patient_id | deceased_boolean | deceased_day | deceased_first_day | deceased_last_day
        ann        | false            | 2020-03-31   | 2020-03-31         | 2020-03-31
        """,
        "death_date | has_conflict\n2020-03-31 | true",
    )


def test_a_death_dated_after_the_record_was_fetched_has_no_known_day() -> None:
    death(
        """
        patient_id | deceased_day | deceased_precision | deceased_first_day | deceased_last_day | landed_day
        ann        | 2920-03-31   | day                | 2920-03-31         | 2920-03-31        | 2020-06-01
        """,
        "death_date | precision | has_conflict\n2020-03-10 | none | true",
    )


def test_baseline_has_one_row_a_covariate_and_says_what_is_missing() -> None:
    run(
        "cohort.baseline",
        {
            "study.covariate": """
            covariate | kind         | transform | origin
            age       | age_at_index |           |
            sex       | sex          |           |
            year      | years_since  |           | 2016-01-01
            ecog      | observation  | none      |
            ldh       | observation  | log       |
            """,
            "study.covariate_level": "covariate | level | value\nsex | female | 2\nsex | male | 1",
            "cohort.demographic": """
            patient_id | index_date | gender  | age_years
            ann        | 2020-01-01 | female  | 60.5
            bob        | 2020-01-01 | unknown |
            """,
            "cohort.observed_value": """
            purpose   | name | patient_id | value_number | observed_day
            covariate | ecog | ann        | 0            | -2
            covariate | ldh  | ann        | 1            | 0
            covariate | ldh  | bob        | 0            | 0
            criterion | ecog | bob        | 3            | 0
            """,
        },
        # 1,461 days from 2016 to 2020 are 4 years; ln 1 = 0; ln 0 is not defined.
        """
        patient_id | covariate | value | day | is_missing
        ann        | age       | 60.5  |     | false
        ann        | sex       | 2.0   |     | false
        ann        | year      | 4.0   |     | false
        ann        | ecog      | 0.0   | -2  | false
        ann        | ldh       | 0.0   | 0   | false
        bob        | age       |       |     | true
        bob        | sex       |       |     | true
        bob        | year      | 4.0   |     | false
        bob        | ecog      |       |     | true
        bob        | ldh       |       | 0   | true
        """,
    )


STATUS_COVARIATES = """
covariate  | kind           | status
in_remiss  | disease_status | responding
progressed | disease_status | progressed
age        | age_at_index   |
"""


def test_responding_changes_when_the_last_known_status_changes() -> None:
    run(
        "cohort.covariate_change",
        {
            "study.covariate": STATUS_COVARIATES,
            "cohort.disease_status": """
            patient_id | status_day | earliest_day | latest_day | status
            ann        | -30        | -30          | -30        | responding
            ann        | 0          | 0            | 0          | responding
            ann        | 28         | 28           | 28         | responding
            ann        | 60         | 60           | 60         | responding
            ann        |            | 61           | 80         | other
            ann        | 90         | 90           | 90         | other
            ann        | 120        | 120          | 120        | responding
            bob        | 28         | 28           | 28         | other
            """,
        },
        """
        patient_id | covariate | day | value
        ann        | in_remiss | 28  | 1.0
        ann        | in_remiss | 90  | 0.0
        ann        | in_remiss | 120 | 1.0
        """,
    )


def test_progressed_is_for_good_whatever_is_assessed_later() -> None:
    run(
        "cohort.covariate_change",
        {
            "study.covariate": STATUS_COVARIATES,
            "cohort.progression": "patient_id | progression_day\nann | 90",
            "cohort.disease_status": """
            patient_id | status_day | earliest_day | latest_day | status
            ann        | -30        | -30          | -30        | progressed
            ann        | 90         | 90           | 90         | progressed
            ann        | 120        | 120          | 120        | other
            ann        | 150        | 150          | 150        | progressed
            """,
        },
        "patient_id | covariate | day | value\nann | progressed | 90 | 1.0",
    )


def follow_up(given: dict[str, str], expected: str, protocol: str = PROTOCOL) -> None:
    run(
        "cohort.follow_up",
        {
            "study.protocol": protocol,
            "cohort.index_event": ANN_INDEX,
            "cohort.eligibility": "patient_id | step_number | is_met\nann | 1 | true\nann | 2 | true",
            **given,
        },
        expected,
    )


LAST_CONTACT = {"cohort.last_contact": "patient_id | last_contact_date\nann | 2020-04-10"}
DEATH = {"cohort.death": "patient_id | death_date\nann | 2020-03-31"}
RELAPSE = {
    "cohort.intercurrent_event": """
    patient_id | event   | event_date | handling
    ann        | relapse | {day}      | {handling}
    """
}


def relapse(day: str, handling: str = "composite") -> dict[str, str]:
    return {name: table.format(day=day, handling=handling) for name, table in RELAPSE.items()}


def test_the_living_are_followed_to_their_last_contact() -> None:
    follow_up(
        LAST_CONTACT,
        """
        patient_id | index_date | end_date   | end_reason    | is_event | time_days
        ann        | 2020-01-01 | 2020-04-10 | last_activity | false    | 100
        """,
    )


def test_a_patient_without_any_contact_after_index_has_time_zero() -> None:
    follow_up(
        {"cohort.last_contact": "patient_id | last_contact_date\nann | 2020-01-01"},
        "time_days | is_event\n0 | false",
    )
    follow_up({}, "time_days | is_event\n0 | false")


def test_a_death_ends_follow_up_whatever_is_recorded_later() -> None:
    follow_up({**LAST_CONTACT, **DEATH}, "end_reason | is_event | time_days\ndeath | true | 90")


def test_a_death_after_the_last_contact_is_not_lost() -> None:
    follow_up(
        {**LAST_CONTACT, "cohort.death": "patient_id | death_date\nann | 2021-01-01"},
        "end_reason | is_event | time_days\ndeath | true | 366",
    )


def test_a_composite_event_counts_as_the_outcome_where_it_comes_first() -> None:
    given = {**LAST_CONTACT, **DEATH}
    follow_up(
        given | relapse("2020-03-30"), "end_reason | is_event | time_days\ncomposite:relapse | true | 89"
    )
    follow_up(given | relapse("2020-03-31"), "end_reason | time_days\ndeath | 90")
    follow_up(given | relapse("2020-04-01"), "end_reason | time_days\ndeath | 90")


def test_an_event_that_is_weighted_for_ends_follow_up_alive_where_it_comes_first() -> None:
    given = {**LAST_CONTACT, **DEATH}
    handling = "censored_with_weights"
    follow_up(
        given | relapse("2020-03-30", handling),
        "end_reason | is_event | time_days\ncensored:relapse | false | 89",
    )
    follow_up(given | relapse("2020-03-31", handling), "end_reason | is_event\ndeath | true")
    follow_up(given | relapse("2020-04-01", handling), "end_reason | time_days\ndeath | 90")
    # On the day of the last contact it has happened; after it, it is what shows that the patient lived.
    follow_up(
        LAST_CONTACT | relapse("2020-04-10", handling), "end_reason | time_days\ncensored:relapse | 100"
    )
    follow_up(
        LAST_CONTACT | relapse("2020-04-20", handling), "end_reason | time_days\ncensored:relapse | 110"
    )


def test_under_treatment_policy_an_intercurrent_event_changes_nothing() -> None:
    follow_up(
        LAST_CONTACT | relapse("2020-02-01", "treatment_policy"),
        "end_reason | time_days\nlast_activity | 100",
    )


@pytest.mark.parametrize(
    ("cutoff", "expected"),
    [
        ("2020-12-31", "death | true | 90"),
        ("2020-03-31", "death | true | 90"),
        ("2020-03-30", "data_cutoff | false | 89"),
    ],
)
def test_at_a_data_cut_off_later_deaths_are_not_known(cutoff: str, expected: str) -> None:
    follow_up(
        {**LAST_CONTACT, **DEATH},
        f"end_reason | is_event | time_days\n{expected}",
        protocol=f"censoring_rule | data_cutoff\ndata_cutoff | {cutoff}",
    )


def test_at_a_data_cut_off_the_living_count_until_then_whatever_their_last_contact() -> None:
    follow_up(
        LAST_CONTACT,
        "end_date | end_reason | is_event\n2020-12-31 | data_cutoff | false",
        protocol="censoring_rule | data_cutoff\ndata_cutoff | 2020-12-31",
    )


def test_only_patients_who_meet_every_step_are_followed() -> None:
    follow_up(
        {"cohort.eligibility": "patient_id | step_number | is_met\nann | 1 | true\nann | 2 | false"},
        "patient_id",
    )


def survival(given: dict[str, str], expected: str) -> None:
    run(
        "cohort.survival",
        {
            "study.protocol": PROTOCOL,
            "cohort.follow_up": "patient_id | index_date | time_days | is_event | end_reason\n"
            "ann | 2020-01-01 | 100 | true | death",
            **given,
        },
        expected,
    )


@pytest.mark.parametrize(
    ("start", "seen", "strategy"),
    [
        ("0", "0", "maintenance"),
        ("100", "100", "maintenance"),
        ("101", "", "no_maintenance"),
    ],
)
def test_a_start_counts_from_the_index_day_to_the_last_day_of_follow_up(
    start: str, seen: str, strategy: str
) -> None:
    survival(
        {"cohort.exposure_episode": f"patient_id | start_day | kind\nann | {start} | maintenance"},
        f"patient_id | time_days | is_event | start_day | strategy\nann | 100 | true | {seen} | {strategy}",
    )


def test_the_earliest_start_over_the_counted_tiers_counts() -> None:
    survival(
        {
            "cohort.exposure_episode": """
            patient_id | tier           | start_day | kind         | is_counted
            ann        | administration | -20       | before_index | true
            ann        | request        | 10        | maintenance  | false
            ann        | dispense       | 30        | maintenance  | true
            ann        | administration | 20        | maintenance  | true
            """
        },
        "start_day\n20",
    )


def test_salvage_is_no_maintenance_and_is_counted_apart() -> None:
    survival(
        {
            "cohort.exposure_episode": "patient_id | start_day | kind\nann | 95 | salvage",
            "cohort.progression": "patient_id | progression_day\nann | 90",
        },
        """
        start_day | salvage_start_day | progression_day | strategy
                  | 95                | 90              | no_maintenance
        """,
    )


def test_progression_and_salvage_after_follow_up_are_not_seen() -> None:
    survival(
        {
            "cohort.exposure_episode": "patient_id | start_day | kind\nann | 102 | salvage",
            "cohort.progression": "patient_id | progression_day\nann | 101",
        },
        "patient_id | salvage_start_day | progression_day\nann | |",
    )
