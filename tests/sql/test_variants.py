"""The sensitivity grid on drawn records: each rule moves the patients whom it should, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from rwe.analyse.read import VariantTables, read_variants
from rwe.codes import ATC, LOINC, Code
from rwe.study import Codelist, Protocol, Study
from rwe.warehouse.models import run_model
from rwe.warehouse.variants import make_variants, open_with_scratch
from tests.sql import drawn

CAR_T, MAINTENANCE, STATUS = "L01XL04", "L04AX04", "21976-6"
PROTOCOL: dict[str, Any] = {
    "name": "s",
    "version": "1.0.0",
    "title": "Drawn",
    "question": "Which?",
    "index_event": {"codelist": "car_t", "sources": ["MedicationAdministration"]},
    "exposure": {"codelist": "lenalidomide", "tiers": ["administration", "dispense"], "gap_days": 60},
    "strategies": {
        "treated": {"name": "maintenance", "label": "Maintenance", "grace_days": 180},
        "control": {"name": "no_maintenance", "label": "None"},
    },
    "disease_status": {"codelist": "status", "responding": "response", "progressed": "progression"},
    "analyses": [{"analysis": "time_dependent_cox", "role": "primary"}],
}
#: Day 0 of everybody is 2020-01-01.
RECORDS = """
patient_id | tier           | code     | start_day
ann        | administration | L01XL04  | 2020-01-01
bob        | administration | L01XL04  | 2020-01-01
cyd        | administration | L01XL04  | 2020-01-01
dan        | administration | L01XL04  | 2020-01-01
eve        | administration | L01XL04  | 2020-01-01
fay        | administration | L01XL04  | 2020-01-01
ann        | administration | L04AX04  | 2020-01-31
bob        | dispense       | L04AX04  | 2020-02-10
cyd        | request        | L04AX04  | 2020-02-20
eve        | administration | L04AX04  | 2020-03-31
fay        | administration | L04AX04  | 2020-01-21
fay        | administration | L04AX04  | 2020-03-06
"""
PATIENTS = """
patient_id | deceased_boolean | deceased_day | deceased_precision | deceased_first_day | deceased_last_day
ann        | true             | 2021-02-04   | day                | 2021-02-04         | 2021-02-04
bob        |                  |              |                    |                    |
cyd        |                  |              |                    |                    |
dan        | true             |              |                    |                    |
eve        | true             | 2020-09-07   | day                | 2020-09-07         | 2020-09-07
fay        |                  |              |                    |                    |
"""
CONTACTS = """
patient_id | resource_type | contact_day
ann        | Encounter     | 2020-12-01
bob        | Encounter     | 2020-10-27
cyd        | Encounter     | 2020-12-16
dan        | Encounter     | 2020-07-19
eve        | Encounter     | 2020-09-01
fay        | Encounter     | 2021-05-15
"""
#: Patient → follow-up, event, start. Eve starts after her progression on day 60; Cyd has an order only.
OWN = {
    "ann": (400, True, 30),
    "bob": (300, False, 40),
    "cyd": (350, False, None),
    "dan": (200, True, None),
    "eve": (250, True, None),
    "fay": (500, False, 20),
}


def study(*grid: dict[str, Any]) -> Study:
    """The drawn study; progression is LOINC LA1, a response LA2."""
    lists = {"car_t": (ATC, CAR_T), "lenalidomide": (ATC, MAINTENANCE), "status": (LOINC, STATUS)}
    lists |= {"response": (LOINC, "1234-4"), "progression": (LOINC, "1235-1")}
    codelists = {
        name: Codelist(name, (Code(system, code, "drawn", "drawn", None, None, False),))
        for name, (system, code) in lists.items()
    }
    protocol = Protocol.model_validate(PROTOCOL | {"sensitivity_grid": list(grid)})
    return Study(protocol, codelists, Path("s.yaml"))


def with_days(text: str) -> str:
    """Events known to the day: their first and last possible day are that day."""
    header, rows = drawn.draw(text)
    day = header.index("start_day")
    lines = [" | ".join([*header, "first_day", "last_day", "event_id", "resource_type"])]
    kinds = {
        "administration": "MedicationAdministration",
        "dispense": "MedicationDispense",
        "request": "MedicationRequest",
    }
    for i, row in enumerate(rows):
        cells = [c or "" for c in row]
        lines.append(
            " | ".join([*cells, cells[day], cells[day], f"m{i}", kinds[cells[header.index("tier")]]])
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private build of the drawn records, as far as the cohort goes."""
    path = tmp_path_factory.mktemp("variants") / "private.duckdb"
    header, rows = drawn.draw(with_days(RECORDS))
    place = {name: header.index(name) for name in header}
    codes = [
        "event_id | system | code",
        *(f"{r[place['event_id']]} | atc | {r[place['code']]}" for r in rows),
    ]
    kept = [c for c in header if c != "code"]
    events = [" | ".join(kept), *(" | ".join(r[place[c]] or "" for c in kept) for r in rows)]
    with closing(duckdb.connect(str(path))) as connection:
        drawn.make_tables(connection, [study()])
        for model in drawn.models().values():
            if model.schema == "staging":
                run_model(connection, model)
        drawn.insert(connection, "staging.patient", PATIENTS)
        drawn.insert(connection, "staging.contact", CONTACTS)
        drawn.insert(connection, "staging.medication_event", "\n".join(events))
        drawn.insert(connection, "staging.medication_code", "\n".join(codes))
        drawn.insert(
            connection,
            "staging.observation",
            "observation_id | patient_id | observed_day | first_day | last_day\n"
            "o1 | eve | 2020-03-01 | 2020-03-01 | 2020-03-01",
        )
        drawn.insert(
            connection, "staging.observation_code", f"observation_id | system | code\no1 | loinc | {STATUS}"
        )
        drawn.insert(
            connection, "staging.observation_value", "observation_id | system | code\no1 | loinc | 1235-1"
        )
        for model in drawn.models().values():
            if model.schema == "cohort":
                run_model(connection, model)
    return path


