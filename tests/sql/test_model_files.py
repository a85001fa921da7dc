"""What every SQL file keeps to: the portable subset, its order, its comments, no study inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwe.errors import RweError
from rwe.resources import bundled
from rwe.warehouse.models import load_checks, load_models, portability_problems
from tests.sql.drawn import database, models

NAMES = sorted(models())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_keeps_to_the_portable_subset(name: str) -> None:
    assert portability_problems(models()[name].query) == []


@pytest.mark.parametrize("check", [c.name for c in load_checks(bundled("sql"))])
def test_a_check_keeps_to_the_portable_subset_and_runs(check: str) -> None:
    query = next(c.query for c in load_checks(bundled("sql")) if c.name == check)
    assert portability_problems(query) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("select try_cast(a as date) from t", "try_cast"),
        ("select * from t left join unnest(t.x) as u (v) on true", "left join unnest"),
        ("select date_diff('month', a, b) from t", "date_diff of another unit than day"),
        ("select percentile_cont(0.5) within group (order by a) from t", "percentile_cont"),
        ("select median(a) from t", "median"),
        ("select a[1] from t", "a list subscript"),
        ("select * from t asof join u on t.a >= u.a", "asof join"),
        ("select a from t union all by name select a from u", "union by name"),
        ("select index_date + 30 from t", "arithmetic on a date"),
        ("select a from t where b = $study", "a parameter"),
        ("select a from t where b = ?", "a parameter"),
        ("select regexp_extract(a, 'x') from t", "the function regexp_extract"),
        ("select list_sum(a) from t", "the function list_sum"),
        ("select arg_max(a, b) from t", "the function arg_max"),
        ("select * exclude (a) from t", "a star that leaves out or replaces columns"),
        ("select a, sum(b) from t group by all", "group by all, rollup or cube"),
        ("select distinct on (a) a, b from t", "distinct on"),
        ("select a from t positional join u", "positional join"),
        ("select a from t semi join u on t.a = u.a", "semi join"),
        ("select a from t where b ilike 'x'", "ilike"),
        ("select x from t cross join unnest(t.a) with ordinality as u (x, n)", "unnest with ordinality"),
        ("with t as materialized (select 1 as a) select a from t", "materialized"),
        (
            "with recursive t as (select 1 as a union all select a from t) select a from t",
            "a recursive query",
        ),
        ("select date_add(a, interval 3 day) from t", "date_add of an interval"),
        ("select a from t using sample 10", "a sample"),
        ("pivot t on a using sum(b)", "pivot or unpivot"),
    ],
)
def test_the_lint_finds_what_is_not_portable(query: str, problem: str) -> None:
    assert problem in portability_problems(query)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_says_what_one_row_and_every_column_is(name: str) -> None:
    with database() as connection:
        columns = [c[0] for c in connection.execute(f"describe {name}").fetchall()]
    assert models()[name].comment.startswith("One row a")
    assert {c for c in columns if not models()[name].columns.get(c)} == set()


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("cohort.")])
def test_the_first_column_of_a_cohort_table_is_the_study(name: str) -> None:
    with database() as connection:
        assert connection.execute(f"describe {name}").fetchone()[0] == "study"


def test_a_model_comes_after_the_models_it_reads() -> None:
    seen: set[str] = set()
    for model in models().values():
        assert model.reads & models().keys() <= seen, model.name
        seen.add(model.name)


def test_no_model_names_a_drug_a_disease_or_a_code_system() -> None:
    for path in bundled("sql").rglob("*.sql"):
        text = path.read_text(encoding="utf-8").lower()
        for word in ("lenalidomide", "car_t", "lymphoma", "dlbcl", "http://", "loinc.org", "atc"):
            assert f" {word}" not in text, (path.name, word)


def test_models_that_read_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "a.sql").write_text("-- One row a thing.\nselect * from cohort.b")
    (tmp_path / "cohort" / "b.sql").write_text("-- One row a thing.\nselect * from cohort.a")
    with pytest.raises(RweError, match="circle"):
        load_models(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select 1 as a", "no comment"),
        ("-- One row a thing.\nselect from where", "does not parse"),
        ("-- One row a thing.\ndrop table x", "not one SELECT"),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "broken.sql").write_text(text)
    with pytest.raises(RweError, match=message) as caught:
        load_models(tmp_path)
    assert "broken.sql" in str(caught.value)
