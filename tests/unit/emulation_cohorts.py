"""Random cohorts for the emulation's tests: covariates that change, progression, salvage, ties, day 0."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rwe.survival.data import CohortTable


def mixed_cohort(n: int, seed: int, *, sites: int = 1) -> CohortTable:
    """Two baseline covariates, a status that changes, progression days, starts before and after it.

    Few days, so that events, starts and losses tie; some start on day 0, on the last day, or at grace.
    """
    g = np.random.default_rng(seed)
    x, z = g.normal(size=n).round(1), g.integers(0, 3, n).astype(float)
    time = 1 + g.geometric(0.012 * np.exp(0.3 * x), n)
    time = np.minimum(time, g.integers(60, 200, n))
    is_event = g.random(n) < 0.7
    start = np.floor(g.exponential(40 * np.exp(-0.4 * x), n))
    start = np.where((start <= time) & (g.random(n) < 0.8), start, np.nan)
    progression = np.ceil(g.exponential(90, n))
    progression = np.where(progression <= time, progression, np.nan)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": [f"s{i % sites}" for i in range(n)],
            "time_days": time,
            "is_event": is_event,
            "start_day": start,
            "progression_day": progression,
            "x": x,
            "z": z,
        }
    )
    rows = []
    for i in range(n):
        for day in sorted(set(g.integers(-5, 80, 3).tolist())):
            rows.append((f"p{i}", "status", day, float(g.integers(0, 2))))
        if not np.isnan(progression[i]):
            rows.append((f"p{i}", "progressed", int(progression[i]), 1.0))
    return CohortTable(patients, pd.DataFrame(rows, columns=["patient_id", "covariate", "day", "value"]))


def drawn(table: CohortTable, counts: np.ndarray) -> CohortTable:
    """The table of a bootstrap replicate, written out: each patient as often as drawn, under new names."""
    patients, changes = [], []
    by_patient = dict(list(table.changes.groupby("patient_id")))
    for position, many in enumerate(counts.astype(int)):
        row = table.patients.iloc[position]
        for copy in range(many):
            name = f"{row['patient_id']}#{copy}"
            patients.append({**row.to_dict(), "patient_id": name})
            if row["patient_id"] in by_patient:
                changes.append(by_patient[row["patient_id"]].assign(patient_id=name))
    return CohortTable(
        pd.DataFrame(patients),
        pd.concat(changes, ignore_index=True) if changes else table.changes.iloc[:0],
    )
