"""Lake → checked, published database. It is built anew each time, aside, and swapped in when it is whole.

Two databases come of a build: the private one, of which analyses are made, and from it the published one,
which shows what `published:` of the settings lets be seen.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from rwe import __version__
from rwe.admission import admissions
from rwe.blocklist import open_blocklist
from rwe.config import Workspace
from rwe.errors import BuildError
from rwe.lake.connection import open_duckdb
from rwe.lake.write import RunCounts, update_lake
from rwe.linking import update_tokens
from rwe.progress import SILENT, Progress
from rwe.resources import bundled
from rwe.scratch import scratch_folder
from rwe.study import Study
from rwe.warehouse import lake_views, meta
from rwe.warehouse.builds import Finished, keep
from rwe.warehouse.identity import content_hash
from rwe.warehouse.lineage import insert_lineage
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
from rwe.warehouse.opening import (
    attach_database,
    load_cryptography,
    open_private,
    private_key,
    published_key,
)
from rwe.warehouse.origin import insert_origin
from rwe.warehouse.publish import OWNERS_FILE, publish
from rwe.warehouse.references import insert_references
from rwe.warehouse.shown import Pair, Rules, show_patients
from rwe.warehouse.shown_meta import copy_comments, show_rest, write_withheld
from rwe.warehouse.study_tables import insert_studies

_PRIVATE, _SHOWN = "made", "shown"


@dataclass(frozen=True)
class BuildResult:
    """A finished build. `content_sha256` is the private build's. `quality` holds the checks that found
    something; `tables` the rows by table; `sites` what became of the lines that landed, by site: none where
    nothing has landed yet."""

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

    Without `target` the build becomes the workspace's, and its published database is made; with it only a
    private database is, at `target`. Raises BuildError if a model or a check of severity error fails, or if
    another build is under way: what was published before stays. Raises LakeError and LandingError as
    `update_lake` does.
    """
    _refuse_repeats(studies)
    workspace.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_build(workspace), scratch_folder(workspace.private, "build-") as aside:
        for site in workspace.settings.sites:
            update_tokens(workspace, site)  # before old raw bytes are removed
        lake = update_lake(workspace, progress=progress)
        private, shown = aside / "private.duckdb", aside / "published.duckdb"
        at = datetime.now(UTC)
        try:
            with closing(_connect(workspace, aside)) as connection:
                attach_database(connection, private, _PRIVATE, private_key(workspace))
                plan = _Plan(workspace, studies, lake.runs, at)
                made = _make(connection, plan, progress)
                if target is None:
                    attach_database(connection, shown, _SHOWN, published_key(workspace))
                    _show(connection, plan, made.content_sha256, [t for t in made.tables if _is_cohort(t)])
        except duckdb.Error as e:
            # The text of a DuckDB error can print a value; its class cannot.
            raise BuildError(
                f"the database could not be made ({type(e).__name__})", where=str(workspace.root)
            ) from None
        if target is not None:
            publish(private, target, OWNERS_FILE)
        else:
            names = tuple(sorted(f"{s.name} {s.protocol.version}" for s in studies))
            keep(workspace, Finished(private, shown, at, made.content_sha256, __version__, names))
    return BuildResult(
        target or workspace.database, made.content_sha256, made.quality, made.tables, made.sites
    )


def has_landed(workspace: Workspace) -> bool:
    """Whether there is anything to build of: a landed run, or one in the lake whose raw bytes are gone."""
    runs = (workspace.landing.glob("site=*/run=*"), workspace.lake.glob("_runs/site=*/run=*.json"))
    return any(any(found) for found in runs)


def _refuse_repeats(studies: Sequence[Study]) -> None:
    names = [s.name for s in studies]
    for name in names:
        if names.count(name) > 1:
            raise BuildError(f"two studies have the name {name}", advice="give each study file its own name")


