"""What researchers see: the published database against the private build of which it is made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rwe.config import Workspace
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.site_settings import Site
from rwe.study import Study, load_study
from rwe.warehouse.build import build
from rwe.warehouse.shared_texts import Texts, share_codes
from tests.integration.landed import land, new_workspace
from tests.support import ROOT

NAME = "lenalidomide_after_car_t"
ATC, LOINC, SNOMED = "http://www.whocc.no/atc", "http://loinc.org", "http://snomed.info/sct"
PROCEDURES = "http://www.cms.gov/Medicare/Coding/ICD10"


def with_settings(workspace: Workspace, **published: Any) -> Workspace:
    settings = workspace.settings
    shown = settings.published.model_copy(update=published)
    return Workspace(workspace.root, settings.model_copy(update={"published": shown}))


def the_study(folder: Path) -> Study:
    """The bundled study, with one covariate that is the calendar itself."""
    shutil.copytree(ROOT / "studies", folder / "studies", dirs_exist_ok=True)
    path = folder / "studies" / f"{NAME}.yaml"
    text = path.read_text(encoding="utf-8")
    era = "covariates:\n  - {name: era, kind: years_since, label: Years since approval, origin: 2017-10-18}\n"
    path.write_text(text.replace("covariates:\n", era), encoding="utf-8")
    return load_study(path)


def concept(system: str, code: str, **more: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, **more}]}


class Patient:
    """Records of one patient, all full dates of which lie `moved` days later."""

    def __init__(self, name: str, moved: int = 0) -> None:
        self.name, self.moved, self.records = name, timedelta(days=moved), 0

    def day(self, text: str) -> str:
        return (date.fromisoformat(text) + self.moved).isoformat()

    def at(self, text: str) -> str:
        return (datetime.fromisoformat(text) + self.moved).isoformat()

    def record(self, resource_type: str, **fields: Any) -> dict[str, Any]:
        self.records += 1
        subject = {"subject": {"reference": f"Patient/{self.name}"}}
        return {
            "resourceType": resource_type,
            "id": f"{self.name}-{self.records}",
            "meta": {"lastUpdated": self.at("2022-11-01T12:00:00+01:00"), "versionId": "1"},
            **subject,
            **fields,
        }

    def drug(self, resource_type: str, code: str, **fields: Any) -> dict[str, Any]:
        return self.record(
            resource_type, status="completed", medicationCodeableConcept=concept(ATC, code), **fields
        )

    def observation(self, code: str, when: str, **value: Any) -> dict[str, Any]:
        return self.record(
            "Observation",
            status="final",
            code=concept(LOINC, code, version=f"{2 + self.moved.days / 100:.2f}"),
            effectiveDateTime=when,
            **value,
        )

    def everything(self, **fields: Any) -> list[dict[str, Any]]:
        """One of each kind of record, dated to the day or the moment; a birth and a diagnosis to the year."""
        unit = {"unit": "U/L", "system": "http://unitsofmeasure.org", "code": "U/L"}
        return [
            {
                "resourceType": "Patient",
                "id": self.name,
                "gender": "female",
                "birthDate": "1950",
                **fields,
            },
            self.record("Condition", code=concept("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "C83.3"),
                        onsetDateTime="2019"),
            self.record("Condition", code=concept("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "J18.9"),
                        onsetDateTime=self.day("2022-02-01"), recordedDate=self.day("2022-02-03")),
            self.drug("MedicationAdministration", "L01XL03",
                      effectiveDateTime=self.at("2022-02-10T09:30:00+01:00")),
            self.record("Procedure", status="completed", code=concept(PROCEDURES, "XW033C3"),
                        performedDateTime=self.day("2022-02-11")),
            self.observation("2532-0", self.at("2022-02-09T08:00:00+01:00"),
                             valueQuantity={"value": 250, **unit}),
            self.observation("89247-1", self.day("2022-02-08"), valueInteger=1),
            self.observation("97509-4", self.day("2022-05-10"),
                             valueCodeableConcept=concept(SNOMED, "268910001")),
            self.observation("97509-4", self.day("2022-09-10"),
                             valueCodeableConcept=concept(SNOMED, "271299001")),
            self.drug("MedicationRequest", "L04AX04", intent="order", authoredOn=self.day("2022-04-01")),
            self.drug("MedicationDispense", "L04AX04", whenHandedOver=self.day("2022-04-03")),
            self.drug("MedicationStatement", "L04AX04", dateAsserted=self.day("2022-06-01"),
                      effectivePeriod={"start": self.day("2022-04-03"), "end": self.day("2022-06-01")}),
            self.record("Encounter", status="finished", **{"class": {"code": "IMP"}},
                        period={"start": self.day("2022-02-05"), "end": self.day("2022-03-01")}),
        ]  # fmt: skip


def published(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in the order in which the file holds them."""
    with closing(duckdb.connect(str(path), read_only=True)) as db:
        tables = db.execute(
            "select schema_name || '.\"' || table_name || '\"' from duckdb_tables()"
        ).fetchall()
        return {t: db.execute(f"from {t}").fetchall() for (t,) in sorted(tables)}


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(str(path), read_only=True)) as db:
        return db.execute(query).fetchall()


