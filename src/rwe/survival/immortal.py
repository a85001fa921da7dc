"""Immortal time, counted: the days that a comparison of ever against never started gives to the treated.

Whoever starts on day s has survived until s. The naive analysis counts those s days as treated although
nobody could die in them; leaving them out is the first step away from it (Suissa 2008, Am J Epidemiol
167:492).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rwe.survival.data import CohortTable, CountingProcess, exposure_split


@dataclass(frozen=True)
class ImmortalTime:
    """Days from index to start of those who ever started. `share` is of all days that the naive analysis
    counts as treated; the quartiles are over starters; None where nobody started."""

    patients: int
    days: float
    share: float | None
    q1: float | None
    median: float | None
    q3: float | None
    days_by_site: dict[str, float]
    patients_by_site: dict[str, int]


def immortal_time(table: CohortTable) -> ImmortalTime:
    """Count it. Days follow the half-day rules of `rwe.survival.data`."""
    rows = exposure_split(table)
    starters = np.unique(rows.patient[rows.exposed])
    of_starter = np.isin(rows.patient, starters)
    immortal = of_starter & ~rows.exposed
    spans = rows.stop - rows.start
    waits = np.zeros(len(table))
    np.add.at(waits, rows.patient[immortal], spans[immortal])
    waits = waits[starters]
    sites = table.patients["site"].to_numpy(dtype=object)[starters]
    quartiles = [float(q) for q in np.quantile(waits, [0.25, 0.5, 0.75])] if len(waits) else [None] * 3
    treated_days = float(spans[of_starter].sum())
    return ImmortalTime(
        patients=len(starters),
        days=float(waits.sum()),
        share=float(waits.sum()) / treated_days if treated_days else None,
        q1=quartiles[0],
        median=quartiles[1],
        q3=quartiles[2],
        days_by_site={str(s): float(waits[sites == s].sum()) for s in sorted(set(sites))},
        patients_by_site={str(s): int((sites == s).sum()) for s in sorted(set(sites))},
    )


def without_immortal_days(rows: CountingProcess) -> CountingProcess:
    """Rows of `exposure_split` without the days before a start: those who start enter when they start.

    They are then compared with those who never start, still chosen by looking ahead: the immortal days are
    gone from the treated, and missing among the untreated. A step to show, not an estimate to believe.
    """
    ever = np.isin(rows.patient, np.unique(rows.patient[rows.exposed]))
    kept = ~ever | rows.exposed
    return replace(
        rows,
        start=rows.start[kept],
        stop=rows.stop[kept],
        event=rows.event[kept],
        exposed=rows.exposed[kept],
        X=rows.X[kept],
        patient=rows.patient[kept],
        site=rows.site[kept],
        trial=None if rows.trial is None else rows.trial[kept],
        n_patients=len(np.unique(rows.patient[kept])),
    )
