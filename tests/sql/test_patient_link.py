"""Merged patient records: what is under any of them counts for the one that remains."""

from __future__ import annotations

from tests.sql.drawn import run

CHAIN = """
    resource_id | replaced_by | replaces
    ann         |             |
    anna        | ann         |
    anne        | anna        |
"""


def test_a_record_that_was_replaced_belongs_to_the_one_that_remains_over_several_merges() -> None:
    run(
        "staging.patient_link",
        {"lake.patient": CHAIN},
        """
        patient_id | survivor_id
        anna       | ann
        anne       | ann
        """,
    )


def test_the_surviving_record_may_be_the_one_that_tells_of_the_merge() -> None:
    run(
        "staging.patient_link",
        {"lake.patient": "resource_id | replaces\nann | anna"},
        "patient_id | survivor_id\nanna | ann",
    )


def test_a_merge_into_a_record_that_is_not_there_is_none() -> None:
    run(
        "staging.patient_link",
        {"lake.patient": "resource_id | replaced_by\nanna | ann"},
        "patient_id | survivor_id",
    )


def test_merges_that_lead_in_a_circle_are_none() -> None:
    run(
        "staging.patient_link",
        {"lake.patient": "resource_id | replaced_by\nann | bea\nbea | ann\ncora | ann"},
        "patient_id | survivor_id",
    )


def test_only_the_record_that_remains_is_a_patient() -> None:
    run(
        "staging.patient",
        {"lake.patient": CHAIN, "staging.patient_link": "patient_id | survivor_id\nanna | ann\nanne | ann"},
        "patient_id\nann",
    )


def test_what_is_under_a_merged_record_counts_for_the_survivor() -> None:
    run(
        "staging.encounter",
        {
            "lake.encounter": "resource_id | patient_id | status\ne1 | anna | finished\ne2 | bob | finished",
            "staging.patient_link": "patient_id | survivor_id\nanna | ann",
        },
        "encounter_id | patient_id\ne1 | ann\ne2 | bob",
    )
