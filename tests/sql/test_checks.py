"""Each check finds the row that breaks it, and finds nothing in a database without patients."""

from __future__ import annotations

import pytest

from rwe.resources import bundled
from rwe.warehouse.models import Finding, load_checks, run_check
from tests.sql.drawn import database, insert

CHECKS = {c.name: c for c in load_checks(bundled("sql"))}

_TOXIC = "patient_id | toxicity | day | value_unit\n"
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
        (
            "cohort.codelist_match",
            "codelist | kind | patient_id | tier\nlenalidomide | medication | ann | dispense",
        ),
    ],
    "undated_progression": [
        ("study.protocol", "study\ns"),
        ("cohort.survival", "patient_id | start_day\nann | 75"),
        (
            "cohort.disease_status",
            "patient_id | earliest_day | latest_day | status\nann | 60 | 90 | progressed",
        ),
    ],
    "code_outside_validity": [
        ("staging.procedure", "procedure_id | first_day | last_day\np1 | 2020-01-01 | 2020-01-01"),
        ("staging.procedure_code", "procedure_id | system | code\np1 | local | x"),
        ("study.codelist", "codelist | system | code | valid_to\nx | local | x | 2019-12-31"),
    ],
    "mixed_units": [
        (
            "cohort.measured_value",
            "name | patient_id | value_unit | is_counted\n"
            "ldh | ann | U/L | true\nldh | bob | kat/L | true\necog | ann | U/L | true",
        )
    ],
    "value_in_other_unit": [
        (
            "cohort.measured_value",
            "name | patient_id | value_unit | is_counted\nldh | ann | U/L | true\nldh | ann | kat/L | false",
        )
    ],
    "value_with_comparator": [
        (
            "cohort.measured_value",
            "purpose | name | patient_id | observed_day | value_comparator\n"
            "covariate | ldh | ann | -2 | <\ncovariate | ldh | ann | -2 |\ncovariate | ldh | ann | -9 | <",
        ),
        (
            "cohort.observed_value",
            "purpose | name | patient_id | observed_day\ncovariate | ldh | ann | -2",
        ),
    ],
    "data_cutoff_after_landing": [
        ("study.protocol", "censoring_rule | data_cutoff\ndata_cutoff | 2020-06-02"),
        ("cohort.follow_up", "patient_id | site\nann | north\nbob | north\ncat | south"),
        (
            "meta.run",
            "site | finished_at\nnorth | 2020-05-01 23:00:00\nnorth | 2020-06-01 23:00:00\n"
            "south | 2020-06-02 01:00:00",
        ),
    ],
    "data_cutoff_long_after_care": [
        ("study.protocol", "censoring_rule | data_cutoff\ndata_cutoff | 2020-03-02"),
        ("cohort.follow_up", "patient_id | site\nann | north\nbob | north\ncat | south"),
        ("staging.patient", "patient_id | site\nann | north\ncat | south"),
        # 61 days are too many, 60 are not.
        ("staging.contact", "patient_id | contact_day\nann | 2020-01-01\ncat | 2020-01-02"),
    ],
    "quarantined_resources": [("meta.refused_resource", "resource_type | rule\nPatient | id")],
    "counts_dropped": [
        (
            "meta.previous_count",
            "site | resource_type | in_lake\nnorth | Patient | 100\nnorth | Condition | 100",
        ),
        (
            "meta.reconciliation",
            "site | run | resource_type | in_lake\nnorth | r1 | Patient | 49\nnorth | r2 | Patient | 40\n"
            "north | r1 | Condition | 90",
        ),
    ],
    "missing_code_system": [
        (
            "meta.unmapped_code",
            "element | system | code | text\ncode | | 4711 |\ncode | local | 4712 |\ncode | | | Pred. 5 mg",
        )
    ],
    "unmapped_codes": [("meta.unmapped_code", "element | code\ncode | x\nvalue | y")],
    "text_looks_like_study_drug": [
        ("study.drug_word", "codelist | word\nlenalidomide | lenalidomid"),
        ("study.codelist", "codelist | system | code\nlenalidomide | atc | L04AX04"),
        ("staging.medication_event", "event_id\nunmapped\nmatched\nother"),
        (
            "staging.medication_text",
            "event_id | text\nunmapped | LENALIDOMID 10 MG\nmatched | Lenalidomide\nother | Thalidomid",
        ),
        (
            "staging.medication_code",
            "event_id | system | code\nunmapped | local | 4711\nmatched | atc | L04AX04\nmatched | local | 1",
        ),
    ],
    "ambiguous_ndc": [
        (
            "staging.medication_code",
            "event_id | system | code\ne1 | ndc | 5957240500\ne2 | ndc | 59572040500\n"
            "e3 | local | 5957240500",
        )
    ],
    "implausible_value": [
        (
            "cohort.measured_value",
            "name | patient_id | recorded_number | recorded_unit | is_implausible\n"
            "ldh | ann | -1 | U/L | false\ntemperature | bob | -1 | Cel | false\nldh | cat | 5 | U/L | false",
        ),
        ("ref.unit", "unit | offset_value\nU/L | 0\nCel | 32"),
    ],
    "unknown_unit": [
        (
            "cohort.measured_value",
            "name | patient_id | recorded_unit\nldh | ann | WE\nldh | bob | U/L\nldh | cat |",
        ),
        ("ref.unit", "unit\nU/L"),
    ],
    "orphans": [
        LIFE,
        ("staging.observation", "patient_id | component_number\nann | 0\nbob | 0\nbob | 1"),
    ],
    "cohort_keys_are_unique": [
        ("cohort.toxicity", f"{_TOXIC}ann | anc | 5 | 10*9/L\nann | anc | 5 | 10*9/L")
    ],
    "person_periods_add_up": [
        ("cohort.survival", "patient_id | time_days | is_event\nann | 30 | true\nbob | 30 | false"),
        (
            "cohort.person_period",
            "patient_id | start_day | stop_day | is_event\nann | 0 | 10 | false\nann | 10 | 30 | false\n"
            "bob | 0 | 30 | false",
        ),
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


def found(name: str, *given: tuple[str, str]) -> Finding:
    with database() as connection:
        for table, text in given:
            insert(connection, table, text)
        return run_check(connection, CHECKS[name])


def test_a_data_cut_off_in_the_future_stops_the_build_and_names_study_and_site() -> None:
    finding = found("data_cutoff_after_landing", *BROKEN["data_cutoff_after_landing"])
    assert finding.severity == "error"
    assert finding.message.endswith("(s at north)")


def test_a_data_cut_off_up_to_the_day_of_the_last_landing_is_fine_and_concerns_no_other_rule() -> None:
    cohort = "cohort.follow_up", "patient_id\nann"
    run = "meta.run", "site | finished_at\nnorth | 2020-06-01 23:00:00"
    own_day_is_ahead = "staging.patient", "patient_id | landed_day\nann | 2020-06-02"
    cutoff = "study.protocol", "censoring_rule | data_cutoff\ndata_cutoff | 2020-06-02"
    last_activity = "study.protocol", "censoring_rule | data_cutoff\nlast_activity | 2035-01-01"
    assert found("data_cutoff_after_landing", cohort, run, cutoff).rows == 1
    assert found("data_cutoff_after_landing", cohort, run, own_day_is_ahead, cutoff).rows == 0
    assert found("data_cutoff_after_landing", cohort, run, last_activity).rows == 0


def test_a_site_without_any_recorded_care_has_none_near_the_data_cut_off() -> None:
    cutoff = "study.protocol", "censoring_rule | data_cutoff\ndata_cutoff | 2020-03-02"
    finding = found("data_cutoff_long_after_care", ("cohort.follow_up", "patient_id\nann"), cutoff)
    assert (finding.severity, finding.rows) == ("warning", 1)


def test_refused_resources_are_counted_by_site_type_and_rule_the_commonest_first() -> None:
    refused = """
    site  | resource_type | rule
    north | Patient       | id
    south | Observation   | modifier_extension
    south | Observation   | modifier_extension
    """
    finding = found("quarantined_resources", ("meta.refused_resource", refused))
    assert finding.rows == 3
    assert finding.message.endswith("(south Observation modifier_extension: 2, north Patient id)")


def test_no_more_than_five_kinds_of_refusals_are_named() -> None:
    rows = "\n".join(f"Patient | rule_{n}" for n in range(7))
    finding = found("quarantined_resources", ("meta.refused_resource", f"resource_type | rule\n{rows}"))
    assert finding.message.endswith("north Patient rule_4, and 2 more)")


@pytest.mark.parametrize(
    ("earliest", "latest", "start", "is_doubtful"),
    [
        ("60", "90", "59", False),  # before all of the month
        ("60", "90", "60", True),
        ("-14", "16", "10", True),  # the month of the index day: before index, or before the start?
        ("-14", "16", "40", True),
        ("-60", "-30", "10", False),  # before index for sure
        ("-14", "0", "10", False),
        ("", "", "10", True),  # on no known date
        ("60", "90", "", False),  # nothing was started
    ],
)
def test_a_start_is_doubtful_if_a_vague_progression_may_lie_between_index_and_it(
    earliest: str, latest: str, start: str, is_doubtful: bool
) -> None:
    given = (
        ("cohort.survival", f"patient_id | start_day\nann | {start}"),
        (
            "cohort.disease_status",
            f"patient_id | earliest_day | latest_day | status\nann | {earliest} | {latest} | progressed",
        ),
    )
    assert found("undated_progression", ("study.protocol", "study\ns"), *given).rows == is_doubtful
    indifferent = "study.protocol", "unless_progressed\nfalse"
    assert found("undated_progression", indifferent, *given).rows == 0


def test_a_progression_of_a_known_day_and_a_vague_response_leave_no_doubt() -> None:
    known = """
    patient_id | status_day | earliest_day | latest_day | status
    ann        | 90         | 90           | 90         | progressed
    ann        |            | 60           | 90         | responding
    """
    given = ("cohort.survival", "patient_id | start_day\nann | 75"), ("cohort.disease_status", known)
    assert found("undated_progression", ("study.protocol", "study\ns"), *given).rows == 0
