"""Values, units, components, local codes, National Drug Codes, doses and supplies."""

# ruff: noqa: E501 - drawn tables are as wide as they must be

from __future__ import annotations

import pytest

from rwe.drug_names import normalised_ndc
from tests.sql.drawn import run


def test_the_components_of_an_observation_are_rows_of_their_own_numbered_by_their_codes() -> None:
    run(
        "staging.observation",
        {
            "lake.observation": """
            resource_id | patient_id | status | effective_day | codings      | components
            pressure    | ann        | final  | 2020-01-01    | loinc 85354-9 | loinc 8480-6 = 120 mm[Hg]; loinc 8462-4 = 80 mm[Hg]
            weight      | ann        | final  | 2020-01-02    | loinc 29463-7 |
            """
        },
        """
        observation_id | component_number | patient_id | is_valid | observed_day | value_kind | value_number | value_unit
        pressure       | 0                | ann        | true     | 2020-01-01   |            |              |
        pressure       | 1                | ann        | true     | 2020-01-01   | Quantity   | 80.0         | mm[Hg]
        pressure       | 2                | ann        | true     | 2020-01-01   | Quantity   | 120.0        | mm[Hg]
        weight         | 0                | ann        | true     | 2020-01-02   |            |              |
        """,
    )


def test_a_code_and_a_coded_answer_belong_to_the_component_that_has_them() -> None:
    given = {
        "lake.observation": """
        resource_id | codings       | value_codings       | components
        status      | loinc 97509-4 | snomed 260415000    | local trend = snomed 271299001; local other = 3 1
        """
    }
    run(
        "staging.observation_code",
        given,
        """
        observation_id | component_number | system                       | code
        status         | 0                | http://loinc.org             | 97509-4
        status         | 1                | http://example.org/rwe/codes | other
        status         | 2                | http://example.org/rwe/codes | trend
        """,
    )
    run(
        "staging.observation_value",
        given,
        """
        observation_id | component_number | system                 | code
        status         | 0                | http://snomed.info/sct | 260415000
        status         | 2                | http://snomed.info/sct | 271299001
        """,
    )


def test_a_code_list_matches_a_component_and_its_value_not_the_panels() -> None:
    run(
        "cohort.codelist_match",
        {
            "staging.observation": """
            observation_id | component_number | patient_id | observed_day | first_day  | last_day
            pressure       | 0                | ann        | 2020-01-01   | 2020-01-01 | 2020-01-01
            pressure       | 1                | ann        | 2020-01-01   | 2020-01-01 | 2020-01-01
            """,
            "staging.observation_code": """
            observation_id | component_number | system | code
            pressure       | 0                | loinc  | 85354-9
            pressure       | 1                | loinc  | 8480-6
            """,
            "study.codelist": "codelist | system | code\nsystolic | loinc | 8480-6",
        },
        "codelist | event_id | component_number\nsystolic | pressure | 1",
    )


@pytest.mark.parametrize(
    ("recorded", "number", "canonical", "canonical_number"),
    [
        ("mg/dL", "90", "g/L", "0.9"),
        ("mg/dl", "90", "g/L", "0.9"),
        ("gm/dl", "9", "g/L", "90.0"),
        ("mEq/L", "4", "meq/L", "4.0"),
        ("x10E3/uL", "1.5", "10*9/L", "1.5"),
        ("K/uL", "1.5", "10*9/L", "1.5"),
        ("/uL", "1500", "10*9/L", "1.5"),
        ("10^9/L", "1.5", "10*9/L", "1.5"),
        ("µkat/L", "4", "U/L", "240.0"),
        ("Einheiten", "4", "", ""),
        ("", "4", "", ""),
    ],
)
def test_a_number_is_turned_into_the_canonical_unit_and_stays_as_recorded_beside_it(
    recorded: str, number: str, canonical: str, canonical_number: str
) -> None:
    run(
        "staging.observation",
        {"lake.observation": f"resource_id | value_number | value_unit\nx | {number} | {recorded}"},
        f"""
        value_number    | value_unit | canonical_unit | canonical_number
        {float(number)} | {recorded} | {canonical}    | {canonical_number}
        """,
    )


def test_the_ucum_code_comes_before_the_unit_as_it_is_printed() -> None:
    run(
        "staging.observation",
        {
            "lake.observation": "resource_id | value_number | value_unit | value_unit_code\nx | 2 | Zellen | 10*3/uL"
        },
        "value_unit | canonical_unit | canonical_number\n10*3/uL | 10*9/L | 2.0",
    )