def twin(workspace: Workspace, folder: Path) -> Workspace:
    """Another workspace under the same key."""
    other = new_workspace(folder)
    other.settings.pseudonyms.key_file.chmod(0o600)
    other.settings.pseudonyms.key_file.write_bytes(workspace.settings.pseudonyms.key_file.read_bytes())
    return other


#: What of a patient's course is known only to the year: that stays where it is.
PARTLY_KNOWN: dict[str, dict[str, Any]] = {
    "full": {},
    "status": {"resourceType": "Observation", "code": concept(LOINC, "97509-4"), "effectiveDateTime": "2022",
               "valueCodeableConcept": concept(SNOMED, "271299001"), "status": "final"},
    "dispense": {"resourceType": "MedicationDispense", "status": "completed", "whenHandedOver": "2022",
                 "medicationCodeableConcept": concept(ATC, "L04AX04")},
}  # fmt: skip


def everybody(moved: int) -> Iterator[dict[str, Any]]:
    """Patients who died on a day or in a year, of each course; one more whom nothing moves."""
    for course, more in PARTLY_KNOWN.items():
        for death in ("day", "year"):
            patient = Patient(f"{course}-{death}", moved)
            died = patient.day("2022-10-20") if death == "day" else "2022"
            yield from patient.everything(deceasedDateTime=died)
            if more:
                yield {
                    **more,
                    "id": f"{patient.name}-more",
                    "subject": {"reference": f"Patient/{patient.name}"},
                }
    yield from Patient("unmoved").everything()


def test_under_anchored_dates_the_day_of_the_calendar_leaves_no_trace(tmp_path: Path) -> None:
    study = the_study(tmp_path)
    first = new_workspace(tmp_path / "0")
    seen, exact = {}, {}
    for moved in (0, 1, 7, 40):
        workspace = twin(first, tmp_path / str(moved)) if moved else first
        land(workspace, "north", *everybody(moved))
        result = build(with_settings(workspace, dates="anchored", min_cell=1), [study])
        seen[moved] = published(result.path)
        exact[moved] = published(workspace.private_database)
        for table in ('meta."build"', 'meta."run"'):
            del seen[moved][table]
    for moved in (1, 7, 40):
        assert seen[moved].keys() == seen[0].keys()
        for table, found in seen[moved].items():
            assert found == seen[0][table], (table, moved)
        assert exact[moved]['cohort."survival"'] != exact[0]['cohort."survival"']
    known = [r for r in seen[0]['cohort."survival"'] if date(2000, 1, 1) in r and 252 in r]
    assert len(known) == 1  # who died on a day: the interval is there, unless a year blurs the course
    assert len(seen[0]['cohort."survival"']) == len(exact[0]['cohort."survival"']) > 1


def test_anchored_dates_move_together_and_analyses_see_the_exact_ones(tmp_path: Path) -> None:
    study, workspace = the_study(tmp_path), new_workspace(tmp_path)
    land(workspace, "north", *Patient("anna").everything(deceasedDateTime="2022-10-20"))
    result = build(with_settings(workspace, dates="anchored"), [study])
    query = "select index_date, end_date, time_days from cohort.follow_up"
    assert rows(result.path, query) == [(date(2000, 1, 1), date(2000, 9, 9), 252)]
    assert rows(workspace.private_database, query) == [(date(2022, 2, 10), date(2022, 10, 20), 252)]
    days = "select start_day, end_day from staging.medication_event where tier = 'statement'"
    assert rows(result.path, days) == [(date(2000, 2, 22), date(2000, 4, 21))]
    assert rows(result.path, "select birth_first_day, landed_day from staging.patient") == [(None, None)]
    age = "select age_years from cohort.demographic"
    assert rows(result.path, age) == [(72.0,)]
    assert rows(workspace.private_database, age) == [(pytest.approx(71.61, abs=0.01),)]
    covariates = "select covariate, value from cohort.baseline order by covariate"
    assert dict(rows(result.path, covariates))["age"] == 72.0
    assert "era" not in dict(rows(result.path, covariates))
    assert dict(rows(workspace.private_database, covariates))["era"] > 4