@contextmanager
def only_build(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's builds: nobody else builds, rolls back, erases or backs up meanwhile.

    Raises BuildError where somebody does.
    """
    workspace.private.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def _connect(workspace: Workspace, aside: Path) -> duckdb.DuckDBPyConnection:
    """In memory: the databases are attached to it. What spills is encrypted where one of them is."""
    connection = open_duckdb(aside)
    if private_key(workspace) or published_key(workspace):
        load_cryptography(connection)
    limit = workspace.settings.memory_limit
    connection.execute(f"set memory_limit = '{limit}'")
    return connection


@dataclass(frozen=True)
class _Plan:
    """What is built: of which workspace, with which studies, from which runs, begun when."""

    workspace: Workspace
    studies: Sequence[Study]
    runs: Sequence[RunCounts]
    at: datetime


def _make(connection: duckdb.DuckDBPyConnection, plan: _Plan, progress: Progress) -> BuildResult:
    """The private build, in the database attached as `made`, which is then in use."""
    workspace = plan.workspace
    sql = bundled("sql")
    models, checks = load_models(sql), load_checks(sql)
    connection.execute(f"use {_PRIVATE}")
    connection.begin()  # one transaction: hundreds of small statements need one sync, not one each
    lake_views.create(
        connection, workspace.lake, workspace.quarantine, admissions(workspace), workspace.cipher()
    )
    _keep_erased_out(connection, workspace)
    insert_studies(connection, plan.studies)
    meta.create(connection, workspace, plan.runs)
    meta.insert_previous_counts(connection, _counts_before(workspace))
    insert_references(connection, workspace)
    tables = _run_models(connection, models, progress)
    insert_origin(connection)
    insert_lineage(connection, models)
    with progress.step("checks", len(checks), "checks") as step:
        findings = []
        for check in checks:
            findings.append(run_check(connection, check))
            step.advance()
    _stop_on_error(findings)
    cohort = [m.name for m in models if m.schema == "cohort"]
    content_sha256 = content_hash(connection, cohort)
    built = meta.Built(content_sha256, __version__, plan.at, plan.studies, Rules())
    meta.write_quality(connection, findings)
    meta.write_codelist(connection)
    meta.write_build(connection, built)
    meta.write_dictionary(connection)
    sites = meta.count_sites(connection)
    lake_views.drop(connection)
    connection.commit()
    connection.execute("checkpoint")
    found = tuple(f for f in findings if f.rows)
    return BuildResult(workspace.private_database, content_sha256, found, tables, sites)


def _counts_before(workspace: Workspace) -> list[tuple[str, str, int]]:
    """How many resources of each site and type the private build before had in use; none if it cannot say."""
    if not workspace.private_database.is_file():
        return []
    try:
        with closing(open_private(workspace)) as before:
            return before.execute(
                "select site, resource_type, cast(sum(in_lake) as bigint) from meta.reconciliation"
                " group by all order by all"
            ).fetchall()
    except (duckdb.Error, BuildError):  # of another version, or under another key
        return []


def _keep_erased_out(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    """Whoever was erased and came back, as with a restored backup, is in no table."""
    blocklist = open_blocklist(workspace)
    if blocklist is None:
        return
    views = connection.execute(
        "select table_name, column_name from duckdb_columns()"
        " where schema_name = 'lake' and table_name like '%_stored'"
        " and (column_name = 'patient_id' or (table_name = 'patient_stored' and column_name = 'resource_id'))"
    ).fetchall()
    there = " union ".join(f"select site, {column} as patient_id from lake.{view}" for view, column in views)  # noqa: S608
    for site, patient in connection.execute(there).fetchall():
        if patient and blocklist.holds_pseudonym(patient):
            connection.execute("insert into lake.not_admitted values (?, ?, 'erased')", [site, patient])


def _is_cohort(table: str) -> bool:
    return table.startswith("cohort.")


def _show(
    connection: duckdb.DuckDBPyConnection, plan: _Plan, content_sha256: str, cohort: Sequence[str]
) -> None:
    """The published database, in the database attached as `shown`, from the private one."""
    settings = plan.workspace.settings.published
    rules = Rules(settings.dates, settings.min_cell, settings.top_code_age)
    connection.execute(f"use {_SHOWN}")
    connection.begin()
    pair = Pair(connection, _PRIVATE, _SHOWN)
    withheld = show_patients(pair, rules)
    show_rest(pair, rules)
    copy_comments(pair)
    write_withheld(connection, withheld)
    # Its own hash where it differs: that of the exact dates would let a guess at them be checked.
    is_same = rules.dates == "exact" and all(w.table_schema != "cohort" for w in withheld)
    if not is_same or rules.top_code_age is not None:
        content_sha256 = content_hash(connection, cohort)
    meta.write_build(connection, meta.Built(content_sha256, __version__, plan.at, plan.studies, rules))
    meta.write_dictionary(connection)
    connection.commit()
    connection.execute("checkpoint")


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
