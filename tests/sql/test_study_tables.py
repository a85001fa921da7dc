"""A study's rules arrive in the tables that SQL reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from rwe.resources import bundled
from rwe.study import Protocol, Study, load_study
from rwe.warehouse.study_tables import insert_studies

BUNDLED = bundled("studies") / "lenalidomide_after_car_t.yaml"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def changed(**exposure: str) -> Study:
    """The bundled study under another rule of its exposure."""
    study = load_study(BUNDLED)
    content = yaml.safe_load(Path(BUNDLED).read_text(encoding="utf-8"))
    content["exposure"] |= exposure
    content["eligibility"].append(
        {"name": "low_ldh", "kind": "observation", "codelist": "ldh", "window": {}, "unit": "U/L"}
    )
    return Study(Protocol.model_validate(content), study.codelists, study.path)


def test_units_arrive_for_covariates_and_criteria(connection: duckdb.DuckDBPyConnection) -> None:
    insert_studies(connection, [changed()])
    covariates = connection.execute("select covariate, unit from study.covariate where unit is not null")
    assert covariates.fetchall() == [("ldh", "U/L")]
    criteria = connection.execute("select criterion, unit from study.criterion where unit is not null")
    assert criteria.fetchall() == [("low_ldh", "U/L")]


@pytest.mark.parametrize(("rule", "has_step"), [("exclude", True), ("latest_day", False)])
def test_a_start_without_a_day_excludes_by_a_step_of_the_attrition_or_by_none(
    rule: str, has_step: bool, connection: duckdb.DuckDBPyConnection
) -> None:
    insert_studies(connection, [changed(start_without_day=rule)])
    assert connection.execute("select start_without_day from study.protocol").fetchall() == [(rule,)]
    steps = connection.execute("select step from study.step order by step_number").fetchall()
    assert (("start_day_known",) in steps) == has_step
    assert steps[-1] == ("analysed",)
