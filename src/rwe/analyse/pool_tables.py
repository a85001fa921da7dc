"""A site's share as the tables that estimators take, and several sites' tables as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import date
from typing import TypeVar

import pandas as pd

from rwe.analyse.read import StudyTables
from rwe.evidence.contract import AttritionStep, RunSummary
from rwe.sharing.collect import CollectedShare
from rwe.study import StatusCovariate, Study

_T = TypeVar("_T")


def of_share(study: Study, share: CollectedShare) -> StudyTables:
    """The tables of a share, with the columns and types of `rwe.analyse.read.read_study`.

    No quality findings, resource counts or run names: they do not leave a site.
    """
    frames = {name: share.tables[name].to_pandas() for name in share.tables.tables if name != "link"}
    survival = frames["survival"].sort_values("patient_id", ignore_index=True)
    survival.insert(1, "site", share.site)
    for name in ("start_day", "salvage_start_day", "progression_day"):
        survival[name] = survival[name].astype(float)
    survival["time_days"] = survival["time_days"].astype("int64")
    survival["is_event"] = survival["is_event"].astype(bool)
    manifest = share.manifest
    return StudyTables(
        survival=survival,
        covariates=_wide(study, frames["covariate"], survival["patient_id"]),
        changes=frames["change"],
        toxicity=frames["toxicity"],
        intercurrent=frames["intercurrent"],
        copies=frames["copies"],
        expansion=frames["expansion"],
        response=frames["response"],
        attrition=[
            AttritionStep(
                step=s.step, n_before=s.n_before, n_excluded=s.n_before - s.n_after, n_after=s.n_after
            )
            for s in manifest.attrition
        ],
        runs=[
            RunSummary(
                site=share.site,
                run=f"share {manifest.share}",
                route="shared",
                server_software=None,
                manifest_sha256=share.manifest_sha256,
            )
        ],
        quality=[],
        resources={},
        quarantined={},
        last_updated={},
        data_cutoff=None,
        content_sha256=manifest.content_sha256,
    )


def _wide(study: Study, long: pd.DataFrame, patients: pd.Series[str]) -> pd.DataFrame:
    """One column for each baseline covariate of the protocol, a row for each patient; NaN is missing."""
    wide = long.pivot(index="patient_id", columns="covariate", values="value")
    columns = {}
    for c in study.protocol.covariates:
        if not isinstance(c, StatusCovariate):
            known = wide[c.name] if c.name in wide else pd.Series(dtype=float)
            columns[c.name] = patients.map(known).astype(float)
    return pd.DataFrame(columns, index=patients.index)


def concatenated(parts: Sequence[StudyTables], dropped: Collection[str]) -> StudyTables:
    """The tables of several sites as one, without the patients in `dropped`, in the order of patient_id."""
    if len(parts) == 1 and not dropped:
        return parts[0]
    survival = pd.concat([p.survival for p in parts], ignore_index=True)
    covariates = pd.concat([p.covariates for p in parts], ignore_index=True)
    kept = survival[~survival["patient_id"].isin(list(dropped))].sort_values("patient_id")
    first = parts[0]
    return replace(
        first,
        survival=kept.reset_index(drop=True),
        covariates=covariates.loc[kept.index].reset_index(drop=True),
        changes=_rows(parts, lambda p: p.changes, dropped),
        toxicity=_rows(parts, lambda p: p.toxicity, dropped),
        intercurrent=_rows(parts, lambda p: p.intercurrent, dropped),
        copies=_rows(parts, lambda p: p.copies, dropped),
        expansion=_rows(parts, lambda p: p.expansion, dropped),
        response=_rows(parts, lambda p: p.response, dropped),
        attrition=_attrition([s for p in parts for s in p.attrition]),
        runs=[r for p in parts for r in p.runs],
        data_cutoff=_end_of_data([p.data_cutoff for p in parts]),
    )


def _end_of_data(days: Sequence[date | None]) -> date | None:
    """The last day of care of all parts. Of a share it is not known, and then it is not of the whole."""
    known = [d for d in days if d is not None]
    return max(known) if len(known) == len(days) else None


def _rows(
    parts: Sequence[StudyTables], of: Callable[[StudyTables], pd.DataFrame], dropped: Collection[str]
) -> pd.DataFrame:
    """The rows of all parts in one order; a part without rows decides no type."""
    filled = [of(p) for p in parts if len(of(p))]
    if not filled:
        return of(parts[0])
    whole = pd.concat(filled, ignore_index=True)
    whole = whole[~whole["patient_id"].isin(list(dropped))]
    return whole.sort_values(list(whole.columns), ignore_index=True)


def _attrition(steps: Sequence[AttritionStep]) -> list[AttritionStep]:
    """Counts of the same step added up, in the order of the first that names it."""
    found: dict[str, AttritionStep] = {}
    for s in steps:
        before = found.get(s.step)
        found[s.step] = (
            s
            if before is None
            else AttritionStep(
                step=s.step,
                n_before=before.n_before + s.n_before,
                n_excluded=before.n_excluded + s.n_excluded,
                n_after=before.n_after + s.n_after,
            )
        )
    return list(found.values())
