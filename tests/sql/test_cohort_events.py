"""The rules that find a patient's events: code lists, index event, demographics, last contact."""

from __future__ import annotations

import pytest

from tests.sql.drawn import run

PROTOCOL = "study\ns"
ANN_INDEX = "patient_id | index_date\nann | 2020-01-01"

CODED = {
    "staging.medication_event": """
    event_id | patient_id | tier           | resource_type            | start_day  | first_day  | last_day
    drug     | ann        | administration | MedicationAdministration | 2020-01-01 | 2020-01-01 | 2020-01-01
    """,
    "staging.medication_code": """
    event_id | system | code
    drug     | atc    | L04AX04
    drug     | rxnorm | 342369
    """,
}


def test_a_record_with_two_codes_of_one_list_matches_once() -> None:
    run(
        "cohort.codelist_match",
        {
            **CODED,
            "study.codelist": """
            codelist     | system | code
            lenalidomide | atc    | L04AX04
            lenalidomide | rxnorm | 342369
            """,
        },
        """
        study | codelist     | patient_id | kind       | event_id | tier           | event_date
        s     | lenalidomide | ann        | medication | drug     | administration | 2020-01-01
        """,
    )


def test_a_code_matches_only_in_its_own_system() -> None:
    run(
        "cohort.codelist_match",
        {**CODED, "study.codelist": "codelist | system | code\nlenalidomide | rxnorm | L04AX04"},
        "patient_id",
    )


@pytest.mark.parametrize(
    ("valid_from", "valid_to", "matches"),
    [
        ("2020-01-01", "2020-01-01", True),
        ("2020-01-02", "", False),
        ("", "2019-12-31", False),
        ("2019-01-01", "2021-01-01", True),
        ("", "", True),
    ],
)
def test_a_code_matches_only_on_days_on_which_it_is_valid(
    valid_from: str, valid_to: str, matches: bool
) -> None:
    run(
        "cohort.codelist_match",
        {
            **CODED,
            "study.codelist": f"""
            codelist     | system | code    | valid_from   | valid_to
            lenalidomide | atc    | L04AX04 | {valid_from} | {valid_to}
            """,
        },
        "event_id\ndrug" if matches else "event_id",
    )