def rows(table: Any) -> dict[str, tuple[int, bool, int | None]]:
    return {
        r.patient_id: (r.time_days, r.is_event, None if pd.isna(r.start_day) else int(r.start_day))
        for r in table.itertuples()
    }


TIERS = {"rule": "exposure_tiers", "value": ["administration"]}
ORDERS = {"rule": "exposure_tiers", "value": ["administration", "dispense", "request"]}
NO_UNDATED = {"rule": "death_without_date", "value": "exclude"}
CUT_OFF = {"rule": "censoring", "value": "data_cutoff", "data_cutoff": "2021-01-31"}
COMMON_DAY = {"rule": "censoring", "value": "data_cutoff"}
GAP = {"rule": "gap_days", "value": 10}
GRID = (TIERS, ORDERS, NO_UNDATED, CUT_OFF, COMMON_DAY, GAP)


@pytest.fixture(scope="module")
def variants(private: Path) -> tuple[VariantTables, ...]:
    """Every variant, made at once: each under its own rule."""
    return read_variants(private, study(*GRID))


@pytest.fixture
def main_cohort(private: Path) -> Iterator[dict[str, tuple[int, bool, int | None]]]:
    with closing(duckdb.connect(str(private), read_only=True)) as db:
        yield rows(db.execute("from cohort.survival where study = 's'").df())


def test_the_protocols_own_rules_give_the_drawn_cohort(
    main_cohort: dict[str, tuple[int, bool, int | None]],
) -> None:
    assert main_cohort == OWN


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        # Bob's only record is a dispensing.
        (TIERS, {"bob": (300, False, None)}),
        # Cyd's only record is an order.
        (ORDERS, {"cyd": (350, False, 50)}),
        # Dan died on no known day: he is out of the cohort.
        (NO_UNDATED, {"dan": None}),
        # On day 396 Ann was still alive; the living are followed until then; the dead stay dead.
        (
            CUT_OFF,
            {
                "ann": (396, False, 30),
                "bob": (396, False, 40),
                "cyd": (396, False, None),
                "fay": (396, False, 20),
            },
        ),
        # Without a day named: the last day of follow-up of the only site, Fay's 500th.
        (COMMON_DAY, {"bob": (500, False, 40), "cyd": (500, False, None)}),
        # Fay's two records become two episodes, but her first start stays.
        (GAP, {}),
    ],
)
def test_a_rule_moves_the_patients_whom_it_is_about_and_nobody_else(
    variants: tuple[VariantTables, ...], change: dict[str, Any], moved: dict[str, Any]
) -> None:
    expected = {who: facts for who, facts in (OWN | moved).items() if facts is not None}
    found = variants[GRID.index(change)]
    assert found.change.rule == change["rule"]
    assert rows(found.survival) == expected


def test_an_entry_about_censoring_says_its_day(variants: tuple[VariantTables, ...]) -> None:
    days = [str(v.data_cutoff) for v in variants if v.data_cutoff is not None]
    assert days == ["2021-01-31", "2021-05-15"]


def test_the_build_stays_as_it_was(private: Path) -> None:
    before = private.read_bytes()
    assert len(read_variants(private, study(GAP))) == 1
    assert private.read_bytes() == before
    assert {p.name for p in private.parent.iterdir()} == {private.name}


def test_what_depends_on_no_rule_is_taken_from_the_build(private: Path) -> None:
    """Which record matches which code list is the costly part: it is read, not made again."""
    with open_with_scratch(private) as db:
        db.execute("begin transaction")
        base = study()
        other = Study(base.protocol.model_copy(update={"name": "s#1"}), base.codelists, base.path)
        make_variants(db, base, [other])
        matched = "select * exclude (study) from {}.cohort.codelist_match order by all"
        assert db.execute(matched.format("memory")).fetchall() == db.execute(matched.format("rwe")).fetchall()
        assert db.execute("select distinct study from memory.cohort.codelist_match").fetchall() == [("s#1",)]
        made = db.execute("select table_name from duckdb_tables() where database_name = 'memory'").fetchall()
    assert ("survival",) in made
    assert ("person_period",) not in made
