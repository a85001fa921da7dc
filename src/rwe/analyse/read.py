"""From a study's tables in the database to the typed tables that estimators take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from rwe.errors import EvidenceError
from rwe.evidence.contract import AttritionStep, QualityFinding, RunSummary
from rwe.evidence.synthesis import Pooling
from rwe.study import StatusCovariate, Study
from rwe.study.grid import CensoringChange, TableChange
from rwe.study.variants import variant_of
from rwe.survival.data import CohortTable
from rwe.warehouse.opening import open_file
from rwe.warehouse.variants import make_variants, open_with_scratch


@dataclass(frozen=True)
class VariantTables:
    """What the analyses take of the study under one changed rule. Frames as those of `StudyTables`.

    `data_cutoff` is the day at which the living are censored, where the rule is one of a day.
    """

    change: TableChange
    survival: pd.DataFrame
    covariates: pd.DataFrame
    changes: pd.DataFrame
    data_cutoff: date | None = None

    def cohort(self) -> CohortTable:
        """The table that estimators take; it may be empty."""
        return CohortTable(patients=pd.concat([self.survival, self.covariates], axis=1), changes=self.changes)


@dataclass(frozen=True)
class StudyTables:
    """What one study's analyses and descriptions are made of.

    survival: one row a patient, sorted by patient_id, the columns of cohort.survival. covariates: the same
    rows, one column for each baseline covariate (NaN is missing). They are kept apart, so that no covariate
    can stand in the place of an outcome. changes: patient_id, covariate, day, value. toxicity: patient_id,
    toxicity, day, grade. intercurrent: patient_id, event, day. copies: patient_id, day, copies. expansion:
    one row a patient of cohort.cart_copies. response: patient_id, status, from_day, until_day, is_relapse.
    variants: the cohort under each rule of the sensitivity grid that changes it, where they were asked for.
    excluded: patient_id, step: those with an index event who are not in the cohort, and what excludes them.
    build_sha256: the private build they are of, which stays private; empty: shares of other sites alone.
    pooling: how several sites' tables became these, where some were shared or linked.
    """

    survival: pd.DataFrame
    covariates: pd.DataFrame
    changes: pd.DataFrame
    toxicity: pd.DataFrame
    intercurrent: pd.DataFrame
    copies: pd.DataFrame
    expansion: pd.DataFrame
    response: pd.DataFrame
    attrition: list[AttritionStep]
    runs: list[RunSummary]
    quality: list[QualityFinding]
    resources: dict[str, dict[str, int]]
    quarantined: dict[str, dict[str, int]]
    last_updated: dict[str, datetime | None]
    data_cutoff: date | None
    content_sha256: str
    variants: tuple[VariantTables, ...] = ()
    index_dates: Mapping[str, date] = field(default_factory=dict)
    build_sha256: str = ""
    pooling: Pooling | None = None
    excluded: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["patient_id", "step"]))

    def cohort(self) -> CohortTable:
        """The table that estimators take. Raises EvidenceError where a covariate has an outcome's name."""
        taken = sorted(set(self.survival.columns) & set(self.covariates.columns))
        if taken:
            raise EvidenceError(
                f"the covariate {', '.join(taken)} has the name of a column of cohort.survival",
                advice="rename it in the study file",
            )
        return CohortTable(patients=pd.concat([self.survival, self.covariates], axis=1), changes=self.changes)


def holds_study(path: Path, study: Study, key: str | None = None) -> bool:
    """Whether the database (with `key`: an encrypted one) was built with exactly this protocol.

    Raises BuildError where it is not encrypted with this key.
    """
    if not path.is_file():
        return False
    with closing(open_file(path, key)) as db:
        found = db.execute(
            "select protocol_sha256 from study.protocol where study = ?", [study.name]
        ).fetchall()
    return found == [(study.protocol_sha256,)]