def test_interpretation_absent_reason_and_the_one_range_of_the_healthy_stand_beside_the_value() -> None:
    run(
        "staging.observation",
        {
            "lake.observation": """
            resource_id | value_number | value_unit | interpretation_codings | absent_reason_codings | reference_ranges
            low         | 1.2          | 10*9/L     | local L, local LL      |                       | 1800 7000 /uL
            absent      |              |            |                        | local unknown         |
            therapy     | 1.2          | 10*9/L     |                        |                       | 1 2 10*9/L therapeutic; 1.8 7 - normal
            two         | 1.2          | 10*9/L     |                        |                       | 1.8 7 10*9/L; 1.5 6 10*9/L
            other_kind  | 1.2          | 10*9/L     |                        |                       | 1.8 7 g/L
            """
        },
        """
        observation_id | interpretation | absent_reason | reference_low | reference_high
        low            | L              |               | 1.8           | 7.0
        absent         |                | unknown       |               |
        therapy        |                |               | 1.8           | 7.0
        two            |                |               |               |
        other_kind     |                |               |               |
        """,
    )


MAP = """
site  | system                       | code | target_system            | target_code | valid_from | valid_to
north | http://example.org/rwe/codes | 4711 | http://www.whocc.no/atc  | L04AX04     |            |
north | http://example.org/rwe/codes | 4712 | http://www.whocc.no/atc  | L04AX04     | 2020-01-01 | 2020-12-31
north |                              | 4713 | http://www.whocc.no/atc  | L04AX04     |            |
"""


def test_a_sites_own_code_is_translated_by_its_map_on_the_days_on_which_that_holds() -> None:
    run(
        "staging.medication_code",
        {
            # What has no system is in the map under an empty one.
            "ref.code_map": MAP.replace("north |                              |", "north | '' |"),
            "lake.medication_administration": """
            resource_id | site  | codings                   | start_first_day | start_last_day
            open        | north | local 4711                |                 |
            in_time     | north | local 4712                | 2020-12-31      | 2020-12-31
            too_late    | north | local 4712                | 2021-01-01      | 2021-01-01
            maybe       | north | local 4712                | 2020-12-01      | 2021-01-31
            undated     | north | local 4712                |                 |
            elsewhere   | south | local 4711                |                 |
            systemless  | north | none 4713                 |                 |
            both        | north | local 4711, atc L04AX04   |                 |
            """,
        },
        """
        event_id   | system                       | code    | is_mapped
        open       | http://example.org/rwe/codes | 4711    | false
        open       | http://www.whocc.no/atc      | L04AX04 | true
        in_time    | http://example.org/rwe/codes | 4712    | false
        in_time    | http://www.whocc.no/atc      | L04AX04 | true
        too_late   | http://example.org/rwe/codes | 4712    | false
        maybe      | http://example.org/rwe/codes | 4712    | false
        undated    | http://example.org/rwe/codes | 4712    | false
        elsewhere  | http://example.org/rwe/codes | 4711    | false
        systemless | http://www.whocc.no/atc      | L04AX04 | true
        both       | http://example.org/rwe/codes | 4711    | false
        both       | http://www.whocc.no/atc      | L04AX04 | false
        """,
    )


@pytest.mark.parametrize(
    ("model", "table", "column"),
    [
        ("staging.observation_code", "lake.observation", "codings"),
        ("staging.observation_value", "lake.observation", "value_codings"),
        ("staging.condition_code", "lake.condition", "codings"),
        ("staging.procedure_code", "lake.procedure", "codings"),
    ],
)
def test_the_map_translates_the_codes_of_every_kind_of_record(model: str, table: str, column: str) -> None:
    run(
        model,
        {
            "ref.code_map": "system | code | target_system | target_code\nlocal | 4711 | snomed | 271299001",
            table: f"resource_id | {column}\nx | local 4711",
        },
        """
        system                       | code      | is_mapped
        http://example.org/rwe/codes | 4711      | false
        http://snomed.info/sct       | 271299001 | true
        """,
    )


NDCS = [
    ("0002-8215-01", "00002821501"),  # 4-4-2
    ("59572-405-00", "59572040500"),  # 5-3-2
    ("59572-0405-0", "59572040500"),  # 5-4-1
    ("59572-0405-00", "59572040500"),
    ("59572040500", "59572040500"),
    ("5957240500", "5957240500"),  # may be three codes
    ("0002-821-1", "0002-821-1"),  # too short to be one
    ("123456-405-00", "123456-405-00"),
    ("59572-405", "59572-405"),  # a product without its package
    ("59572-405-00-1", "59572-405-00-1"),
]