def test_rows_with_a_date_of_patients_without_an_index_event_stay_out_and_are_counted(tmp_path: Path) -> None:
    study, workspace = the_study(tmp_path), new_workspace(tmp_path)
    carl = Patient("carl")
    untreated = [
        r for r in carl.everything() if r["resourceType"] not in {"MedicationAdministration", "Procedure"}
    ]
    land(workspace, "north", *Patient("anna").everything(), *untreated)
    path = build(with_settings(workspace, dates="anchored"), [study]).path
    pseudonym = Pseudonymiser(workspace.pseudonym_key(), "north").of("Patient", "carl")
    for table in ("encounter", "medication_event", "observation", "contact"):
        assert rows(path, f"select count(*) from staging.{table} where patient_id = '{pseudonym}'") == [(0,)]
        assert rows(
            path,
            f"select n > 0 from meta.withheld where table_name = '{table}' and column_name is null"
            " and rule = 'anchored'",
        ) == [(True,)]
    orphans = (
        "select count(*) from staging.observation_code"
        " where observation_id not in (select observation_id from staging.observation)"
    )
    assert rows(path, orphans) == [(0,)]
    origins = (
        "select count(*) from meta.origin where table_name = 'staging.medication_event'"
        " and row_key not in (select event_id from staging.medication_event)"
    )
    assert rows(path, origins) == [(0,)]


def test_ages_over_the_highest_one_shown_are_that_one_and_their_births_are_not_shown(tmp_path: Path) -> None:
    study, workspace = the_study(tmp_path), new_workspace(tmp_path)
    old = Patient("old").everything(deceasedDateTime="2022-10-20")
    old[0]["birthDate"] = "1930-05-05"
    young = Patient("young").everything(deceasedDateTime="2022-10-20")
    young[0]["birthDate"] = "1960-05-05"
    land(workspace, "north", *old, *young)
    path = build(with_settings(workspace, top_code_age=89), [study]).path
    born = (
        "select birth_day, birth_first_day, birth_last_day from staging.patient order by birth_day nulls last"
    )
    assert rows(path, born) == [(date(1960, 5, 5),) * 3, (None,) * 3]
    assert rows(path, "select max(age_years), min(age_years) < 62 from cohort.demographic") == [(89.0, True)]
    query = "select max(value) from cohort.baseline where covariate = 'age'"
    assert rows(path, query) == [(89.0,)]
    assert rows(workspace.private_database, query)[0][0] > 91


#: What a hospital may write as a code of its own: a record number, a birth date, a surname, a lot, a code.
ABOUT_ONE = ("mayor of the village", "00412345", "1950-03-01", "MEIER", "LOT-220301", "LOK-4711")


def with_code_map(workspace: Workspace, path: Path, *lines: str) -> Workspace:
    path.write_text("\n".join(["system,code,target_system,target_code,valid_from,valid_to", *lines, ""]))
    settings = workspace.settings
    return Workspace(workspace.root, settings.model_copy(update={"sites": {"north": Site(code_map=path)}}))


