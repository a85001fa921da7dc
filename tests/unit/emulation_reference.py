"""Clone-censor-weight in slow loops, written from STATISTICS.md, sharing no line with what it checks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize

from rwe.survival.data import CohortTable


@dataclass
class Person:
    """One patient: times in days after the half-day rules, values of covariates as (from, value) steps."""

    time: float
    event: bool
    start: float  # inf: never
    excused: float  # inf: never
    base: list[float]
    changes: list[list[tuple[float, float]]]

    def covariates(self, t: float) -> np.ndarray:
        """As known before t: a value recorded on day d holds on (d, next]."""
        now = []
        for steps in self.changes:
            value = 0.0
            for day, v in steps:
                if day < t or (day <= 0 and t <= 0):
                    value = v
            now.append(value)
        return np.array([*self.base, *now])


def people(table: CohortTable, base: list[str], varying: list[str], unless: str | None) -> list[Person]:
    found = []
    for row in table.patients.to_dict("records"):
        own = table.changes[table.changes["patient_id"] == row["patient_id"]]
        excused = np.inf
        if unless:
            day = row[unless]
            excused = np.inf if np.isnan(day) else day
        time, start = float(row["time_days"]), row["start_day"]
        start = np.inf if np.isnan(start) or start >= excused else float(start)
        if start == time:
            start = max(start - 0.5, 0.0)
        time = max(time, 0.5)
        changes = []
        for name in varying:
            rows = own[own["covariate"] == name].sort_values("day")
            changes.append(list(zip(rows["day"], rows["value"], strict=True)))
        found.append(
            Person(time, bool(row["is_event"]), start, excused, [float(row[b]) for b in base], changes)
        )
    return found


def slow_cox(at_risk, event_times):
    """Efron's Cox model by loops. `at_risk(t)`: (x, is_event) of everybody at risk at t. beta, {t: dH}."""
    sets = []
    for t in event_times:
        rows = at_risk(t)
        sets.append((t, np.array([x for x, _ in rows]), np.array([e for _, e in rows], dtype=bool)))
    p = sets[0][1].shape[1] if sets else 0

    def negative(beta):
        total, gradient = 0.0, np.zeros(p)
        for _, X, dies in sets:
            r = np.exp(X @ beta)
            d = int(dies.sum())
            total += float((X[dies] @ beta).sum())
            gradient += X[dies].sum(axis=0)
            for k in range(d):
                w = r - np.where(dies, r * k / d, 0.0)
                total -= np.log(w.sum())
                gradient -= (w @ X) / w.sum()
        return -total, -gradient

    beta = np.zeros(p)
    if p:
        found = minimize(negative, beta, jac=True, method="BFGS", options={"gtol": 1e-10})
        beta = found.x
        for _ in range(3):  # polish: Newton with a numerical Hessian
            h = 1e-5
            hessian = np.array(
                [(negative(beta + h * e)[1] - negative(beta - h * e)[1]) / (2 * h) for e in np.eye(p)]
            )
            beta = beta - np.linalg.solve((hessian + hessian.T) / 2, negative(beta)[1])
    hazard = {}
    for t, X, dies in sets:
        r, d = np.exp(X @ beta), int(dies.sum())
        hazard[t] = sum(1 / (r - np.where(dies, r * k / d, 0.0)).sum() for k in range(d))
    return beta, hazard


def starting_hazard(group: list[Person], until):
    """Cox model of starting; `until(person)`: the last day on which a start is a departure."""
    starters = [p for p in group if p.start < np.inf and p.start <= until(p)]
    times = sorted({p.start for p in starters})

    def at_risk(t):
        return [
            (p.covariates(t), p.start == t)
            for p in group
            # at risk before the own start, up to the end of follow-up and of the risk
            if p.start >= t and p.time >= t and until(p) >= t
        ]

    return slow_cox(at_risk, times)