@pytest.mark.parametrize(("written", "normal"), NDCS)
def test_a_national_drug_code_has_one_form_in_records_and_in_code_lists(written: str, normal: str) -> None:
    run(
        "staging.medication_code",
        {"lake.medication_dispense": f"resource_id | codings\nd1 | ndc {written}, local {written}"},
        f"""
        system                           | code
        http://hl7.org/fhir/sid/ndc      | {normal}
        http://example.org/rwe/codes     | {written}
        """,
    )
    assert normalised_ndc(written) == normal


def test_ten_codings_on_one_concept_are_ten_codes_of_one_record_that_matches_once() -> None:
    codings = ", ".join(["atc L04AX04", "rxnorm 342369", *(f"local c{n}" for n in range(8))])
    run(
        "staging.medication_code",
        {"lake.medication_administration": f"resource_id | codings\ne1 | {codings}"},
        "event_id | code\n" + "\n".join(f"e1 | {c.split()[1]}" for c in codings.split(",")),
    )


def test_a_supply_lasts_its_days_the_first_included_and_a_recorded_end_comes_first() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_dispense": """
            resource_id | handed_over_day | handed_over_first_day | supply_days
            four_weeks  | 2020-01-01      | 2020-01-01            | 28
            a_day       | 2020-01-01      | 2020-01-01            | 1
            half_a_day  | 2020-01-01      | 2020-01-01            | 0.5
            nothing     | 2020-01-01      | 2020-01-01            | 0
            decades     | 2020-01-01      | 2020-01-01            | 99999
            vague       |                 | 2020-01-01            | 28
            """,
            "lake.medication_statement": """
            resource_id | status | start_day  | start_first_day | end_day    | end_first_day | end_precision | asserted_day
            ended       | active | 2020-01-01 | 2020-01-01      | 2020-02-01 | 2020-02-01    | day           | 2020-03-01
            month       | active | 2020-01-01 | 2020-01-01      |            | 2020-02-01    | month         | 2020-03-01
            """,
        },
        """
        event_id   | end_day    | end_basis | end_precision
        four_weeks | 2020-01-28 | supply    |
        a_day      | 2020-01-01 | supply    |
        half_a_day | 2020-01-01 | supply    |
        nothing    |            |           |
        decades    |            |           |
        vague      |            |           |
        ended      | 2020-02-01 | recorded  | day
        month      |            | recorded  | month
        """,
    )


def test_a_dose_has_its_unit_and_its_value_in_the_canonical_one() -> None:
    run(
        "staging.medication_event",
        {
            "lake.medication_administration": """
            resource_id | dose_value | dose_unit | dose_unit_code
            in_mg       | 10         | mg        |
            in_capsules | 1          | Kapsel    | {capsule}
            """
        },
        """
        event_id    | dose_value | dose_unit | canonical_dose | dose_canonical_unit
        in_mg       | 10.0       | mg        | 0.01           | g
        in_capsules | 1.0        | {capsule} | 1.0            | 1
        """,
    )


def test_a_patient_marked_inactive_is_a_patient_and_a_birth_year_has_no_day() -> None:
    run(
        "staging.patient",
        {
            "lake.patient": """
            resource_id | is_active | deceased_boolean | birth_precision | birth_first_day | birth_last_day
            dead        | false     | true             | year            | 1950-01-01      | 1950-12-31
            """
        },
        """
        patient_id | is_active | deceased_boolean | birth_day | birth_first_day | birth_last_day
        dead       | false     | true             |           | 1950-01-01      | 1950-12-31
        """,
    )


def test_the_texts_of_a_medication_are_its_own_and_those_of_what_it_refers_to() -> None:
    run(
        "staging.medication_text",
        {
            "lake.medication_request": """
            resource_id | medication_text | codings             | medication_resource_id
            r1          | Prednison 5 mg  | local 1 (PREDNISON) |
            r2          |                 |                     | m1
            r3          |                 |                     | m404
            """,
            "lake.medication": "resource_id | medication_text | codings\nm1 | Prednison | local 2 (Decortin)",
        },
        "event_id | text\nr1 | Prednison 5 mg\nr1 | PREDNISON\nr2 | Prednison\nr2 | Decortin",
    )
