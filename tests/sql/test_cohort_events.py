"""The rules that find a patient's events: code lists, index event, disease status, exposure, values."""

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
        patient_id | status_date | status_day | status
        ann        | 2019-12-01  | -31        | progressed
        ann        | 2020-01-29  | 28         | responding
        ann        | 2020-02-29  | 59         | other
        ann        | 2020-03-31  | 90         | progressed
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


def test_progression_is_the_first_one_after_the_index_day() -> None:
    run(
        "cohort.progression",
        {
            "cohort.disease_status": """
            patient_id | status_date | status_day | status
            ann        | 2019-12-01  | -31        | progressed
            ann        | 2020-01-01  | 0          | progressed
            ann        | 2020-03-31  | 90         | progressed
            ann        | 2020-04-30  | 120        | progressed
            bob        | 2020-03-31  | 90         | responding
            """
        },
        """
        patient_id | progression_date | progression_day
        ann        | 2020-03-31       | 90
        """,
    )


def episodes(records: str, expected: str, progression: str | None = None, protocol: str = PROTOCOL) -> None:
    given = {
        "study.protocol": protocol,
        "study.exposure_tier": "tier\nadministration\ndispense",
        "cohort.index_event": ANN_INDEX,
        "cohort.codelist_match": records,
    }
    if progression:
        given["cohort.progression"] = progression
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


def test_a_record_on_no_known_day_is_no_start() -> None:
    episodes(
        """
        codelist     | kind       | patient_id | tier           | event_date | first_day
        lenalidomide | medication | ann        | administration |            | 2020-02-01
        """,
        "kind",
    )


def observed_value(records: str, values: str, expected: str, window: str = "-30 | 0") -> None:
    run(
        "cohort.observed_value",
        {
            "study.covariate": f"""
            kind        | covariate | codelist | from_day | to_day
            observation | ldh       | ldh      | {window}
            """,
            "cohort.index_event": ANN_INDEX,
            "cohort.codelist_match": records,
            "staging.observation": values,
        },
        expected,
    )


def test_the_value_nearest_to_index_counts_and_of_two_equally_near_the_later() -> None:
    observed_value(
        """
        codelist | kind        | patient_id | event_id | event_date
        ldh      | observation | ann        | early    | 2019-12-27
        ldh      | observation | ann        | before   | 2019-12-29
        ldh      | observation | ann        | after    | 2020-01-04
        """,
        """
        observation_id | value_number
        early          | 100
        before         | 200
        after          | 300
        """,
        "name | patient_id | value_number | observed_day\nldh | ann | 300.0 | 3",
        window="-30 | 7",
    )


def test_of_two_values_of_one_day_the_later_moment_counts() -> None:
    observed_value(
        """
        codelist | kind        | patient_id | event_id | event_date
        ldh      | observation | ann        | a        | 2019-12-31
        ldh      | observation | ann        | b        | 2019-12-31
        ldh      | observation | ann        | c        | 2019-12-31
        """,
        """
        observation_id | value_number | observed_at
        a              | 100          | 2019-12-31 08:00:00
        b              | 200          | 2019-12-31 16:00:00
        c              | 300          |
        """,
        "value_number\n200.0",
    )


def test_a_value_counts_only_inside_its_window_and_only_if_it_is_a_number() -> None:
    observed_value(
        """
        codelist | kind        | patient_id | event_id | event_date
        ldh      | observation | ann        | first    | 2019-12-02
        ldh      | observation | ann        | too_old  | 2019-12-01
        ldh      | observation | ann        | too_late | 2020-01-02
        ldh      | observation | ann        | no_value | 2020-01-01
        """,
        """
        observation_id | value_number
        first          | 100
        too_old        | 200
        too_late       | 300
        no_value       |
        """,
        "value_number | observed_day\n100.0 | -30",
    )


def test_an_open_window_reaches_over_the_whole_record() -> None:
    observed_value(
        "codelist | kind | patient_id | event_id | event_date\nldh | observation | ann | old | 1990-01-01",
        "observation_id | value_number\nold | 100",
        "value_number\n100.0",
        window=" | ",
    )


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
