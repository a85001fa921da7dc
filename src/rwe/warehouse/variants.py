"""A study under other rules of its own: the cohort models once more, in memory, on the same staging tables.

The SQL is that of the build and knows nothing of it: each variant is one more study in `study.*`. Only the
models that `cohort.survival` and the covariates are made of run, and what depends on no rule (which record
matches which code list) is taken from the build. Nothing of it is stored or published, and no check, no
attrition and no hash of the build counts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from rwe.errors import BuildError
from rwe.lake.connection import open_duckdb
from rwe.resources import bundled
from rwe.study import Study
from rwe.warehouse.models import Model, load_models
from rwe.warehouse.opening import CATALOG, attach_database
from rwe.warehouse.study_tables import insert_studies

#: The catalog in memory in which the variants are made.
SCRATCH = "memory"
_WANTED = ("cohort.survival", "cohort.baseline", "cohort.covariate_change")
_OF_THE_BUILD = ("staging", "ref")
_WITHOUT_RULES = frozenset({"study.codelist"})


@contextmanager
def open_with_scratch(path: Path, key: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A finished private build, read-only, attached as `rwe` and in use, to a database in memory.

    What does not fit into memory is spilled beside the build, where only its owner can look; never where the
    build is encrypted. Raises BuildError as `open_file`.
    """
    if not path.is_file():
        raise BuildError("there is no database yet", where=str(path), advice="run `rwe build`")
    connection = open_duckdb(path.parent)
    try:
        if key:
            connection.execute("set max_temp_directory_size = '0KB'")
        try:
            attach_database(connection, path, CATALOG, key, read_only=True)
        except duckdb.Error as e:
            raise BuildError(
                f"the database cannot be opened ({type(e).__name__})",
                where=str(path),
                advice="give the key it is encrypted with, or build it anew with `rwe build`",
            ) from None
        connection.execute(f"use {CATALOG}")
        yield connection
    finally:
        connection.close()


def make_variants(connection: duckdb.DuckDBPyConnection, base: Study, variants: Sequence[Study]) -> None:
    """Make cohort.survival, cohort.baseline and cohort.covariate_change of the `variants` in `memory`.

    `connection` is of `open_with_scratch`; `base` is a study of the build, and a variant has another name and
    differs in rules, never in code lists. Afterwards the catalog in use is `memory`. Raises BuildError.
    """
    connection.execute(f"use {SCRATCH}")
    connection.execute("create schema cohort")
    for schema in _OF_THE_BUILD:
        _mirror(connection, schema)
    insert_studies(connection, variants)
    models = load_models(bundled("sql"))
    for model in _needed(models):
        query = model.query
        if not _depends_on_rules(model, models):
            query = (
                "select v.study as study, m.* exclude (study)"  # noqa: S608  (names of our own)
                f" from {CATALOG}.{model.name} as m cross join study.protocol as v"
                f" where m.study = '{base.name}'"
            )
        try:
            connection.execute(f"create table {model.name} as {query}")
        except duckdb.Error as e:
            # The text of a DuckDB error can print a value; its class cannot.
            raise BuildError(
                f"the model failed for a variant of the study ({type(e).__name__})",
                where=f"sql/{model.name.replace('.', '/')}.sql",
            ) from None


def _mirror(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
    connection.execute(f"create schema {schema}")
    tables = connection.execute(
        "select table_name from duckdb_tables() where database_name = ? and schema_name = ? order by 1",
        [CATALOG, schema],
    ).fetchall()
    for (table,) in tables:
        connection.execute(f'create view {schema}."{table}" as from {CATALOG}.{schema}."{table}"')


def _needed(models: Sequence[Model]) -> list[Model]:
    """The cohort models that the wanted ones are made of, each after those it reads."""
    needed: list[Model] = []
    names = set(_WANTED)
    for model in reversed(models):  # they are in order, so what a model reads comes before it
        if model.schema == "cohort" and model.name in names:
            needed.insert(0, model)
            names |= model.reads
    return needed


def _depends_on_rules(model: Model, models: Sequence[Model]) -> bool:
    by_name = {m.name: m for m in models}
    of_study = {name for name in model.reads if name.startswith("study.")} - _WITHOUT_RULES
    return bool(of_study) or any(
        _depends_on_rules(by_name[name], models) for name in model.reads if name in by_name
    )