def read_study(
    path: Path, study: Study, key: str | None = None, *, with_variants: bool = False
) -> StudyTables:
    """Read one study's tables of a private build, in one transaction, so that all are of one build.

    Never the published database: what it shows of dates, ages and texts must change no estimate.
    `with_variants`: also the cohort under the rules of the sensitivity grid, made anew from the same staging
    tables. Raises EvidenceError where the cohort is empty: there is nothing to analyse then; BuildError as
    `holds_study`.
    """
    if with_variants and _table_changes(study):
        with open_with_scratch(path, key) as db:
            db.execute("begin transaction")
            return replace(_read(db, study), variants=_variants(db, study))
    with closing(open_file(path, key)) as db:
        db.execute("begin transaction")
        return _read(db, study)


def read_variants(path: Path, study: Study, key: str | None = None) -> tuple[VariantTables, ...]:
    """The cohort of a private build under each rule of the sensitivity grid that changes it, alone.

    Raises BuildError as `holds_study`.
    """
    with open_with_scratch(path, key) as db:
        db.execute("begin transaction")
        return _variants(db, study)


def _table_changes(study: Study) -> list[TableChange]:
    return [c for c in study.protocol.sensitivity_grid if isinstance(c, TableChange)]


def _variants(db: duckdb.DuckDBPyConnection, study: Study) -> tuple[VariantTables, ...]:
    """The cohort under each changed rule. `db` is of `open_with_scratch`."""
    day = _last_common_day(db, study)
    changes = _table_changes(study)
    made = [variant_of(study, c, i, last_common_day=day) for i, c in enumerate(changes, start=1)]
    make_variants(db, study, made)
    found = []
    for change, variant in zip(changes, made, strict=True):
        survival = _survival(db, variant)
        is_cut = isinstance(change, CensoringChange) and change.value == "data_cutoff"
        found.append(
            VariantTables(
                change=change,
                survival=survival,
                covariates=_baseline(db, variant, survival["patient_id"]),
                changes=_changes(db, variant),
                data_cutoff=variant.protocol.censoring.data_cutoff if is_cut else None,
            )
        )
    return tuple(found)


def _last_common_day(db: duckdb.DuckDBPyConnection, study: Study) -> date | None:
    """The earliest of the sites' last days of follow-up: until then the records of every site reach."""
    query = (
        "select min(last_date) from"
        " (select max(end_date) as last_date from cohort.follow_up where study = ? group by site)"
    )
    found: date | None = _rows(db, query, [study.name])[0][0]
    return found


def _read(db: duckdb.DuckDBPyConnection, study: Study) -> StudyTables:
    survival = _survival(db, study)
    if survival.empty:
        raise EvidenceError(
            "no patient is left in the cohort",
            where=f"study {study.name}",
            advice="see cohort.attrition in the database: it counts who was lost at which step",
        )
    content = _rows(db, "select content_sha256 from meta.build")[0][0]
    return StudyTables(
        survival=survival,
        covariates=_baseline(db, study, survival["patient_id"]),
        changes=_changes(db, study),
        toxicity=_of_study(db, study, "toxicity", "patient_id, toxicity, day, grade"),
        intercurrent=_of_study(db, study, "intercurrent_event", "patient_id, event, event_day as day"),
        copies=_of_study(db, study, "copies_by_day", "patient_id, day, copies"),
        expansion=_of_study(
            db,
            study,
            "cart_copies",
            "patient_id, peak_copies, peak_day, auc_0_28, last_detectable_day, last_measured_day",
        ),
        response=_of_study(db, study, "response", "patient_id, status, from_day, until_day, is_relapse"),
        attrition=[
            AttritionStep(step=step, n_before=before, n_excluded=excluded, n_after=after)
            for step, before, excluded, after in _rows(
                db,
                "select step, n_before, n_excluded, n_after from cohort.attrition"
                " where study = ? order by step_number",
                [study.name],
            )
        ],
        runs=[
            RunSummary(site=s, run=r, route=route, server_software=software, manifest_sha256=sha)
            for s, r, route, software, sha in _rows(
                db,
                "select site, run, route, server_software, manifest_sha256 from meta.run order by site, run",
            )
        ],
        quality=[
            QualityFinding(check=check, severity=severity, rows=rows, message=message)
            for check, severity, rows, message in _rows(
                db,
                'select "check", severity, "rows", message from meta.quality where "rows" > 0 order by 1',
            )
        ],
        resources=_by_type(db, "in_lake"),
        quarantined=_by_type(db, "quarantined"),
        last_updated=dict(_rows(db, "select site, max(last_updated_at) from meta.run group by site")),
        data_cutoff=_cutoff(db, study),
        content_sha256=content,
        build_sha256=content,
        index_dates=_index_dates(db, study),
        excluded=_excluded(db, study),
    )


