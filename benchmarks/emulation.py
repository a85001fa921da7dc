"""Survival against R's `survival` and lifelines: ratios taken in one run, each next to the other.

1. A weighted start-stop Cox model with the sandwich variance by patient, 1,000,000 rows.
2. Weighted Kaplan-Meier curves of two arms, 500 bootstrap replicates, against a loop over lifelines.
3. Clone-censor-weight, weights refitted in each of 500 replicates on 10,000 patients, against the same method
   written with R's `survival` (a few replicates scaled up).

    .venv/bin/python benchmarks/emulation.py [--lifelines-rows 100000] [--r-replicates 20] [--workers 2]

Without Rscript the comparisons with R are left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rwe.survival.bootstrap import draw_counts
from rwe.survival.cox import cox_data, fit_cox
from rwe.survival.data import CohortTable, no_changes
from rwe.survival.emulation import clone_censor_weight
from rwe.survival.weighted_curves import weighted_curve

HERE = Path(__file__).parent
T = TypeVar("T")


class Bar:
    """The progress bar that a user would see."""

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = ""):  # noqa: ARG002
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
            task = bar.add_task(label, total=total)

            class Step:
                def advance(self, amount: int = 1) -> None:
                    bar.advance(task, amount)

                def total(self, total: int) -> None:
                    bar.update(task, total=total)

            yield Step()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def in_r(task: str, table: pd.DataFrame, replicates: int = 0) -> tuple[float, list[float]] | None:
    """Seconds and estimates by R; None where R or `survival` is not installed."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.csv"
        table.to_csv(path, index=False)
        command = ["Rscript", str(HERE / "emulation.R"), task, str(path), str(replicates)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr)
        return None
    numbers = [float(v) for v in done.stdout.split()]
    return numbers[0], numbers[1:]


def start_stop_rows(n_rows: int, seed: int = 1) -> pd.DataFrame:
    """Ten rows a patient on whole days, with weights and two covariates."""
    g = np.random.default_rng(seed)
    n = n_rows // 10
    gaps = g.integers(5, 60, (n, 10))
    stop = gaps.cumsum(axis=1)
    start = stop - gaps
    x1, x2 = g.normal(size=n), g.normal(size=n)
    last = np.zeros((n, 10), dtype=bool)
    last[:, -1] = g.random(n) < 0.4
    return pd.DataFrame(
        {
            "id": np.repeat(np.arange(n), 10),
            "start": start.ravel(),
            "stop": stop.ravel(),
            "event": last.ravel().astype(int),
            "exposed": (g.random((n, 10)) < np.linspace(0.1, 0.6, 10)).ravel().astype(int),
            "x1": np.repeat(x1, 10),
            "x2": np.repeat(x2, 10),
            "w": g.uniform(0.5, 3, 10 * n),
        }
    )


def our_cox(d: pd.DataFrame) -> tuple[float, float]:
    data = cox_data(
        d[["exposed", "x1", "x2"]].to_numpy(dtype=float),
        d["stop"],
        d["event"],
        names=("exposed", "x1", "x2"),
        start=d["start"],
        weights=d["w"],
        cluster=d["id"],
    )
    fit = fit_cox(data, robust=True)
    return float(fit.coefficients[0]), float(fit.se[0])


def lifelines_cox(d: pd.DataFrame) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = CoxPHFitter().fit(
            d,
            "stop",
            "event",
            entry_col="start",
            weights_col="w",
            cluster_col="id",
            robust=True,
        )
    return float(fit.params_["exposed"])


def weighted_arms(n: int = 2000, seed: int = 2) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    days = np.ceil(g.exponential(500, n))
    return pd.DataFrame(
        {"days": days, "event": g.random(n) < 0.6, "arm": g.random(n) < 0.4, "w": g.uniform(0.5, 4, n)}
    )


def our_curves(d: pd.DataFrame, replicates: int) -> np.ndarray:
    """Survival of both arms at a year, by replicate."""
    days, event, weight = d["days"].to_numpy(), d["event"].to_numpy(), d["w"].to_numpy()
    strata = np.zeros(len(d), dtype=np.int64)
    sides = []
    for arm in (False, True):
        own = np.flatnonzero(d["arm"].to_numpy() == arm)
        times = np.unique(days[own][event[own]])
        past = np.searchsorted(times, days[own], side="right")
        sides.append((own, times, past, event[own]))
    found = np.empty((replicates, 2))
    for b in range(replicates):
        w = draw_counts(strata, 1, b) * weight
        for a, (own, times, past, dies) in enumerate(sides):
            k = len(times)
            at_risk = np.cumsum(np.bincount(past, w[own], k + 1)[::-1])[::-1][1:]
            deaths = np.bincount(past[dies] - 1, w[own][dies], k)
            curve = weighted_curve(
                times, at_risk, deaths, n_at_risk=at_risk, n_events=deaths, last_time=float(days.max())
            )
            found[b, a] = curve.at(365)
    return found


