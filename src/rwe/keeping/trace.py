"""Follows a row of the database back to the line that landed. Only at the site, and the look is recorded."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb

from rwe.config import Workspace
from rwe.errors import LakeError, LandingError, UsageError
from rwe.lake.connection import open_duckdb
from rwe.lake.sealed import address, parquet_files, run_of
from rwe.landing import list_runs
from rwe.warehouse.opening import open_private


@dataclass(frozen=True)
class Traced:
    """Where a row is from. `line` counts from 1 in the landed file of its type; `path` is that file, None
    where its raw bytes were removed."""

    table: str
    site: str
    run: str
    resource_type: str
    line: int
    path: Path | None


def trace(workspace: Workspace, table: str, key: str) -> tuple[Traced, ...]:
    """The landed lines behind the row of `table` (`schema.name`) with this key, a pseudonym.

    Read from the private build, which knows the run under any setting of `published.dates`. Raises UsageError
    where no row has this origin, BuildError where there is no build, LakeError where the lake lacks the row.
    """
    with closing(open_private(workspace)) as db:
        found = db.execute(
            "select site, run, resource_type, resource_pseudonym from meta.origin"
            " where table_name = ? and row_key = ? order by all",
            [table, key],
        ).fetchall()
        known = db.execute("select distinct table_name from meta.origin order by 1").fetchall()
    if not found:
        names = ", ".join(t for (t,) in known) or "none"
        raise UsageError(
            "no row of this table is made of one resource with this key",
            where=table,
            advice=f"tables whose rows can be followed: {names}",
        )
    return tuple(_follow(workspace, _Origin(table, *row)) for row in found)


@dataclass(frozen=True)
class _Origin:
    table: str
    site: str
    run: str
    resource_type: str
    pseudonym: str


def _follow(workspace: Workspace, origin: _Origin) -> Traced:
    site, run, resource_type = origin.site, origin.run, origin.resource_type
    files = [
        f for f in parquet_files(workspace.lake / resource_type / f"site={site}", "run=*") if run_of(f) == run
    ]
    line = None
    if files:
        name = address(files[0]).replace("'", "''")
        try:
            with open_duckdb(workspace.private, cipher=workspace.cipher()) as connection:
                line = connection.execute(
                    f"select max(line) from read_parquet('{name}', hive_partitioning = false)"  # noqa: S608
                    " where resource_id = ?",
                    [origin.pseudonym],
                ).fetchone()
        except duckdb.Error:
            line = None
    if not line or line[0] is None:
        raise LakeError(
            "the lake no longer has the row",
            where=f"site {site}, run {run}, {resource_type}",
            advice="run `rwe build`, and trace again",
        )
    landed = next((r for r in list_runs(workspace.landing, site) if r.run == run), None)
    path = landed.file(resource_type) if landed else None
    there = path if path and path.is_file() else None
    return Traced(origin.table, site, run, resource_type, int(line[0]), there)


def landed_line(workspace: Workspace, traced: Traced) -> bytes:
    """The line as it landed: a record with name and address. Raises LandingError where it is gone."""
    runs = list_runs(workspace.landing, traced.site, cipher=workspace.cipher())
    run = next((r for r in runs if r.run == traced.run), None)
    if run is not None and traced.path is not None:
        lines = run.open(traced.resource_type)
        found = next(islice(lines, traced.line - 1, None), None)
        if found is not None:
            return found
    raise LandingError(
        "the landed line is gone",
        where=f"site {traced.site}, run {traced.run}",
        advice="retain_raw_days of rwe.yaml says how long raw bytes are kept",
    )