def _excluded(db: duckdb.DuckDBPyConnection, study: Study) -> pd.DataFrame:
    """By the first step that a patient does not meet, as cohort.attrition counts."""
    return db.execute(
        "select f.patient_id, s.step from (select study, patient_id, min(step_number) as step_number"
        " from cohort.eligibility where is_met is not true group by study, patient_id) as f"
        " join study.step as s using (study, step_number) where f.study = ? order by f.patient_id",
        [study.name],
    ).df()


def _rows(db: duckdb.DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> list[Any]:
    return db.execute(query, list(values)).fetchall()


def _survival(db: duckdb.DuckDBPyConnection, study: Study) -> pd.DataFrame:
    survival = db.execute(
        "select patient_id, site, time_days, is_event, start_day, salvage_start_day, progression_day,"
        " end_reason from cohort.survival where study = ? order by patient_id",
        [study.name],
    ).df()
    for name in ("start_day", "salvage_start_day", "progression_day"):
        survival[name] = survival[name].astype(float)
    survival["is_event"] = survival["is_event"].astype(bool)
    survival["time_days"] = survival["time_days"].astype(int)
    return survival


def _baseline(db: duckdb.DuckDBPyConnection, study: Study, patients: pd.Series[str]) -> pd.DataFrame:
    values = db.execute(
        "select patient_id, covariate, value from cohort.baseline where study = ?", [study.name]
    ).df()
    wide = values.pivot(index="patient_id", columns="covariate", values="value")
    columns = {}
    for c in study.protocol.covariates:
        if not isinstance(c, StatusCovariate):
            known = wide[c.name] if c.name in wide else pd.Series(dtype=float)
            columns[c.name] = patients.map(known).astype(float)
    return pd.DataFrame(columns, index=patients.index)


def _changes(db: duckdb.DuckDBPyConnection, study: Study) -> pd.DataFrame:
    """Of statuses all changes; of measured values only those that an analysis of the study takes."""
    found = db.execute(
        "select patient_id, covariate, day, value from cohort.covariate_change"
        " join cohort.survival using (study, patient_id) where study = ?"
        " order by patient_id, covariate, day",
        [study.name],
    ).df()
    until = dict.fromkeys(study.protocol.statuses(), math.inf)
    for name, day in study.protocol.needed_until().items():
        until[name] = math.inf if day is None else day
    is_needed = found["day"] <= found["covariate"].map(until).astype(float)
    return found[is_needed].reset_index(drop=True)


def _of_study(db: duckdb.DuckDBPyConnection, study: Study, table: str, columns: str) -> pd.DataFrame:
    """Rows of a cohort table, one order always."""
    return db.execute(f"select {columns} from cohort.{table} where study = ? order by all", [study.name]).df()  # noqa: S608


def _by_type(db: duckdb.DuckDBPyConnection, column: str) -> dict[str, dict[str, int]]:
    """A count of meta.reconciliation by site and resource type, without zeros."""
    counts: dict[str, dict[str, int]] = {}
    query = (
        f"select site, resource_type, sum({column})::bigint as n from meta.reconciliation"  # noqa: S608
        f" group by site, resource_type having sum({column}) > 0 order by site, resource_type"
    )
    for site, resource_type, n in _rows(db, query):
        counts.setdefault(site, {})[resource_type] = n
    return counts


def _index_dates(db: duckdb.DuckDBPyConnection, study: Study) -> dict[str, date]:
    """Patient → day of the index event: which of two sites' records came first."""
    query = "select patient_id, index_date from cohort.survival where study = ?"
    return {str(patient): day for patient, day in _rows(db, query, [study.name])}


def _cutoff(db: duckdb.DuckDBPyConnection, study: Study) -> date | None:
    query = "select max(end_date) from cohort.follow_up where study = ?"
    found: date | None = _rows(db, query, [study.name])[0][0]
    return found
