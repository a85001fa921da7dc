"""Who is believed about a death: the Patient record, an imported registry, and what if they disagree."""

# ruff: noqa: E501 - drawn tables are as wide as they must be

from __future__ import annotations

from tests.sql.drawn import run

INDEX = "patient_id | index_date\nann | 2020-01-01"
BOTH = "source | position\npatient | 1\nregistry | 2"
REGISTRY_FIRST = "source | position\nregistry | 1\npatient | 2"
PATIENT = "patient_id | landed_day | deceased_day | deceased_precision | deceased_first_day | deceased_last_day | deceased_boolean\n"
REGISTRY = (
    "patient_id | source | landed_day | death_day | death_precision | death_first_day | death_last_day\n"
)
DAY_IN_PATIENT = PATIENT + "ann | 2021-01-01 | 2020-03-01 | day | 2020-03-01 | 2020-03-01 |"
YEAR_IN_PATIENT = PATIENT + "ann | 2021-01-01 | | year | 2020-01-01 | 2020-12-31 |"
NO_DATE_IN_PATIENT = PATIENT + "ann | 2021-01-01 | | | | | true"
ALIVE_IN_PATIENT = PATIENT + "ann | 2021-01-01 | | | | | false"
SILENT_PATIENT = PATIENT + "ann | 2021-01-01 | | | | |"
DAY_IN_REGISTRY = REGISTRY + "ann | state | 2021-01-01 | 2020-03-09 | day | 2020-03-09 | 2020-03-09"


def death(patient: str, registry: str, expected: str, sources: str = BOTH) -> None:
    run(
        "cohort.death",
        {
            "study.protocol": "study\ns",
            "study.death_source": sources,
            "cohort.index_event": INDEX,
            "staging.patient": patient,
            "staging.registered_death": registry,
        },
        expected,
    )


def test_a_death_that_only_the_registry_knows_is_a_death() -> None:
    death(
        SILENT_PATIENT,
        DAY_IN_REGISTRY,
        "death_date | source | precision | has_conflict\n2020-03-09 | death_registry | day | false",
    )


def test_of_two_days_the_protocols_first_source_is_believed_and_they_are_a_conflict() -> None:
    death(
        DAY_IN_PATIENT,
        DAY_IN_REGISTRY,
        "death_date | source | has_conflict\n2020-03-01 | deceased_date_time | true",
    )
    death(
        DAY_IN_PATIENT,
        DAY_IN_REGISTRY,
        "death_date | source | has_conflict\n2020-03-09 | death_registry | true",
        sources=REGISTRY_FIRST,
    )


def test_a_day_comes_before_a_year_and_any_date_before_none_whatever_the_order() -> None:
    expected = "death_date | source | precision | has_conflict\n2020-03-09 | death_registry | day | false"
    death(YEAR_IN_PATIENT, DAY_IN_REGISTRY, expected)
    death(NO_DATE_IN_PATIENT, DAY_IN_REGISTRY, expected)


def test_a_source_that_the_protocol_does_not_name_does_not_count() -> None:
    death(SILENT_PATIENT, DAY_IN_REGISTRY, "death_date", sources="source | position\npatient | 1")
    death(DAY_IN_PATIENT, DAY_IN_REGISTRY, "has_conflict\nfalse", sources="source | position\npatient | 1")


def test_alive_in_a_record_fetched_after_the_registrys_death_is_a_conflict() -> None:
    death(ALIVE_IN_PATIENT, DAY_IN_REGISTRY, "death_date | has_conflict\n2020-03-09 | true")
    earlier = PATIENT + "ann | 2020-02-01 | | | | | false"
    death(earlier, DAY_IN_REGISTRY, "death_date | has_conflict\n2020-03-09 | false")


def test_two_registries_that_differ_are_a_conflict_and_the_earlier_day_counts() -> None:
    death(
        SILENT_PATIENT,
        DAY_IN_REGISTRY + "\nann | church | 2021-01-01 | 2020-03-04 | day | 2020-03-04 | 2020-03-04",
        "death_date | has_conflict\n2020-03-04 | true",
    )


def test_a_registrys_death_dated_after_its_import_has_no_known_day() -> None:
    death(
        SILENT_PATIENT,
        REGISTRY + "ann | state | 2020-02-01 | 2020-03-09 | day | 2020-03-09 | 2020-03-09",
        "precision | has_conflict\nnone | true",
    )


def test_of_several_imports_the_last_says_what_the_registry_knows_and_merged_records_are_followed() -> None:
    run(
        "staging.registered_death",
        {
            "lake.death_registry": """
            patient_id | source | death_day  | imported_at
            old_ann    | state  | 2020-03-01 | 2020-06-01 00:00:00
            old_ann    | state  | 2020-03-02 | 2020-07-01 00:00:00
            old_ann    | church | 2020-03-03 | 2020-06-01 00:00:00
            bob        | state  | 2020-04-01 | 2020-06-01 00:00:00
            """,
            "staging.patient_link": "patient_id | survivor_id\nold_ann | ann",
        },
        """
        patient_id | source | death_day
        ann        | state  | 2020-03-02
        ann        | church | 2020-03-03
        bob        | state  | 2020-04-01
        """,
    )