@pytest.mark.parametrize(
    ("first_day", "last_day", "matches"),
    [
        ("2020-02-01", "2020-02-29", True),
        ("2020-01-01", "2020-12-31", False),
        ("2019-01-01", "2019-12-31", False),
        ("", "", False),
    ],
)
def test_a_vague_date_matches_a_dated_code_only_if_it_surely_lies_in_its_validity(
    first_day: str, last_day: str, matches: bool
) -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.procedure": f"""
            procedure_id | patient_id | first_day   | last_day
            p1           | ann        | {first_day} | {last_day}
            """,
            "staging.procedure_code": "procedure_id | system | code\np1 | local | infusion",
            "study.codelist": """
            codelist | system | code     | valid_from
            car_t    | local  | infusion | 2020-01-15
            """,
        },
        "event_id\np1" if matches else "event_id",
    )


def test_a_prefix_stands_for_the_codes_below_it() -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.condition": "condition_id | patient_id\nc1 | ann\nc2 | bob\nc3 | cat\nc4 | dan",
            "staging.condition_code": """
            condition_id | system | code
            c1           | icd10  | C83.30
            c2           | icd10  | C83.3
            c3           | icd10  | C83.0
            c4           | local  | C83.30
            """,
            "study.codelist": "codelist | system | code | is_prefix\ndlbcl | icd10 | C83.3 | true",
        },
        """
        patient_id | kind
        ann        | condition
        bob        | condition
        """,
    )


def test_a_record_that_is_no_evidence_matches_nothing() -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.observation": "observation_id | is_valid\no1 | false\no2 | true",
            "staging.observation_code": "observation_id | system | code\no1 | local | x\no2 | local | x",
            "study.codelist": "codelist | system | code\nx | local | x",
        },
        "event_id | kind\no2 | observation",
    )


@pytest.mark.parametrize(
    ("last_day", "landed_day", "latest"),
    [
        ("2020-01-31", "2020-01-20", "2020-01-20"),
        ("2020-01-31", "2020-02-20", "2020-01-31"),
        ("", "2020-01-20", ""),
    ],
)
def test_nothing_is_dated_after_the_day_it_was_fetched(last_day: str, landed_day: str, latest: str) -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.procedure": f"""
            procedure_id | last_day   | landed_day
            p1           | {last_day} | {landed_day}
            """,
            "staging.procedure_code": "procedure_id | system | code\np1 | local | infusion",
            "study.codelist": "codelist | system | code\ncar_t | local | infusion",
        },
        f"event_id | last_day\np1 | {latest}",
    )


@pytest.mark.parametrize(
    ("tier", "status", "end_day", "asserted_day", "until"),
    [
        ("statement", "active", "", "", "2030-01-01"),
        ("statement", "active", "2019-03-01", "2019-03-01", "2030-01-01"),
        ("statement", "active", "2019-02-01", "2019-03-01", ""),
        ("statement", "active", "2019-02-01", "", ""),
        ("statement", "completed", "", "", ""),
        ("request", "active", "", "", ""),
    ],
)
def test_an_active_statement_without_an_end_goes_on_until_it_was_fetched(
    tier: str, status: str, end_day: str, asserted_day: str, until: str
) -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.medication_event": f"""
            event_id | tier   | status   | end_day   | asserted_day
            drug     | {tier} | {status} | {end_day} | {asserted_day}
            """,
            "staging.medication_code": "event_id | system | code\ndrug | atc | L04AX04",
            "study.codelist": "codelist | system | code\nlenalidomide | atc | L04AX04",
        },
        f"event_id | end_day | ongoing_until_date\ndrug | {end_day} | {until}",
    )


def test_two_studies_match_side_by_side() -> None:
    run(
        "cohort.codelist_match",
        {
            **CODED,
            "study.codelist": """
            study | codelist | system | code
            one   | drug     | atc    | L04AX04
            two   | medicine | rxnorm | 342369
            """,
        },
        """
        study | codelist | event_id
        one   | drug     | drug
        two   | medicine | drug
        """,
    )


def index_event(records: str, expected: str, protocol: str = PROTOCOL) -> None:
    run(
        "cohort.index_event",
        {
            "study.protocol": protocol,
            "study.index_source": "source\nMedicationAdministration\nProcedure",
            "cohort.codelist_match": records,
        },
        expected,
    )


def test_the_first_event_is_day_zero_and_records_close_by_are_the_same_event() -> None:
    index_event(
        """
        codelist | patient_id | resource_type            | event_date | last_day
        car_t    | ann        | MedicationAdministration | 2020-01-02 | 2020-01-02
        car_t    | ann        | Procedure                | 2020-01-01 | 2020-01-01
        car_t    | ann        | MedicationAdministration | 2020-01-15 | 2020-01-15
        car_t    | ann        | MedicationAdministration | 2020-01-16 | 2020-01-16
        """,
        """
        patient_id | index_date | resource_type | n_records
        ann        | 2020-01-01 | Procedure     | 3
        """,
    )


def test_only_the_protocols_sources_and_code_list_give_an_index_event() -> None:
    index_event(
        """
        codelist     | patient_id | resource_type            | event_date
        car_t        | ann        | MedicationRequest        | 2020-01-01
        lenalidomide | bob        | MedicationAdministration | 2020-01-01
        car_t        | cat        | MedicationAdministration | 2020-01-01
        """,
        "patient_id | index_date\ncat | 2020-01-01",
    )


def test_an_index_event_on_no_known_day_gives_no_index_date() -> None:
    index_event(
        """
        codelist | patient_id | resource_type | event_date | last_day
        car_t    | ann        | Procedure     |            | 2020-01-31
        car_t    | bob        | Procedure     |            |
        """,
        "patient_id | index_date\nann |\nbob |",
    )


def test_a_vague_record_surely_before_the_first_known_day_makes_the_first_day_unknown() -> None:
    index_event(
        """
        codelist | patient_id | resource_type | event_date | last_day
        car_t    | ann        | Procedure     |            | 2019-12-31
        car_t    | ann        | Procedure     | 2020-06-01 | 2020-06-01
        """,
        "patient_id | index_date\nann |",
    )


def test_a_vague_record_around_the_first_known_day_is_the_same_event() -> None:
    index_event(
        """
        codelist | patient_id | resource_type | event_date | last_day
        car_t    | ann        | Procedure     |            | 2020-06-30
        car_t    | ann        | Procedure     | 2020-06-01 | 2020-06-01
        """,
        "patient_id | index_date\nann | 2020-06-01",
    )


def test_age_is_exact_days_over_365_25() -> None:
    run(
        "cohort.demographic",
        {
            "cohort.index_event": ANN_INDEX,
            "staging.patient": """
            patient_id | gender | birth_day  | birth_precision
            ann        | female | 1960-01-01 | day
            """,
        },
        # 21,915 days
        """
        patient_id | gender | birth_date | age_years | is_birth_date_approximate | is_patient_known
        ann        | female | 1960-01-01 | 60.0      | false                     | true
        """,
    )


def test_a_birth_known_to_the_month_or_year_is_its_middle_and_marked() -> None:
    run(
        "cohort.demographic",
        {
            "cohort.index_event": """
            patient_id | index_date
            ann        | 2020-01-01
            bob        | 2020-01-01
            cat        | 2020-01-01
            dan        | 2020-01-01
            eve        |
            """,
            "staging.patient": """
            patient_id | birth_precision | birth_first_day
            ann        | month           | 1960-02-01
            bob        | year            | 1960-01-01
            cat        |                 |
            eve        | year            | 1960-01-01
            """,
        },
        """
        patient_id | birth_date | is_birth_date_approximate | is_patient_known
        ann        | 1960-02-15 | true                      | true
        bob        | 1960-07-01 | true                      | true
        cat        |            | false                     | true
        dan        |            | false                     | false
        """,
    )


def test_last_contact_is_the_last_day_of_care() -> None:
    run(
        "cohort.last_contact",
        {
            "cohort.index_event": "patient_id | index_date\nann | 2020-01-01\nbob | 2020-01-01",
            "staging.contact": """
            patient_id | resource_type | contact_day
            ann        | Encounter     | 2020-03-01
            ann        | Procedure     | 2020-05-01
            ann        | Encounter     | 2020-05-01
            cat        | Encounter     | 2020-09-01
            """,
        },
        """
        patient_id | last_contact_date | source
        ann        | 2020-05-01        | Encounter
        """,
    )
