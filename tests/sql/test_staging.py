"""The rules of the staging tables: what is evidence, which code a record has, when a patient was seen."""

# ruff: noqa: E501 - drawn tables are as wide as they must be

from __future__ import annotations

import pytest

from tests.sql.drawn import run


def test_a_patient_keeps_what_is_known_of_birth_and_death() -> None:
    run(
        "staging.patient",
        {
            "lake.patient": """
            resource_id | gender | birth_day  | birth_precision | birth_first_day | deceased_boolean
            ann         | female | 1960-05-04 | day             | 1960-05-04      |
            bob         | male   |            | year            | 1955-01-01      | true
            """
        },
        """
        patient_id | gender | birth_day  | birth_precision | birth_first_day | deceased_boolean
        ann        | female | 1960-05-04 | day             | 1960-05-04      |
        bob        | male   |            | year            | 1955-01-01      | true
        """,
    )


@pytest.mark.parametrize(
    ("table", "type_columns", "status", "is_valid"),
    [
        ("medication_administration", {}, "completed", True),
        ("medication_administration", {}, "in-progress", True),
        ("medication_administration", {}, "not-done", False),
        ("medication_administration", {}, "entered-in-error", False),
        ("medication_administration", {}, "stopped", False),
        ("medication_administration", {}, "on-hold", False),
        ("medication_administration", {"dose_value": "10"}, "stopped", True),
        ("medication_administration", {"dose_value": "10"}, "on-hold", True),
        ("medication_administration", {"dose_value": "0"}, "stopped", False),
        ("medication_administration", {}, "Completed", False),
        ("medication_administration", {}, "", False),
        ("medication_dispense", {}, "completed", True),
        ("medication_dispense", {}, "preparation", False),
        ("medication_dispense", {}, "cancelled", False),
        ("medication_dispense", {}, "declined", False),
        ("medication_dispense", {}, "entered-in-error", False),
        ("medication_statement", {}, "active", True),
        ("medication_statement", {}, "completed", True),
        ("medication_statement", {}, "stopped", True),
        ("medication_statement", {}, "not-taken", False),
        ("medication_statement", {}, "intended", False),
        ("medication_statement", {}, "entered-in-error", False),
        ("medication_request", {"is_do_not_perform": "false", "intent": "order"}, "active", True),
        ("medication_request", {"is_do_not_perform": "false", "intent": "order"}, "draft", False),
        ("medication_request", {"is_do_not_perform": "false", "intent": "order"}, "cancelled", False),
        ("medication_request", {"is_do_not_perform": "false", "intent": "order"}, "entered-in-error", False),
        ("medication_request", {"is_do_not_perform": "true", "intent": "order"}, "active", False),
        ("medication_request", {"is_do_not_perform": "false", "intent": "proposal"}, "active", False),
        ("medication_request", {"is_do_not_perform": "false", "intent": "plan"}, "active", True),
    ],
)
def test_status_decides_whether_a_medication_record_is_evidence(
    table: str, type_columns: dict[str, str], status: str, is_valid: bool
) -> None:
    names = " | ".join(["resource_id", "patient_id", "status", *type_columns])
    cells = " | ".join(["e1", "ann", status, *type_columns.values()])
    run(
        "staging.medication_event",
        {f"lake.{table}": f"{names}\n{cells}"},
        f"event_id | is_valid\ne1 | {str(is_valid).lower()}",
    )


def test_evidence_is_graded_by_tier_and_a_reported_plan_is_a_statement() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_administration": "resource_id | status\ne1 | completed",
            "lake.medication_dispense": "resource_id | status\ne2 | completed",
            "lake.medication_statement": "resource_id | status\ne3 | active",
            "lake.medication_request": """
            resource_id | status | intent | is_reported | is_do_not_perform
            e4          | active | order  | false       | false
            e5          | active | plan   | true        | false
            e6          | active | plan   | false       | false
            e7          | active | order  | true        | false
            """,
        },
        """
        event_id | tier           | resource_type
        e1       | administration | MedicationAdministration
        e2       | dispense       | MedicationDispense
        e3       | statement      | MedicationStatement
        e4       | request        | MedicationRequest
        e5       | statement      | MedicationRequest
        e6       | request        | MedicationRequest
        e7       | request        | MedicationRequest
        """,
    )


