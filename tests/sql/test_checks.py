"""Each check finds the row that breaks it, and finds nothing in a database without patients."""

from __future__ import annotations

import pytest

from rwe.resources import bundled
from rwe.warehouse.models import load_checks, run_check
from tests.sql.drawn import database, insert

CHECKS = {c.name: c for c in load_checks(bundled("sql"))}

LIFE = "staging.patient", "patient_id | birth_first_day\nann | 1960-01-01"
BROKEN: dict[str, list[tuple[str, str]]] = {
    "reconciliation_adds_up": [
        (
            "meta.reconciliation",
            "resource_type | landed | in_lake | superseded | deleted | not_admitted | duplicate | quarantined"
            " | not_mapped | tombstones\n"
            "Patient | 12 | 5 | 1 | 1 | 1 | 1 | 1 | 1 | 0",
        )
    ],
    "survival_is_one_row_a_patient": [("cohort.survival", "patient_id\nann\nann")],
    "staging_keys_are_unique": [("staging.medication_event", "event_id\ne1\ne1")],
    "baseline_is_one_row_a_covariate": [("cohort.baseline", "patient_id | covariate\nann | age\nann | age")],
    "cohort_has_patients_behind_it": [("cohort.survival", "patient_id\nann")],
    "cohort_matches_attrition": [
        ("cohort.attrition", "step_number | n_after\n1 | 5\n2 | 2"),
        ("cohort.survival", "patient_id\nann"),
    ],
    "dates_are_in_order": [
        ("cohort.survival", "patient_id | time_days | start_day\nann | 10 | 11"),
        ("cohort.follow_up", "patient_id\nann"),
    ],
    "activity_after_death": [("cohort.death", "patient_id | has_conflict\nann | true")],
    "death_without_known_day": [
        ("cohort.death", "patient_id | is_date_imputed\nann | true"),
        ("cohort.follow_up", "patient_id\nann"),
    ],
    "exposure_before_birth": [LIFE, ("staging.procedure", "patient_id | last_day\nann | 1959-12-31")],
    "implausible_age": [("cohort.demographic", "patient_id | age_years\nann | 115.1")],
    "unresolved_medication": [("staging.medication_event", "patient_id | is_resolved\nann | false")],
    "dated_after_landing": [
        ("staging.encounter", "patient_id | start_day | landed_day\nann | 2020-01-02 | 2020-01-01")
    ],
    "unknown_status": [("staging.medication_event", "patient_id | status\nann | Completed")],
    "undated_exposure": [
        ("study.protocol", "study\ns"),
        ("study.exposure_tier", "tier\ndispense"),
        ("cohort.codelist_match", "codelist | patient_id | tier\nlenalidomide | ann | dispense"),
    ],
    "code_outside_validity": [
        ("staging.procedure", "procedure_id | first_day | last_day\np1 | 2020-01-01 | 2020-01-01"),
        ("staging.procedure_code", "procedure_id | system | code\np1 | local | x"),
        ("study.codelist", "codelist | system | code | valid_to\nx | local | x | 2019-12-31"),
    ],
    "mixed_units": [
        (
            "cohort.observed_value",
            "name | patient_id | value_unit\nldh | ann | U/L\nldh | bob | kat/L",
        )
    ],
}


def test_every_check_is_tested() -> None:
    assert BROKEN.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_check_finds_the_row_that_breaks_it_and_no_row_where_there_is_none(name: str) -> None:
    with database() as connection:
        assert run_check(connection, CHECKS[name]).rows == 0
        for table, text in BROKEN[name]:
            insert(connection, table, text)
        assert run_check(connection, CHECKS[name]).rows == 1
