"""From landed bytes to a published database: known cohorts, foreign samples, bad input, crashes."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import duckdb
import pytest

from rwe.config import Workspace, add_site
from rwe.errors import BuildError
from rwe.intake import import_folder
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.sandbox.dialects import DialectName
from rwe.sandbox.hospital import HospitalSpec, write_ndjson
from rwe.sandbox.truth import Truth, latent_table
from rwe.study import Study, load_study
from rwe.warehouse import build as build_module
from rwe.warehouse.build import build
from rwe.warehouse.meta import SiteCounts
from rwe.warehouse.models import Check
from tests.integration import canaries
from tests.integration.landed import land, land_lines, land_ndjson, new_workspace
from tests.support import ROOT, shared

CASES = {
    "stanford_heart": "a_stanford_heart",
    "tiny_7v9": "d_tiny_7v9",
    "tiny_7v9 v2": "d_tiny_7v9/v2",
    "three_sites": "e_three_sites",
    "maringe_ccw": "f_maringe_ccw",
}


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(str(path), read_only=True)) as db:
        return db.execute(query).fetchall()


def case_study(name: str) -> Study:
    return load_study(ROOT / "tests" / "cases_studies" / f"{name.split(maxsplit=1)[0]}.yaml")


def cohort_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "cohort.csv").open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


def land_case(workspace: Workspace, folder: Path) -> dict[tuple[str, str], str]:
    """Land a case; returns the pseudonym of each (site, patient_id) of its cohort.csv."""
    cohort = cohort_csv(folder)
    sites = sorted({r["site"] for r in cohort})
    names = {}
    for site in sites:
        source = folder / "fhir" / site if len(sites) > 1 else folder / "fhir"
        land_ndjson(workspace, site.lower(), source)
        names[site] = Pseudonymiser(workspace.pseudonym_key(), site.lower())
    return {(r["site"], r["patient_id"]): names[r["site"]].of("Patient", r["patient_id"]) for r in cohort}


@pytest.mark.parametrize("name", CASES)
def test_the_cohort_of_a_known_case_is_the_cohort_it_was_made_from(name: str, tmp_path: Path) -> None:
    folder = shared(f"cases/{CASES[name]}")
    workspace = new_workspace(tmp_path)
    pseudonyms = land_case(workspace, folder)
    result = build(workspace, [case_study(name)])
    found = {
        patient: (time, event, start)
        for patient, time, event, start in rows(
            result.path, "select patient_id, time_days, is_event, start_day from cohort.survival"
        )
    }
    expected = {
        pseudonyms[r["site"], r["patient_id"]]: (
            int(r["time_days"]),
            r["event"] == "1",
            int(r["maint_day"]) if r["maint_day"] else None,
        )
        for r in cohort_csv(folder)
    }
    assert found == expected


@pytest.mark.parametrize(
    ("name", "tolerance", "columns"),
    [
        ("three_sites", 5e-9, {"age": "age_years_exact", "ecog": "cov_ecog"}),
        (
            "maringe_ccw",
            1e-5,  # its ages are published with decimals that no day of birth gives exactly
            {
                "age": "age_years_exact",
                "sex": "sex_num",
                "perf": "cov_perf",
                "stage": "cov_stage",
                "deprivation": "cov_deprivation",
                "charlson": "cov_charlson",
                "emergency": "cov_emergency",
            },
        ),
    ],
)
def test_baseline_covariates_of_a_known_case(
    name: str, tolerance: float, columns: dict[str, str], tmp_path: Path
) -> None:
    folder = shared(f"cases/{CASES[name]}")
    workspace = new_workspace(tmp_path)
    pseudonyms = land_case(workspace, folder)
    result = build(workspace, [case_study(name)])
    values = {
        (p, c): v for p, c, v in rows(result.path, "select patient_id, covariate, value from cohort.baseline")
    }
    assert len(values) == len(columns) * len(pseudonyms)
    for r in cohort_csv(folder):
        for covariate, column in columns.items():
            found = values[pseudonyms[r["site"], r["patient_id"]], covariate]
            assert found == pytest.approx(float(r[column]), abs=tolerance), (covariate, column)


@pytest.mark.parametrize("dialect", ["a", "b", "c"])
def test_the_cohort_of_a_sandbox_hospital_is_its_latent_truth(dialect: DialectName, tmp_path: Path) -> None:
    spec = HospitalSpec("north", dialect, patients=60, seed=7, truth=Truth(share_messy=0))
    write_ndjson(spec, tmp_path / "records")
    workspace = add_site(new_workspace(tmp_path), "north", {"time_zone": spec.manner.time_zone})
    land_ndjson(workspace, "north", tmp_path / "records")
    result = build(workspace, [load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")])
    found = rows(
        result.path,
        "select patient_id, time_days, is_event, start_day, salvage_start_day, progression_day"
        " from cohort.survival",
    )
    truth = latent_table(spec.cohort())
    key = Pseudonymiser(workspace.pseudonym_key(), "north")
    days = ("start_day", "salvage_day", "progression_day")
    expected = [
        (
            key.of("Patient", r["patient_id"]),
            r["time_days"],
            r["is_event"],
            *(None if math.isnan(r[d]) else int(r[d]) for d in days),
        )
        for r in truth.to_dict("records")
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert any(r[3] is not None for r in found)
    assert any(r[4] is not None for r in found)


RAW_ID = "zq7secret"


def infused(identity: str = RAW_ID, day: str = "2020-01-01", **fields: Any) -> list[dict[str, Any]]:
    """A patient and one infusion."""
    return [
        {"resourceType": "Patient", "id": identity, "gender": "female", "birthDate": "1960-01-01", **fields},
        drug(identity, "L01XL03", day),
    ]


def drug(identity: str, atc: str, day: str, status: str = "completed") -> dict[str, Any]:
    return {
        "resourceType": "MedicationAdministration",
        "id": f"{identity}-{atc}-{day}",
        "status": status,
        "subject": {"reference": f"Patient/{identity}"},
        "medicationCodeableConcept": {"coding": [{"system": "http://www.whocc.no/atc", "code": atc}]},
        "effectiveDateTime": day,
    }


def test_foreign_samples_go_through_and_every_line_is_accounted_for(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    landed = import_folder(workspace, shared("fhir-samples"), "samples")
    result = build(workspace, [load_study(ROOT / "studies" / "lenalidomide_after_car_t.yaml")])
    counted = dict(
        rows(result.path, "select resource_type, landed from meta.reconciliation order by resource_type")
    )
    assert counted == landed.resources
    assert sum(counted.values()) > 400
    unaccounted = rows(
        result.path,
        "select * from meta.reconciliation"
        " where landed <> in_lake + superseded + duplicate + quarantined + not_mapped",
    )
    assert unaccounted == []
    reasons = rows(
        result.path,
        "select count(*) from meta.quarantine where action = 'reject' and rule is not null",
    )
    assert reasons == rows(result.path, "select sum(quarantined) from meta.reconciliation")


def test_an_infusion_entered_in_error_is_no_index_event(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    wrong = infused("wrong")
    wrong[1]["status"] = "entered-in-error"
    land(workspace, "north", *wrong, *infused("right"))
    corrected = drug("right", "L01XL03", "2020-01-01", "entered-in-error")
    result = build(workspace, [case_study("stanford_heart")])
    assert rows(result.path, "select count(*) from cohort.survival") == [(1,)]
    land(workspace, "north", corrected)
    result = build(workspace, [case_study("stanford_heart")])
    assert rows(result.path, "select count(*) from cohort.survival") == [(0,)]


def test_the_published_file_is_read_only_and_holds_no_raw_id_and_no_lake(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused(name=[{"family": RAW_ID}]), drug(RAW_ID, "L04AX04", "2020-02-01"))
    result = build(workspace, [case_study("stanford_heart")])
    assert result.path == workspace.database
    assert result.path.stat().st_mode & 0o777 == 0o444
    assert RAW_ID.encode() not in result.path.read_bytes()
    assert str(workspace.lake).encode() not in result.path.read_bytes()
    schemas = {s for (s,) in rows(result.path, "select distinct schema_name from duckdb_tables()")}
    assert schemas == {"study", "ref", "staging", "cohort", "meta"}
    assert rows(result.path, "select count(*) from duckdb_views() where not internal") == [(0,)]


def test_the_identity_of_a_build_is_its_content(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused("p1"), *infused("p2", "2020-03-01"))
    study = case_study("stanford_heart")
    first, again = build(workspace, [study]), build(workspace, [study])
    assert first.content_sha256 == again.content_sha256
    assert rows(again.path, "select content_sha256 from meta.build") == [(again.content_sha256,)]
    land(workspace, "north", drug("p1", "L04AX04", "2020-02-01"))
    assert build(workspace, [study]).content_sha256 != first.content_sha256


def test_the_order_in_which_lines_land_changes_no_number(tmp_path: Path) -> None:
    folder = shared("cases/a_stanford_heart")
    straight, backwards = new_workspace(tmp_path / "a"), new_workspace(tmp_path / "b")
    straight.settings.pseudonyms.key_file.replace(backwards.settings.pseudonyms.key_file)
    straight.settings.pseudonyms.key_file.write_bytes(backwards.settings.pseudonyms.key_file.read_bytes())
    straight.settings.pseudonyms.key_file.chmod(0o600)
    land_ndjson(straight, "site", folder / "fhir")
    land_ndjson(backwards, "site", folder / "fhir", backwards=True)
    study = case_study("stanford_heart")
    assert build(straight, [study]).content_sha256 == build(backwards, [study]).content_sha256


def test_several_studies_live_in_one_database_and_none_is_fine(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused())
    empty = build(workspace, [])
    assert rows(empty.path, "select count(*) from cohort.survival") == [(0,)]
    both = build(workspace, [case_study("stanford_heart"), case_study("tiny_7v9")])
    found = rows(both.path, "select study, count(*) from cohort.survival group by study order by study")
    assert found == [("stanford_heart", 1), ("tiny_7v9", 1)]
    with pytest.raises(BuildError, match="two studies have the name"):
        build(workspace, [case_study("tiny_7v9"), case_study("tiny_7v9")])


def test_a_workspace_without_any_data_builds(tmp_path: Path) -> None:
    result = build(new_workspace(tmp_path), [case_study("stanford_heart")])
    assert rows(result.path, "select step, n_after from cohort.attrition where step = 'analysed'") == [
        ("analysed", 0)
    ]


def test_a_failed_check_of_severity_error_leaves_the_published_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused("p1"))
    before = build(workspace, [case_study("stanford_heart")])
    land(workspace, "north", *infused("p2"))
    never = Check("never", "select patient_id from cohort.survival", "error", "there is a patient")
    monkeypatch.setattr(build_module, "load_checks", lambda _: [never])
    with pytest.raises(BuildError, match="there is a patient: 2 rows"):
        build(workspace, [case_study("stanford_heart")])
    assert rows(before.path, "select content_sha256 from meta.build") == [(before.content_sha256,)]
    assert sorted(p.name for p in workspace.private.iterdir()) == ["build.lock", "builds", "rwe.duckdb"]


def test_a_check_of_severity_warning_is_reported_and_published(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    dead = infused("p1", deceasedDateTime="2020-02-01")
    land(workspace, "north", *dead, drug("p1", "L04AX04", "2020-03-01"))
    result = build(workspace, [case_study("stanford_heart")])
    assert [(f.check, f.severity, f.rows) for f in result.quality] == [("activity_after_death", "warning", 1)]
    query = 'select "check", "rows" from meta.quality where "rows" > 0'
    assert rows(result.path, query) == [("activity_after_death", 1)]


def test_a_private_build_leaves_the_published_database(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused())
    published = build(workspace, [])
    private = build(workspace, [case_study("stanford_heart")], target=workspace.private / "x" / "mine.duckdb")
    assert private.path == workspace.private / "x" / "mine.duckdb"
    assert rows(published.path, "select count(*) from study.protocol") == [(0,)]
    assert rows(private.path, "select count(*) from study.protocol") == [(1,)]


def test_a_stray_write_ahead_log_is_not_replayed_into_the_new_database(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused())
    path = build(workspace, []).path
    log = path.with_name(path.name + ".wal")
    log.write_bytes(b"what a crashed reader left")
    build(workspace, [case_study("stanford_heart")])
    assert not log.exists()
    assert rows(path, "select count(*) from cohort.survival") == [(1,)]


def test_a_reader_keeps_its_database_while_a_new_one_is_published(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    land(workspace, "north", *infused("p1"))
    path = build(workspace, [case_study("stanford_heart")]).path
    program = (
        "import duckdb, sys\n"
        "db = duckdb.connect(sys.argv[1], read_only=True)\n"
        "count = 'select count(*) from cohort.survival'\n"
        "print(db.execute(count).fetchone()[0], flush=True)\n"
        "sys.stdin.readline()\n"
        "print(db.execute(count).fetchone()[0], flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        land(workspace, "north", *infused("p2"))
        build(workspace, [case_study("stanford_heart")])
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "1\n"
    assert rows(path, "select count(*) from cohort.survival") == [(2,)]


def test_two_builds_do_not_interleave(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    build(workspace, [])
    with (workspace.private / "build.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build of this workspace is under way"):
            build(workspace, [])
    build(workspace, [])


def test_the_database_is_its_own_dictionary(tmp_path: Path) -> None:
    path = build(new_workspace(tmp_path), []).path
    query = (
        'select comment, table_comment from meta."column"'
        " where table_schema = 'cohort' and table_name = 'survival' and column_name = 'time_days'"
    )
    [(column, table)] = rows(path, query)
    assert column == "Whole days of follow-up."
    assert table.startswith("One row a patient of the analysed cohort")
    query = "select comment from duckdb_columns() where table_name = 'survival' and column_name = 'time_days'"
    assert rows(path, query) == [("Whole days of follow-up.",)]


@pytest.mark.parametrize("validation", ["off", "strict"])
def test_no_sentence_in_any_field_reaches_the_published_database(
    validation: Literal["off", "strict"], tmp_path: Path
) -> None:
    made = new_workspace(tmp_path)
    workspace = Workspace(made.root, made.settings.model_copy(update={"validation": validation}))
    lines = [(r["resourceType"], json.dumps(r).encode()) for r in canaries.resources()]
    lines += [
        ("ZZCANARY", b'{"resourceType":"ZZCANARY"}'),
        ("_unreadable", b"ZZCANARY"),
        ("_deleted", DELETED_CANARY),
    ]
    land_lines(workspace, "north", lines)
    path = build(workspace, [case_study("stanford_heart")]).path
    tables = rows(path, "select schema_name || '.\"' || table_name || '\"' from duckdb_tables()")
    assert len(tables) > 30
    for (table,) in tables:
        assert "ZZCANARY" not in repr(rows(path, f"select * from {table}")), table
    assert b"ZZCANARY" not in path.read_bytes()
    if validation == "off":  # the canaries that may be there were there to be found
        for name in ("patient", "medication_event", "observation", "condition", "procedure", "encounter"):
            assert rows(path, f"select count(*) > 5 from staging.{name}") == [(True,)]
        texts = f"read_parquet('{workspace.lake}/MedicationRequest/*/*.parquet')"
        with closing(duckdb.connect()) as db:
            found = db.execute(f"select count(*) from {texts} where medication_text like 'ZZ%'").fetchone()
        assert found == (2,)


DELETED_CANARY = b'{"resourceType":"ZZCANARY","id":"ZZCANARY","source":"ZZCANARY"}'


def test_every_table_and_column_of_the_database_says_what_it_holds(tmp_path: Path) -> None:
    path = build(new_workspace(tmp_path), [case_study("stanford_heart")]).path
    silent = """
        select schema_name, table_name, null from duckdb_tables() where coalesce(comment, '') = ''
        union all
        select schema_name, table_name, column_name from duckdb_columns()
        where schema_name not in ('main', 'information_schema', 'pg_catalog') and coalesce(comment, '') = ''
    """
    assert rows(path, silent) == []
    query = "select schema_name, table_name from duckdb_tables() where comment not like 'One row %'"
    assert rows(path, query) == []
    everywhere = (
        "select count(*) from duckdb_columns() where database_name = current_database() and not internal"
    )
    assert rows(path, 'select count(*) from meta."column"') == rows(path, everywhere)


def test_a_build_says_of_each_site_what_became_of_every_line(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    assert build(workspace, []).sites == ()
    land(workspace, "south", *infused("p1"), {"resourceType": "Group", "id": "g"})
    land(workspace, "south", *infused("p1"), *infused("p2", gender="male"), *infused("p2"))
    gone = b'{"resourceType":"Patient","id":"p1","deletedAt":"2100-01-01T00:00:00Z"}'
    land_lines(workspace, "south", [("_deleted", gone), ("Patient", b"{}")])
    land(workspace, "north", *infused("p1"))
    north, south = build(workspace, []).sites
    assert north == SiteCounts("north", 2, 2, 0, 0, 0, 0, 0, 0, 0)
    assert south == SiteCounts(
        "south",
        landed=11,
        in_lake=3,
        superseded=1,
        deleted=1,
        not_admitted=0,
        duplicate=3,
        quarantined=1,
        not_mapped=1,
        tombstones=1,
    )