def test_a_dispense_starts_when_it_is_handed_over_else_when_prepared() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_dispense": """
            resource_id | prepared_day | prepared_first_day | handed_over_day | handed_over_first_day
            both        | 2020-01-01   | 2020-01-01         | 2020-01-05      | 2020-01-05
            prepared    | 2020-01-01   | 2020-01-01         |                 |
            vague       | 2020-01-01   | 2020-01-01         |                 | 2020-02-01
            """
        },
        """
        event_id | start_day  | first_day
        both     | 2020-01-05 | 2020-01-05
        prepared | 2020-01-01 | 2020-01-01
        vague    |            | 2020-02-01
        """,
    )


def test_an_active_statement_without_an_end_reaches_to_the_day_it_was_made() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_statement": """
            resource_id | status    | start_day  | end_day    | end_first_day | asserted_day
            active      | active    | 2020-01-01 |            |               | 2020-06-01
            ended       | active    | 2020-01-01 | 2020-03-01 | 2020-03-01    | 2020-06-01
            completed   | completed | 2020-01-01 |            |               | 2020-06-01
            """
        },
        """
        event_id  | start_day  | end_day
        active    | 2020-01-01 | 2020-06-01
        ended     | 2020-01-01 | 2020-03-01
        completed | 2020-01-01 |
        """,
    )


def test_a_record_dated_after_it_was_fetched_is_no_evidence() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_administration": """
            resource_id | status    | start_first_day | landed_day
            same_day    | completed | 2020-06-01      | 2020-06-01
            day_after   | completed | 2020-06-02      | 2020-06-01
            undated     | completed |                 | 2020-06-01
            """
        },
        """
        event_id  | is_valid
        same_day  | true
        day_after | false
        undated   | true
        """,
    )


def test_a_reference_to_a_medication_that_is_not_there_is_unresolved() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_administration": """
            resource_id | medication_source | medication_resource_id
            own_code    | concept           |
            contained   | contained         |
            found       | reference         | m1
            lost        | reference         | m404
            broken      | unresolvable      |
            nothing     | none              |
            """,
            "lake.medication": "resource_id\nm1",
        },
        """
        event_id  | is_resolved
        own_code  | true
        contained | true
        found     | true
        lost      | false
        broken    | false
        nothing   | false
        """,
    )


def test_a_medication_record_has_its_own_codes_and_those_of_the_medication_it_refers_to() -> None:
    run(
        "staging.medication_code",
        {
            "lake.medication_administration": """
            resource_id | medication_resource_id | codings
            own         |                        | atc L04AX04, rxnorm 342369
            referring   | m1                     |
            lost        | m404                   |
            """,
            "lake.medication_request": "resource_id | codings\nrequest | rxnorm 342369",
            "lake.medication_dispense": "resource_id | codings\ndispense | rxnorm 342369",
            "lake.medication_statement": "resource_id | codings\nstatement | rxnorm 342369",
            "lake.medication": "resource_id | codings\nm1 | atc L04AX04",
        },
        """
        event_id  | system                                      | code
        own       | http://www.whocc.no/atc                     | L04AX04
        own       | http://www.nlm.nih.gov/research/umls/rxnorm | 342369
        referring | http://www.whocc.no/atc                     | L04AX04
        request   | http://www.nlm.nih.gov/research/umls/rxnorm | 342369
        dispense  | http://www.nlm.nih.gov/research/umls/rxnorm | 342369
        statement | http://www.nlm.nih.gov/research/umls/rxnorm | 342369
        """,
    )


def test_an_observation_entered_in_error_or_cancelled_never_counts() -> None:
    run(
        "staging.observation",
        {
            "lake.observation": """
            resource_id | status           | effective_day | effective_first_day | value_number | value_unit | value_unit_code | landed_day
            final       | final            | 2020-01-01    | 2020-01-01          | 7.1          | IU/l       | U/L             | 2020-02-01
            amended     | amended          | 2020-01-01    | 2020-01-01          | 7.1          | IU/l       |                 | 2020-02-01
            corrected   | corrected        | 2020-01-01    | 2020-01-01          |              |            |                 | 2020-02-01
            error       | entered-in-error | 2020-01-01    | 2020-01-01          | 7.1          |            |                 | 2020-02-01
            cancelled   | cancelled        | 2020-01-01    | 2020-01-01          | 7.1          |            |                 | 2020-02-01
            future      | final            | 2020-03-01    | 2020-03-01          | 7.1          |            |                 | 2020-02-01
            none        |                  | 2020-01-01    | 2020-01-01          | 7.1          |            |                 | 2020-02-01
            """
        },
        """
        observation_id | is_valid | observed_day | value_number | value_unit
        final          | true     | 2020-01-01   | 7.1          | U/L
        amended        | true     | 2020-01-01   | 7.1          | IU/l
        corrected      | true     | 2020-01-01   |              |
        error          | false    | 2020-01-01   | 7.1          |
        cancelled      | false    | 2020-01-01   | 7.1          |
        future         | false    | 2020-03-01   | 7.1          |
        none           | false    | 2020-01-01   | 7.1          |
        """,
    )


@pytest.mark.parametrize(
    ("model", "table", "column", "key"),
    [
        ("staging.observation_code", "lake.observation", "codings", "observation_id"),
        ("staging.observation_value", "lake.observation", "value_codings", "observation_id"),
        ("staging.condition_code", "lake.condition", "codings", "condition_id"),
        ("staging.procedure_code", "lake.procedure", "codings", "procedure_id"),
    ],
)
def test_every_code_of_a_record_is_a_row_and_a_repeated_one_is_one(
    model: str, table: str, column: str, key: str
) -> None:
    run(
        model,
        {
            table: f"""
            resource_id | {column}
            two         | snomed 271299001, local worse
            repeated    | local worse, local worse
            none        |
            """
        },
        f"""
        {key}    | system                       | code
        two      | http://snomed.info/sct       | 271299001
        two      | http://example.org/rwe/codes | worse
        repeated | http://example.org/rwe/codes | worse
        """,
    )


def test_a_refuted_or_mistaken_condition_is_no_diagnosis() -> None:
    run(
        "staging.condition",
        {
            "lake.condition": """
            resource_id | verification_status | onset_first_day
            confirmed   | confirmed           | 2020-01-01
            unsaid      |                     | 2020-01-01
            provisional | provisional         | 2020-01-01
            refuted     | refuted             | 2020-01-01
            error       | entered-in-error    | 2020-01-01
            """
        },
        """
        condition_id | is_valid
        confirmed    | true
        unsaid       | true
        provisional  | true
        refuted      | false
        error        | false
        """,
    )


def test_a_condition_without_onset_is_dated_by_its_recording() -> None:
    run(
        "staging.condition",
        {
            "lake.condition": """
            resource_id | onset_day  | onset_first_day | onset_last_day | recorded_day | recorded_first_day | recorded_last_day
            onset       | 2019-05-01 | 2019-05-01      | 2019-05-01     | 2020-01-01   | 2020-01-01         | 2020-01-01
            recorded    |            |                 |                | 2020-01-01   | 2020-01-01         | 2020-01-01
            year        |            | 2019-01-01      | 2019-12-31     | 2020-01-01   | 2020-01-01         | 2020-01-01
            """
        },
        """
        condition_id | onset_day  | first_day  | last_day
        onset        | 2019-05-01 | 2019-05-01 | 2019-05-01
        recorded     | 2020-01-01 | 2020-01-01 | 2020-01-01
        year         |            | 2019-01-01 | 2019-12-31
        """,
    )


def test_a_procedure_not_done_or_only_prepared_did_not_happen() -> None:
    run(
        "staging.procedure",
        {
            "lake.procedure": """
            resource_id | status           | start_first_day
            completed   | completed        | 2020-01-01
            running     | in-progress      | 2020-01-01
            prepared    | preparation      | 2020-01-01
            not_done    | not-done         | 2020-01-01
            error       | entered-in-error | 2020-01-01
            """
        },
        """
        procedure_id | is_valid
        completed    | true
        running      | true
        prepared     | false
        not_done     | false
        error        | false
        """,
    )


def test_a_planned_or_cancelled_encounter_did_not_take_place() -> None:
    run(
        "staging.encounter",
        {
            "lake.encounter": """
            resource_id | status           | start_first_day
            finished    | finished         | 2020-01-01
            running     | in-progress      | 2020-01-01
            planned     | planned          | 2020-01-01
            cancelled   | cancelled        | 2020-01-01
            error       | entered-in-error | 2020-01-01
            """
        },
        """
        encounter_id | is_valid
        finished     | true
        running      | true
        planned      | false
        cancelled    | false
        error        | false
        """,
    )


def test_contacts_come_from_one_fixed_list_of_types_with_the_ends_of_periods() -> None:
    run(
        "staging.contact",
        {
            "staging.encounter": "patient_id | start_day | end_day\nann | 2020-01-01 | 2020-01-09",
            "staging.procedure": "patient_id | start_day | end_day\nann | 2020-02-01 | 2020-02-09",
            "staging.medication_event": """
            patient_id | resource_type            | start_day  | end_day    | asserted_day
            ann        | MedicationAdministration | 2020-03-01 | 2020-03-09 |
            ann        | MedicationStatement      | 2020-04-01 | 2020-12-31 | 2020-04-09
            ann        | MedicationRequest        | 2020-05-01 |            |
            ann        | MedicationDispense       | 2020-06-01 |            |
            """,
            "staging.observation": "patient_id | observed_day\nann | 2020-11-01",
            "staging.condition": "patient_id | onset_day\nann | 2020-11-02",
        },
        """
        patient_id | resource_type            | contact_day
        ann        | Encounter                | 2020-01-01
        ann        | Encounter                | 2020-01-09
        ann        | Procedure                | 2020-02-01
        ann        | Procedure                | 2020-02-09
        ann        | MedicationAdministration | 2020-03-01
        ann        | MedicationAdministration | 2020-03-09
        ann        | MedicationStatement      | 2020-04-01
        ann        | MedicationStatement      | 2020-04-09
        ann        | MedicationRequest        | 2020-05-01
        ann        | MedicationDispense       | 2020-06-01
        """,
    )


def test_no_contact_is_a_record_that_does_not_count_or_a_day_after_the_landing() -> None:
    run(
        "staging.contact",
        {
            "staging.encounter": """
            patient_id | start_day  | end_day    | is_valid | landed_day
            ann        | 2020-01-01 | 2020-06-02 | true     | 2020-06-01
            bob        | 2020-01-01 | 2020-01-02 | false    | 2020-06-01
            cat        | 2020-01-01 | 2020-06-01 | true     | 2020-06-01
            """,
        },
        """
        patient_id | contact_day
        ann        | 2020-01-01
        cat        | 2020-01-01
        cat        | 2020-06-01
        """,
    )
