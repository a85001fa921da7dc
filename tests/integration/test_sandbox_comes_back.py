"""The known answer: what the database says of a synthetic hospital is its latent truth."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from rwe.config import Workspace, add_site, init_workspace
from rwe.extract import extract_sites
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.resources import bundled
from rwe.sandbox.hospital import HospitalSpec, hospital_records
from rwe.sandbox.mess import SHIFTING
from rwe.sandbox.server import demo_specs, running_hospitals
from rwe.sandbox.truth import Truth, latent_table
from rwe.study import load_study
from rwe.warehouse.build import build

#: Every fifth patient is messy: far worse than the demonstration.
SPECS = [replace(spec, truth=Truth(share_messy=0.2)) for spec in demo_specs(seed=7, patients=80)]
DAYS = {
    "time_days": "time_days",
    "is_event": "is_event",
    "start_day": "start_day",
    "progression_day": "progression_day",
    "salvage_day": "salvage_start_day",
}
VALUES = {"age": "age", "ecog": "ecog", "log_ldh": "ldh"}


def latent(spec: HospitalSpec, workspace: Workspace) -> pd.DataFrame:
    """The known answer of one site, its patients under the names that the database gives them."""
    table = latent_table(spec.cohort())
    mess = {record.patient_id: record.mess for record in hospital_records(spec)}
    pseudonyms = Pseudonymiser(workspace.pseudonym_key(), spec.name)
    table["mess"] = table["patient_id"].map(mess)
    table["patient_id"] = [pseudonyms.of("Patient", p) for p in table["patient_id"]]
    return table.set_index("patient_id").sort_index()


@pytest.fixture(scope="module")
def known_and_found(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("sandbox")
    workspace = init_workspace(folder / "workspace", key_file=folder / "key")
    shutil.copytree(bundled("studies"), workspace.studies, dirs_exist_ok=True)
    study = load_study(workspace.studies / "lenalidomide_after_car_t.yaml")
    with running_hospitals(SPECS) as hospitals:
        for h in hospitals:
            fields = {"base_url": h.base_url, "time_zone": h.time_zone, "allow_plain_http": "loopback only"}
            workspace = add_site(workspace, h.name, fields)
        extract_sites(workspace, [h.name for h in hospitals], [study])
    return pd.concat([latent(spec, workspace) for spec in SPECS]).sort_index(), read(
        build(workspace, [study]).path
    )


def read(database: Path) -> pd.DataFrame:
    with duckdb.connect(str(database), read_only=True) as connection:
        survival = connection.sql("select * from cohort.survival").df().set_index("patient_id")
        baseline = connection.sql("select patient_id, covariate, value from cohort.baseline").df()
    wide = baseline.pivot(index="patient_id", columns="covariate", values="value").astype(float)
    return survival.join(wide).sort_index()


def test_the_cohort_is_the_eligible_patients_and_nobody_else(
    known_and_found: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    known, found = known_and_found
    assert list(found.index) == list(known.index)
    assert found["site"].equals(known["site"])
    assert found["site"].value_counts().to_dict() == {"north": 80, "river": 80, "summit": 80}


@pytest.mark.parametrize(("latent_name", "name"), [*DAYS.items(), *VALUES.items()])
def test_every_row_is_the_latent_one_but_for_the_mess_that_is_known_to_shift_it(
    known_and_found: tuple[pd.DataFrame, pd.DataFrame], latent_name: str, name: str
) -> None:
    known, found = known_and_found
    expected, actual = known[latent_name].astype(float), found[name].astype(float)
    differs = ((expected - actual).abs() > 1e-9) | (expected.isna() != actual.isna())
    allowed = {"age": SHIFTING - {"death_without_date"}, "time_days": {"death_without_date"}}
    assert set(known.loc[differs, "mess"]) <= allowed.get(latent_name, set())
    assert expected.notna().sum() > 15


def test_a_birth_date_without_its_day_moves_the_age_by_half_a_year_at_most(
    known_and_found: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    known, found = known_and_found
    shift = (known["age"] - found["age"].astype(float)).abs()
    assert 0 < shift.max() <= 0.51
    assert shift[known["mess"] == "birth_month_only"].max() < 0.05
