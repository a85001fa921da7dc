"""From a study's tables in the database to the typed tables that estimators take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from rwe.errors import EvidenceError
from rwe.evidence.contract import AttritionStep, QualityFinding, RunSummary
from rwe.study import StatusCovariate, Study
from rwe.survival.data import CohortTable
from rwe.warehouse.opening import open_file


@dataclass(frozen=True)
class StudyTables:
    """What one study's analyses and descriptions are made of.

    survival: one row a patient, sorted by patient_id, the columns of cohort.survival. covariates: the same
    rows, one column for each baseline covariate (NaN is missing). They are kept apart, so that no covariate
    can stand in the place of an outcome. changes: patient_id, covariate, day, value. toxicity: patient_id,
    toxicity, day, grade. intercurrent: patient_id, event, day. copies: patient_id, day, copies. expansion:
    one row a patient of cohort.cart_copies. response: patient_id, status, from_day, until_day, is_relapse.
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


def read_study(path: Path, study: Study, key: str | None = None) -> StudyTables:
    """Read one study's tables of a private build, in one transaction, so that all are of one build.

    Never the published database: what it shows of dates, ages and texts must change no estimate. Raises
    EvidenceError where the cohort is empty: there is nothing to analyse then; BuildError as `holds_study`.
    """
    with closing(open_file(path, key)) as db:
        db.execute("begin transaction")
        survival = _survival(db, study)
        if survival.empty:
            raise EvidenceError(
                "no patient is left in the cohort",
                where=f"study {study.name}",
                advice="see cohort.attrition in the database: it counts who was lost at which step",
            )
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
                    "select site, run, route, server_software, manifest_sha256"
                    " from meta.run order by site, run",
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
            content_sha256=_rows(db, "select content_sha256 from meta.build")[0][0],
        )


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
    return db.execute(
        "select patient_id, covariate, day, value from cohort.covariate_change"
        " join cohort.survival using (study, patient_id) where study = ?"
        " order by patient_id, covariate, day",
        [study.name],
    ).df()


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


def _cutoff(db: duckdb.DuckDBPyConnection, study: Study) -> date | None:
    query = "select max(end_date) from cohort.follow_up where study = ?"
    found: date | None = _rows(db, query, [study.name])[0][0]
    return found
