"""The numbers of one site at one beta: score, information and what goes with them.

Each local site and each trial is a stratum, so the numbers of all sites add up to those of the pooled model
stratified by site. All coefficients of the plan stay, also one that is constant at this site (it adds zeros)
or an arm that is empty here: such a site adds what it has, and does not vanish.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rwe.analyse.read import StudyTables
from rwe.analyse.run_emulation import emulated
from rwe.analyse.tasks import Task, prepared
from rwe.errors import EvidenceError
from rwe.federate.ledger import Headcount
from rwe.federate.life_tables import cumulative_counts
from rwe.federate.plan import ARMS, COUNTS, LOGRANK, Plan
from rwe.small_cells import midpoint_6
from rwe.study import Study
from rwe.survival.clone_rows import arm_cox_data
from rwe.survival.clones import clone, require_both_strategies
from rwe.survival.cox import CoxData, cox_data, stratum_scores
from rwe.survival.cox_derivatives import stratum_derivatives
from rwe.survival.cox_kernel import Ties, risk_sets, score_residuals
from rwe.survival.data import CountingProcess, FloatArray, NotEstimableError
from rwe.survival.logrank import logrank

Rounding = Literal["midpoint_6", "exact"]


@dataclass(frozen=True)
class SiteRows:
    """What a site's numbers are made of. `patients` and `events` are of the cohort, for the site's ledger.

    `rows` are the rows as they are (of copies, where the plan is weighted, only `model` is used).
    """

    model: CoxData
    rows: CountingProcess
    patients: int
    events: int

    @property
    def cohort(self) -> Headcount:
        """Who is in the cohort, whether the model takes their rows or not."""
        return Headcount(self.patients, self.events)

    def informative(self) -> Headcount:
        """Who enters the numbers: patients in a risk set of the model, and those with an event in it.

        Whoever left before the landmark, lacks a covariate, or was censored before the first event does not.
        """
        m = self.model
        counts = np.zeros(len(m), dtype=bool)
        for code in np.unique(m.stratum[m.event]):
            here = m.stratum == code
            days = np.unique(m.stop[here & m.event])
            first, after = (np.searchsorted(days, t, "right") for t in (m.start, m.stop))
            counts |= here & (after > first)
        return Headcount(len(np.unique(m.cluster[counts])), len(np.unique(m.cluster[m.event])))

    def digest(self, key: bytes) -> str:
        """Tells whether these are the rows of before, to whoever has the key, and nothing to others."""
        hashed = hashlib.sha256()
        m = self.model
        for column in (m.X, m.start, m.stop, m.event, m.weight, m.stratum, m.cluster):
            hashed.update(str(column.shape).encode() + np.ascontiguousarray(column).tobytes())
        hashed.update(f"{self.patients} {self.events} {m.names} {m.strata}".encode())
        return hmac.digest(key, b"rwe federate rows 1\0" + hashed.digest(), "sha256").hex()


def site_rows(study: Study, plan: Plan, tables: StudyTables) -> SiteRows:
    """The rows of the plan's analysis at this site.

    Raises NotEstimableError where the weights of a weighted analysis cannot be fitted here, SurvivalDataError
    where the tables break their contract.
    """
    analysis = study.protocol.analyses[plan.analysis]
    if plan.kind == "weighted":
        analysis = analysis.model_copy(update={"replicates": 0})
    task = prepared(Task(study.protocol, analysis, tables.cohort(), None, plan.landmark_day))
    rows = task.rows()
    survival = tables.survival
    return SiteRows(
        model=_weighted(task) if plan.kind == "weighted" else _model(rows, plan),
        rows=rows,
        patients=len(survival),
        events=int(survival["is_event"].sum()),
    )


def _weighted(task: Task) -> CoxData:
    """Copies with weights whose models were fitted here, each local site by itself and a stratum.

    A local site where nobody follows one of the strategies has nothing to compare: no rows, so it adds zeros.
    """
    parts, names = [], []
    for name in sorted(task.table.patients["site"].astype(str).unique()):
        here = replace(task, table=task.table.restrict(name), site=name)
        try:
            found = emulated(here, horizon=task.horizon)
        except NotEstimableError:
            if _has_both_strategies(here):
                raise
            continue
        if found.rows is None:
            raise EvidenceError("the weights could not be fitted at this site", where="clone_censor_weight")
        parts.append(arm_cox_data(found.rows))
        names.append(name)
    if not parts:
        return cox_data([], [], np.zeros(0, dtype=bool), names=("exposed",))
    offsets = np.cumsum([0, *(int(part.cluster.max(initial=-1)) + 1 for part in parts)])
    return cox_data(
        np.concatenate([part.X for part in parts]),
        np.concatenate([part.stop for part in parts]),
        np.concatenate([part.event for part in parts]),
        names=parts[0].names,
        start=np.concatenate([part.start for part in parts]),
        weights=np.concatenate([part.weight for part in parts]),
        strata=np.repeat(names, [len(part) for part in parts]),
        cluster=np.concatenate([p.cluster + at for p, at in zip(parts, offsets, strict=False)]),
    )


def _has_both_strategies(task: Task) -> bool:
    """Whether patients with known covariates follow either strategy beyond the grace period."""
    a, treated = task.analysis, task.protocol.strategies.treated
    try:
        clones = clone(
            task.table,
            treated.grace_days if a.grace_days is None else a.grace_days,
            task.fixed,
            task.time_varying,
            control=a.compared_with,
            unless="progression_day" if treated.unless_progressed and a.salvage == "apart" else None,
        )
        require_both_strategies(clones)
    except NotEstimableError:
        return False
    return True


def _model(rows: CountingProcess, plan: Plan) -> CoxData:
    if ("exposed", *rows.names) != plan.coefficients:
        raise EvidenceError("the covariates are not those of the plan", where=f"study {plan.study}")
    strata = rows.site.astype(str)
    if rows.trial is not None:
        strata = np.char.add(np.char.add(strata, " "), rows.trial.astype(str))
    return cox_data(
        np.column_stack([rows.exposed.astype(np.float64), rows.X]),
        rows.stop,
        rows.event,
        names=plan.coefficients,
        start=rows.start,
        strata=strata,
        cluster=rows.patient,
    )


def site_sums(
    found: SiteRows, plan: Plan, step: int, beta: tuple[float, ...], *, rounding: Rounding = "midpoint_6"
) -> tuple[float, ...]:
    """The numbers of one step at `beta`, in the order of `plan.layout(step)`."""
    at = np.asarray(beta, dtype=np.float64)
    numbers = _at_beta(found.model, plan, at)
    if step == 0:
        numbers |= _counts(found, plan, rounding)
    return tuple(float(numbers[name]) for name in plan.layout(step))


def _at_beta(data: CoxData, plan: Plan, beta: FloatArray) -> dict[str, float]:
    p = len(plan.coefficients)
    score, information, change = np.zeros(p), np.zeros((p, p)), np.zeros((p, p, p))
    if data.event.any():
        if plan.kind == "firth":
            for d in stratum_derivatives(data, beta, ties=plan.ties):
                score += d.score
                information += d.information
                change += d.information_derivative
        else:
            for s in stratum_scores(data, beta, ties=plan.ties):
                score += s.score
                information += s.information
    names = {name: j for j, name in enumerate(plan.coefficients)}
    found = {f"score[{a}]": float(score[j]) for a, j in names.items()}
    found |= {f"information[{a},{b}]": float(information[names[a], names[b]]) for a, b in plan.pairs()}
    if plan.is_robust:
        meat = _meat(data, beta, plan.ties)
        found |= {f"meat[{a},{b}]": float(meat[names[a], names[b]]) for a, b in plan.pairs()}
    if plan.kind == "firth":
        for a, b, c in plan.triples():
            found[f"information_change[{a},{b},{c}]"] = float(change[names[a], names[b], names[c]])
    return found


def _meat(data: CoxData, beta: FloatArray, ties: Ties) -> FloatArray:
    """The sum over patients of squared sums of weighted score residuals (Lin & Wei 1989)."""
    p = len(beta)
    if not data.event.any():
        return np.zeros((p, p))
    sets = risk_sets(
        data.X - data.X.mean(axis=0),
        start=data.start,
        stop=data.stop,
        event=data.event,
        weight=data.weight,
        stratum=data.stratum,
        ties=ties,
    )
    weighted = score_residuals(sets, beta) * data.weight[:, None]
    by_patient = np.column_stack([np.bincount(data.cluster, column) for column in weighted.T])
    return np.asarray(by_patient.T @ by_patient)


def _counts(found: SiteRows, plan: Plan, rounding: Rounding) -> dict[str, float]:
    rows = found.rows
    c = rows.counts()
    events = c.events_exposed + c.events_unexposed
    values = (rows.n_patients, c.patients_exposed, events, c.events_exposed, rows.n_dropped)
    counts = {f"count[{name}]": value for name, value in zip(COUNTS, values, strict=True)}
    if plan.life_table_days:
        counts |= cumulative_counts(rows, plan.life_table_days)
    if rounding == "midpoint_6":
        counts = {name: midpoint_6(value) for name, value in counts.items()}
    exact = _logrank(rows) if plan.life_table_days else {}
    return {**{name: float(value) for name, value in counts.items()}, **exact}


def _logrank(rows: CountingProcess) -> dict[str, float]:
    """Observed and expected events by arm and the variance, summed over this site's strata."""
    if not len(rows):
        observed, expected, variance = (0, 0), (0.0, 0.0), 0.0
    else:
        strata = rows.site.astype(str)
        if rows.trial is not None:
            strata = np.char.add(np.char.add(strata, " "), rows.trial.astype(str))
        test = logrank(rows.stop, rows.event, rows.exposed, entry=rows.start, strata=strata)
        observed, expected, variance = test.observed, test.expected, test.variance
    found = {"logrank.variance": float(variance)}
    for what, values in zip(LOGRANK, (observed, expected), strict=True):
        found |= {f"logrank.{what}[{arm}]": float(v) for arm, v in zip(ARMS, values, strict=True)}
    return found
