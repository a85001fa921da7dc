"""What is refused at last, what no code map knows, and where columns come from."""

# ruff: noqa: E501 - drawn tables are as wide as they must be

from __future__ import annotations

import pytest

from rwe.warehouse.lineage import insert_lineage
from tests.sql.drawn import database, models, run

REFUSED = """
resource_type | resource_pseudonym | rule | action | site  | run | line | updated_at          | version_number | landed_at
Observation   | o1                 | id   | reject | north | r1  | 5    | 2020-01-02 00:00:00 | 1              | 2020-01-03 00:00:00
"""


def test_a_refused_version_counts_as_long_as_no_later_one_is_there() -> None:
    run("meta.refused_resource", {"lake.quarantine": REFUSED}, "resource_pseudonym | run | line\no1 | r1 | 5")


@pytest.mark.parametrize(
    ("updated_at", "version_number", "counts"),
    [
        ("2020-01-01 00:00:00", "1", True),  # accepted before: the refused one is the latest
        ("2020-01-03 00:00:00", "1", False),
        ("2020-01-02 00:00:00", "2", False),
    ],
)
def test_a_version_accepted_later_replaces_the_refused_one(
    updated_at: str, version_number: str, counts: bool
) -> None:
    run(
        "meta.refused_resource",
        {
            "lake.quarantine": REFUSED,
            "lake.observation": "resource_id | run | line | updated_at | version_number | landed_at\n"
            f"o1 | r2 | 1 | {updated_at} | {version_number} | 2020-01-04 00:00:00",
        },
        "resource_pseudonym\n" + ("o1" if counts else ""),
    )


def test_of_two_refused_versions_the_later_counts_and_a_flag_is_no_refusal() -> None:
    run(
        "meta.refused_resource",
        {
            "lake.quarantine": REFUSED
            + "Observation | o1 | id           | reject | north | r2 | 7 | 2020-02-02 00:00:00 | 1 | 2020-02-03 00:00:00\n"
            + "Observation | o2 | fhir_invalid | flag   | north | r2 | 8 | 2020-02-02 00:00:00 | 1 | 2020-02-03 00:00:00"
        },
        "resource_pseudonym | run | line\no1 | r2 | 7",
    )


def test_what_the_server_deleted_since_is_no_longer_refused() -> None:
    deleted = "resource_type | resource_id | deleted_at | landed_at | run | line\n"
    run(
        "meta.refused_resource",
        {
            "lake.quarantine": REFUSED,
            "lake.tombstone": deleted
            + "Observation | o1 | 2020-01-02 00:00:00 | 2020-01-05 00:00:00 | r2 | 1",
        },
        "resource_pseudonym",
    )


def test_lines_without_an_id_count_of_the_newest_run_that_has_any() -> None:
    header = "resource_type | resource_pseudonym | rule | action | site | run | line\n"
    run(
        "meta.refused_resource",
        {
            "lake.quarantine": header + "_unreadable | | not_json | reject | north | r1 | 1\n"
            "_unreadable | | not_json | reject | north | r2 | 1\n"
            "_unreadable | | not_json | reject | north | r2 | 2\n"
            "_unreadable | | not_json | reject | south | r1 | 9"
        },
        "site | run | line\nnorth | r2 | 1\nnorth | r2 | 2\nsouth | r1 | 9",
    )


def test_codes_that_nobody_knows_are_counted_with_their_texts() -> None:
    run(
        "meta.unmapped_code",
        {
            "lake.medication_dispense": """
            resource_id | patient_id | site  | codings                                   | medication_text
            d1          | ann        | north | local 4711 (Revl. 10)                     |
            d2          | ann        | north | local 4711 (Revl. 10)                     |
            d3          | bob        | north | local 4711 (Revl. 10)                     |
            d4          | bob        | north | local 4711 (REVL)                         |
            known       | ann        | north | local 4711 (Revl. 10), atc L04AX04        |
            text        | ann        | south |                                           | Kapseln n. Plan
            mapped      | ann        | south | local 4712                                |
            systemless  | ann        | south | none 99                                   |
            """,
            "staging.medication_code": """
            event_id | system | code    | is_mapped
            d1       | local  | 4711    | false
            known    | local  | 4711    | false
            known    | atc    | L04AX04 | false
            mapped   | local  | 4712    | false
            mapped   | atc    | L04AX04 | true
            """,
            "lake.observation": "resource_id | patient_id | site | codings | value_codings\n"
            "o1 | ann | north | local listed | local PD",
            "staging.observation_code": "observation_id | system | code | is_mapped\no1 | local | listed | false",
            "study.codelist": "codelist | system | code\nperf | local | listed",
        },
        """
        site  | resource_type      | element | system                       | code | text            | n_records | n_patients
        north | MedicationDispense | code    | http://example.org/rwe/codes | 4711 | Revl. 10        | 3         | 2
        north | MedicationDispense | code    | http://example.org/rwe/codes | 4711 | REVL            | 1         | 1
        south | MedicationDispense | code    |                              |      | Kapseln n. Plan | 1         | 1
        south | MedicationDispense | code    |                              | 99   |                 | 1         | 1
        north | Observation        | value   | http://example.org/rwe/codes | PD   |                 | 1         | 1
        """,
    )


def test_lineage_leads_from_a_column_to_those_it_is_made_of() -> None:
    with database() as connection:
        assert insert_lineage(connection, list(models().values())) > 500
        found = {
            tuple(row)
            for row in connection.execute(
                "select table_schema || '.' || table_name, column_name,"
                " source_schema || '.' || source_table || '.' || source_column from meta.lineage"
            ).fetchall()
        }
        made = {
            (f"{schema}.{table}", column)
            for schema, table, column in connection.execute(
                "select schema_name, table_name, column_name from duckdb_columns()"
                " where schema_name in ('staging', 'cohort')"
            ).fetchall()
        }
    assert ("cohort.survival", "time_days", "cohort.follow_up.time_days") in found
    assert ("cohort.follow_up", "time_days", "cohort.death.death_date") in found
    assert ("cohort.death", "death_date", "staging.registered_death.death_day") in found
    assert ("staging.observation", "canonical_number", "ref.unit.factor") in found
    assert ("staging.observation", "value_number", "lake.observation.components") in found
    assert ("staging.patient", "birth_day", "lake.patient.birth_day") in found
    # Every column but constants and counts has a source.
    constant = {"kind", "purpose", "resource_type", "is_mapped", "is_event"}
    without = made - {(table, column) for table, column, _ in found}
    assert {column for _, column in without if not column.startswith("n_")} <= constant


def test_lineage_names_only_columns_that_exist() -> None:
    with database() as connection:
        insert_lineage(connection, list(models().values()))
        assert (
            connection.execute(
                """
            select l.* from meta.lineage as l
            left join duckdb_columns() as c
                on c.schema_name = l.source_schema and c.table_name = l.source_table
                and c.column_name = l.source_column
            where c.column_name is null
            """
            ).fetchall()
            == []
        )
