"""Who the patients are: counts by strategy, follow-up, the baseline table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from rwe.analyse.read import StudyTables
from rwe.analyse.tasks import BalanceAfter
from rwe.evidence.contract import (
    BaselineRow,
    CodelistEntry,
    Cohort,
    SiteSummary,
)
from rwe.study import Covariate, SexCovariate, StatusCovariate, Study
from rwe.survival.data import exposure_split
from rwe.survival.kaplan_meier import median_follow_up


def describe_cohort(study: Study, tables: StudyTables) -> Cohort:
    """Patients by whether they ever started; person-days, events and deaths by exposure at the time."""
    treated, control = study.protocol.strategies.treated, study.protocol.strategies.control
    names = (treated.name, control.name)
    s = tables.survival
    started, salvage = s["start_day"].notna(), s["salvage_start_day"].notna()
    rows = exposure_split(tables.cohort(), [], [])
    exposed = rows.exposed.astype(bool)
    days, events = rows.stop - rows.start, rows.event.astype(bool)
    deaths = events & (s["end_reason"] == "death").to_numpy(dtype=bool)[rows.patient]
    reasons = s["end_reason"].value_counts().sort_index()
    return Cohort(
        n=len(s),
        n_by_strategy={names[0]: int(started.sum()), names[1]: int((~started).sum())},
        outcome=["death", *study.protocol.composite_events()],
        events_by_strategy={names[0]: int(events[exposed].sum()), names[1]: int(events[~exposed].sum())},
        deaths_by_strategy={names[0]: int(deaths[exposed].sum()), names[1]: int(deaths[~exposed].sum())},
        person_days_by_strategy={names[0]: math.fsum(days[exposed]), names[1]: math.fsum(days[~exposed])},
        started_after_grace=int((s["start_day"] > treated.grace_days).sum()),
        started_after_progression=int((salvage & ~started).sum()),
        resumed_after_progression=int((salvage & started).sum()),
        end_of_follow_up={str(reason): int(n) for reason, n in reasons.items()},
        median_follow_up_days=median_follow_up(tables.cohort()).estimate,
    )


def describe_sites(tables: StudyTables) -> list[SiteSummary]:
    """One entry a site that landed anything, patients counted in the analysed cohort."""
    patients = tables.survival["site"].value_counts()
    return [
        SiteSummary(
            name=site,
            patients=int(patients.get(site, 0)),
            resources=tables.resources.get(site, {}),
            quarantined=tables.quarantined.get(site, {}),
            last_updated=tables.last_updated.get(site),
        )
        for site in sorted({*tables.resources, *tables.quarantined, *patients.index})
    ]


def describe_codelists(study: Study) -> list[CodelistEntry]:
    """Every code of every list, as the study was given it."""
    return [
        CodelistEntry(
            codelist=name,
            system=c.system,
            code=c.code,
            is_prefix=c.is_prefix,
            display=c.display,
            source=c.source,
            valid_from=c.valid_from,
            valid_to=c.valid_to,
        )
        for name in study.protocol.codelist_names()
        for c in study.codes(name)
    ]


def baseline_table(
    study: Study, tables: StudyTables, balance: BalanceAfter | None = None
) -> list[BaselineRow]:
    """Covariates known at index, by whether maintenance was ever started. SMD: pooled SD (Austin 2009).

    `balance`: the differences that are left in the groups of a weighted analysis.
    """
    after = balance.smd if balance else {}
    return [row for c in study.protocol.covariates for row in _rows_of(study, tables, c, after)]


def _rows_of(
    study: Study, tables: StudyTables, covariate: Covariate, after: Mapping[str, float]
) -> Iterator[BaselineRow]:
    if isinstance(covariate, StatusCovariate):
        return  # nobody has a status at index that the table could compare
    name, label = covariate.name, covariate.label
    values_at_index, level = tables.covariates[name], None
    # A level against two others is not the coded covariate that was weighted.
    is_scale = not isinstance(covariate, SexCovariate) or values_at_index.nunique() <= 2
    if isinstance(covariate, SexCovariate):
        level = max(covariate.values, key=lambda k: covariate.values[k])
        has_level = (values_at_index == covariate.values[level]).astype(float)
        values_at_index = has_level.where(values_at_index.notna())
    started = tables.survival["start_day"].notna()
    treated, control = values_at_index[started], values_at_index[~started]
    smd = _smd(treated.dropna().to_numpy(), control.dropna().to_numpy())
    strategies = study.protocol.strategies
    for strategy, values in ((strategies.treated.name, treated), (strategies.control.name, control)):
        known = values.dropna().to_numpy(dtype=float)
        quartiles = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else [None] * 3
        yield BaselineRow(
            variable=name,
            label=label,
            level=level,
            strategy=strategy,
            n=len(known),
            missing=int(values.isna().sum()),
            mean=math.fsum(known) / len(known) if len(known) else None,
            sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
            median=quartiles[1],
            q1=quartiles[0],
            q3=quartiles[2],
            smd_before=smd,
            smd_after=after.get(name) if is_scale else None,
        )


def _smd(treated: np.ndarray, control: np.ndarray) -> float | None:
    if len(treated) < 2 or len(control) < 2:
        return None
    spread = math.sqrt((np.var(treated, ddof=1) + np.var(control, ddof=1)) / 2)
    return float((treated.mean() - control.mean()) / spread) if spread > 0 else None