def test_rare_texts_codes_and_systems_are_not_shown_and_are_counted(tmp_path: Path) -> None:
    study, workspace = the_study(tmp_path), new_workspace(tmp_path)
    local, of_one = "http://hospital.example/drugs", "http://hospital.example/patients/meier-anna"
    workspace = with_code_map(workspace, tmp_path / "map.csv", f"{local},LAB-0815,{SNOMED},268910001,,")
    records = []
    for n in range(5):
        patient = Patient(f"p{n}")
        records += [
            *patient.everything(),
            patient.record(
                "Condition", code=concept(local, "shared by all of them"), onsetDateTime="2022-01-01"
            ),
        ]
        records.append(
            {
                **patient.drug("MedicationRequest", "", intent="order", authoredOn="2022-03-01"),
                "medicationCodeableConcept": {"text": "Tabletten vom Haus"},
            }
        )
    rare = Patient("p0")
    rare.records = 100
    records += [
        *(
            rare.record("Condition", code=concept(local, code), onsetDateTime="2022-01-01")
            for code in (*ABOUT_ONE, "LAB-0815")
        ),
        rare.record("Condition", code=concept(of_one, "1"), onsetDateTime="2022-01-01"),
        {
            **rare.drug("MedicationRequest", "", intent="order", authoredOn="2022-03-02"),
            "medicationCodeableConcept": {"text": "what the baker takes"},
        },
    ]
    land(workspace, "north", *records)
    path = build(with_settings(workspace, min_cell=5), [study]).path
    codes = (
        f"select distinct code from staging.condition_code where system = '{local}' order by code nulls last"
    )
    assert rows(path, codes) == [("LAB-0815",), ("shared by all of them",), (None,)]
    assert rows(
        path,
        "select n from meta.withheld where table_name = 'condition_code' and column_name = 'code'"
        " and rule = 'min_cell'",
    ) == [(len(ABOUT_ONE) + 1,)]
    unmapped = "select distinct system, code from meta.unmapped_code where resource_type = 'Condition'"
    assert set(rows(path, unmapped)) == {(local, None), (local, "shared by all of them"), (None, None)}
    assert (of_one, "1") in rows(workspace.private_database, unmapped)
    texts = "select distinct text from staging.medication_text order by text nulls last"
    assert rows(path, texts) == [("Tabletten vom Haus",), (None,)]
    assert len(rows(workspace.private_database, texts)) == 2
    content = path.read_bytes()
    assert b"shared by all of them" in content
    for words in (*ABOUT_ONE[:1], *ABOUT_ONE[3:], of_one, "what the baker takes"):
        assert words.encode() not in content


def shared_of(codes: dict[str, int], *, no_dates: bool) -> set[str]:
    """Of a hospital's own codes, each borne by so many patients, those that show where three must share."""
    with closing(duckdb.connect()) as db:
        db.execute("attach ':memory:' as made; create schema made.study; create schema made.ref")
        db.execute("create table made.study.codelist (system varchar, code varchar)")
        db.execute("create table made.ref.code_map as select 'x' as system, '20220301' as code")
        db.execute("create table made.given (patient_id integer, system varchar, code varchar)")
        for code, n in codes.items():
            db.execute("insert into made.given select range, 'x', ? from range(?)", [code, n])
        share_codes(
            Texts(db, "made", "shown", "made.given as t", "code", "t.patient_id", 3), no_dates=no_dates
        )
        return {code for (code,) in db.execute("select code from shown where system = 'x'").fetchall()}


def test_under_anchored_dates_a_code_that_holds_a_date_stays_out_however_many_share_it() -> None:
    dated = ["LOT-220301", "LOT2022A", "1950-03-01", "01031950", "19500301", "3.1.1950", "2022/05", "052022"]
    plain = ["LAB-0815", "8-544.01", "5-010.00", "01998822", "CRP", "00412345"]  # two OPS codes, a PZN
    frequent = dict.fromkeys([*dated, *plain], 3)
    assert shared_of(frequent, no_dates=False) == {*dated, *plain}
    assert shared_of(frequent, no_dates=True) == set(plain)
    named = {"20220301": 1, "CRP": 2}
    assert shared_of(named, no_dates=True) == shared_of(named, no_dates=False) == {"20220301"}


def test_every_column_of_words_and_every_table_of_meta_is_declared(tmp_path: Path) -> None:
    from rwe.warehouse import columns
    from rwe.warehouse.shown_meta import known_meta_tables

    workspace = new_workspace(tmp_path)
    build(workspace, [])
    found = rows(
        workspace.private_database,
        "select schema_name || '.' || table_name, column_name from duckdb_columns()"
        " where schema_name in ('staging', 'cohort') and data_type = 'VARCHAR'",
    )
    assert [c for c in found if columns.text_kind(*c) is None] == []
    tables = rows(
        workspace.private_database,
        "select schema_name || '.' || table_name, list(column_name) from duckdb_columns()"
        " where schema_name in ('staging', 'cohort') group by 1",
    )
    nobodys = {t for t, names in tables if "patient_id" not in names}
    assert nobodys == columns.OWNERS.keys() | columns.OF_NOBODY
    meta = {
        t
        for (t,) in rows(
            workspace.private_database, "select table_name from duckdb_tables() where schema_name = 'meta'"
        )
    }
    assert meta <= known_meta_tables()