def lifelines_curves(d: pd.DataFrame, replicates: int) -> np.ndarray:
    strata = np.zeros(len(d), dtype=np.int64)
    found = np.empty((replicates, 2))
    for b in range(replicates):
        rows = d.loc[np.repeat(np.arange(len(d)), draw_counts(strata, 1, b).astype(int))]
        for a in (0, 1):
            own = rows[rows["arm"] == bool(a)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = KaplanMeierFitter().fit(own["days"], own["event"], weights=own["w"])
            found[b, a] = fit.predict(365)
    return found


def cohort(n: int, seed: int = 3) -> CohortTable:
    """Confounded starts, most of them within half a year; five covariates."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, 5))
    start = np.ceil(g.exponential(250 * np.exp(-0.4 * x[:, 0] + 0.2 * x[:, 1])))
    death = np.ceil(g.exponential(700 * np.exp(-0.5 * x[:, 0] - 0.2 * x[:, 2])))
    left = np.ceil(g.uniform(300, 1500, n))
    days = np.minimum(death, left)
    start = np.where(start < days, start, np.nan)
    patients = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(n)],
            "site": "a",
            "time_days": days.astype(int),
            "is_event": death <= left,
            "start_day": start,
        }
    )
    return CohortTable(patients.join(pd.DataFrame(x, columns=[f"x{j}" for j in range(5)])), no_changes())


def compare_cox(rows: int, lifelines_rows: int) -> None:
    d = start_stop_rows(rows)
    seconds, (log_hr, se) = timed(lambda: our_cox(d))
    print(f"weighted start-stop Cox with sandwich, {rows:,} rows: {seconds:.2f} s")
    r = in_r("cox", d)
    if r:
        assert abs(r[1][0] - log_hr) < 1e-6, (r, log_hr)
        assert abs(r[1][1] - se) < 1e-6, (r, se)
        print(f"  R survival {r[0]:.2f} s: ours takes 1/{r[0] / seconds:.1f}")
    small = d.iloc[:lifelines_rows]
    ours, _ = timed(lambda: our_cox(small))
    theirs, _ = timed(lambda: lifelines_cox(small))
    print(f"  lifelines, {lifelines_rows:,} rows: {theirs:.1f} s against {ours:.3f} s: 1/{theirs / ours:.0f}")


def compare_curves(replicates: int, loop: int) -> None:
    d = weighted_arms()
    seconds, ours = timed(lambda: our_curves(d, replicates))
    theirs_s, theirs = timed(lambda: lifelines_curves(d, loop))
    assert np.allclose(ours[:loop], theirs, atol=1e-9)
    theirs_s *= replicates / loop
    print(
        f"weighted Kaplan-Meier, {replicates} replicates of 2,000 patients: {seconds:.2f} s; lifelines loop "
        f"({loop} scaled) {theirs_s:.1f} s: 1/{theirs_s / seconds:.0f}"
    )


def compare_emulation(n: int, replicates: int, workers: int, r_replicates: int) -> None:
    table = cohort(n)
    names = [f"x{j}" for j in range(5)]
    seconds, found = timed(
        lambda: clone_censor_weight(
            table,
            180,
            names,
            horizon_days=730,
            times=(730,),
            replicates=replicates,
            seed=1,
            workers=workers,
            progress=Bar(),
        )
    )
    print(f"clone-censor-weight, {n:,} patients, {replicates} replicates, {workers} workers: {seconds:.1f} s")
    d = table.patients.rename(columns={"time_days": "time", "start_day": "start"})
    d["event"] = d["is_event"].astype(int)
    r = in_r("ccw", d[["time", "event", "start", *names]], r_replicates)
    if r:
        at = found.contrasts.survival[0]
        ours = [found.contrasts.hazard_ratio.log_estimate, at.control.estimate, at.treated.estimate]
        assert np.allclose(ours, r[1], atol=1e-6), (ours, r[1])
        theirs = r[0] * replicates / r_replicates
        print(f"  R survival ({r_replicates} scaled) {theirs:.0f} s: ours takes 1/{theirs / seconds:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lifelines-rows", type=int, default=100_000)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--r-replicates", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    compare_cox(options.rows, options.lifelines_rows)
    compare_curves(options.replicates, 20)
    compare_emulation(options.patients, options.replicates, options.workers, options.r_replicates)


if __name__ == "__main__":
    main()
