"""Lake → checked, published database. It is built anew each time, aside, and swapped in when it is whole."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from rwe import __version__
from rwe.admission import admissions
from rwe.config import Workspace
from rwe.errors import BuildError
from rwe.lake.connection import open_duckdb
from rwe.lake.write import RunCounts, update_lake
from rwe.progress import SILENT, Progress
from rwe.resources import bundled
from rwe.scratch import scratch_folder
from rwe.study import Study
from rwe.warehouse import lake_views, meta
from rwe.warehouse.meta import SiteCounts
from rwe.warehouse.models import (
    Finding,
    Model,
    create_schemas,
    load_checks,
    load_models,
    run_check,
    run_model,
)
from rwe.warehouse.publish import publish
from rwe.warehouse.study_tables import insert_studies

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class BuildResult:
    """A finished build. `quality` holds the checks that found something; `tables` the rows by table; `sites`
    what became of the lines that landed, by site: none where nothing has landed yet."""

    path: Path
    content_sha256: str
    quality: tuple[Finding, ...]
    tables: dict[str, int]
    sites: tuple[SiteCounts, ...] = ()


def build(
    workspace: Workspace,
    studies: Sequence[Study],
    *,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> BuildResult:
    """Bring what landed into the lake, run the models and the checks, and publish.

    Without `target` the database becomes the workspace's published one. Raises BuildError if a model or a
    check of severity error fails, or if another build is under way: what was published before stays. Raises
    LakeError and LandingError as `update_lake` does.
    """
    _refuse_repeats(studies)
    workspace.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_build(workspace), scratch_folder(workspace.private, "build-") as aside:
        lake = update_lake(workspace, progress=progress)
        new = aside / "rwe-new.duckdb"
        path = target or workspace.database
        made = _make(workspace, studies, lake.runs, new, progress)
        publish(new, path)
    return replace(made, path=path)


def _refuse_repeats(studies: Sequence[Study]) -> None:
    names = [s.name for s in studies]
    for name in names:
        if names.count(name) > 1:
            raise BuildError(f"two studies have the name {name}", advice="give each study file its own name")


@contextmanager
def _only_build(workspace: Workspace) -> Iterator[None]:
    handle = os.open(workspace.private / "build.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BuildError(
                "another build of this workspace is under way",
                where=str(workspace.root),
                advice="wait until it has ended",
            ) from None
        yield
    finally:
        os.close(handle)


def _make(
    workspace: Workspace, studies: Sequence[Study], runs: Sequence[RunCounts], new: Path, progress: Progress
) -> BuildResult:
    sql = bundled("sql")
    models, checks = load_models(sql), load_checks(sql)
    try:
        with open_duckdb(new.parent, new) as connection:
            connection.begin()  # one transaction: hundreds of small statements need one sync, not one each
            lake_views.create(
                connection, workspace.lake, workspace.quarantine, admissions(workspace), workspace.cipher()
            )
            insert_studies(connection, studies)
            meta.create(connection, workspace, runs)
            tables = _run_models(connection, models, progress)
            with progress.step("checks", len(checks), "checks") as step:
                findings = []
                for check in checks:
                    findings.append(run_check(connection, check))
                    step.advance()
            _stop_on_error(findings)
            content_sha256 = content_hash(connection, [m.name for m in models if m.schema == "cohort"])
            meta.finish(
                connection,
                content_sha256=content_sha256,
                code_version=__version__,
                built_at=datetime.now(UTC),
                studies=studies,
                findings=findings,
            )
            sites = meta.count_sites(connection)
            lake_views.drop(connection)
            connection.commit()
            connection.execute("checkpoint")
    except duckdb.Error as e:
        # The text of a DuckDB error can print a value; its class cannot.
        raise BuildError(
            f"the database could not be made ({type(e).__name__})", where=str(workspace.root)
        ) from None
    return BuildResult(new, content_sha256, tuple(f for f in findings if f.rows), tables, sites)


def _run_models(
    connection: duckdb.DuckDBPyConnection, models: Sequence[Model], progress: Progress
) -> dict[str, int]:
    create_schemas(connection)
    tables = {}
    with progress.step("models", len(models), "tables") as step:
        for model in models:
            tables[model.name] = run_model(connection, model)
            step.advance()
    return tables


def _stop_on_error(findings: Sequence[Finding]) -> None:
    broken = [f for f in findings if f.rows and f.severity == "error"]
    if broken:
        first, more = broken[0], f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise BuildError(
            f"{first.message}: {first.rows} rows{more}",
            where=f"check {first.check}",
            advice="the published database is the one of before",
        )


def content_hash(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> str:
    """SHA-256 over the rows of the tables in sorted order: the identity of what was built.

    Two builds of the same content differ in their files' bytes, not in this.
    """
    digest = hashlib.sha256()
    for table in sorted(tables):
        rows = connection.execute(f"select * from {table} order by all")  # noqa: S608
        digest.update(repr((table, [c[0] for c in rows.description or ()])).encode())
        while batch := rows.fetchmany(_ROWS_AT_ONCE):
            digest.update("\n".join(map(repr, batch)).encode())
    return digest.hexdigest()