def logistic(X, y):
    design = np.column_stack([np.ones(len(y)), X])

    def negative(beta):
        eta = design @ beta
        p = 1 / (1 + np.exp(-eta))
        return float(np.sum(np.logaddexp(0, eta) - y * eta)), design.T @ (p - y)

    beta = minimize(negative, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(4):
        p = 1 / (1 + np.exp(-design @ beta))
        information = (design * (p * (1 - p))[:, None]).T @ design
        beta = beta - np.linalg.solve(information, design.T @ (p - y))
    return 1 / (1 + np.exp(-design @ beta))


@dataclass
class Clone:
    stop: float
    event: bool
    weight: object  # callable of the day


def losing(group: list[Person], lost_before: float | None):
    """Log weight for loss to follow-up of (person, day), by a Cox model of leaving alive before that day."""
    if lost_before is None:
        return lambda p, t: 0.0
    leaving = [p for p in group if not p.event and p.time < lost_before]

    def history(p: Person, t: float) -> np.ndarray:
        return np.array([float(p.start < t), *p.covariates(t)])

    beta, hazard = slow_cox(
        lambda t: [(history(p, t), p.time == t and not p.event) for p in group if p.time >= t],
        sorted({p.time for p in leaving}),
    )
    return lambda p, t: sum(h * np.exp(history(p, u) @ beta) for u, h in hazard.items() if u < t)


def ccw(group, g, *, never=False, treated="cox", lost_before=None, cap=None):
    """Both arms' clones with weights as functions of the day, by the book."""
    before = [p.excused - 0.5 for p in group]
    until = {id(p): (b if never else min(b, g)) for p, b in zip(group, before, strict=True)}
    beta, hazard = starting_hazard(group, lambda p: until[id(p)])

    def departing(p):
        def log_weight(t):
            return sum(
                h * np.exp(p.covariates(u) @ beta) for u, h in hazard.items() if u < t and u <= until[id(p)]
            )

        return log_weight

    loss_log_weight = losing(group, lost_before)
    jump = {}
    if treated == "cox":
        risk = [p for p in group if p.time >= g and p.excused > g]
        b, h = slow_cox(
            lambda t: [(p.covariates(g), p.time > g and p.start > g) for p in risk],
            [g] if any(p.time > g and p.start > g for p in risk) else [],
        )
        jump = {id(p): h[g] * np.exp(p.covariates(g) @ b) for p in risk} if h else {}
    else:
        risk = [p for p in group if p.time > g and p.excused > g]
        chance = logistic(
            np.array([p.covariates(g) for p in risk]), np.array([float(p.start <= g) for p in risk])
        )
        jump = {id(p): -np.log(c) for p, c in zip(risk, chance, strict=True)}

    arms = ([], [])
    for p in group:
        leaves = p.start < np.inf and (never or p.start <= g)
        stop = p.start if leaves else p.time
        control_weight = departing(p)
        arms[0].append(
            Clone(
                stop,
                p.event and not leaves,
                lambda t, f=control_weight, p=p: np.exp(f(t) + loss_log_weight(p, t)),
            )
        )
        late = p.start > g and p.time > g and p.excused > g
        arms[1].append(
            Clone(
                g if late else p.time,
                p.event and not late,
                lambda t, p=p: np.exp((jump.get(id(p), 0.0) if t > g else 0.0) + loss_log_weight(p, t)),
            )
        )
    return arms


def weighted_survival(clones, day):
    s = 1.0
    for t in sorted({c.stop for c in clones if c.event and 0 < c.stop <= day}):
        risk = sum(c.weight(t) for c in clones if c.stop >= t)
        dead = sum(c.weight(t) for c in clones if c.stop == t and c.event)
        s *= 1 - dead / risk
    return s


def weighted_rmst(clones, horizon):
    days = [0.0, *sorted({c.stop for c in clones if c.event and 0 < c.stop < horizon}), horizon]
    return sum((b - a) * weighted_survival(clones, a) for a, b in pairwise(days))


def weighted_log_hr(arms):
    """Efron with weights: tied deaths weigh their mean. By bisection of the score."""
    both = [(c, a) for a in (0, 1) for c in arms[a]]
    terms = []
    observed = 0.0
    for t in sorted({c.stop for c, _ in both if c.event and c.stop > 0}):
        risk = [sum(c.weight(t) for c, a in both if a == k and c.stop >= t) for k in (0, 1)]
        dead = [(c.weight(t), a) for c, a in both if c.event and c.stop == t]
        own = [sum(w for w, a in dead if a == k) for k in (0, 1)]
        mean = sum(w for w, _ in dead) / len(dead)
        observed += own[1]
        terms += [
            (risk[0] - r / len(dead) * own[0], risk[1] - r / len(dead) * own[1], mean)
            for r in range(len(dead))
        ]

    def score(b):
        return observed - sum(m * np.exp(b) * r1 / (r0 + np.exp(b) * r1) for r0, r1, m in terms)

    low, high = -10.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > 0 else (low, middle)
    return (low + high) / 2
