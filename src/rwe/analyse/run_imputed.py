"""An analysis on several imputed tables, and its results pooled by Rubin's rules.

Every estimate of the analysis is pooled on the scale of its standard error: ratios on the log scale. The
variance of a bootstrap is pooled like any other. Curves are averaged day by day. A survival or an incidence
is averaged as its curve is, and its limits are taken on the complementary log-log scale; those of restricted
means and of differences are cut where no value can lie. What is of one arm has no p value: there is nothing
that it could differ from.

Weights and balance are of the first table, and say so.
Sources: `rwe.survival.imputation`, `rwe.survival.rubin`; Marshall et al. 2009, BMC Med Res Methodol 9:57
(scales).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from rwe.analyse.tasks import Findings, Task, TooLittleError, defined
from rwe.errors import RweError
from rwe.evidence.contract import Coefficient, Curve, CurvePoint, Estimate
from rwe.survival.data import CohortTable, CountingProcess, NotEstimableError
from rwe.survival.imputation import ASSUMPTIONS as IMPUTATION
from rwe.survival.imputation import METHOD, ImputedTables, impute_baseline
from rwe.survival.rubin import Pooled, pool

Runner = Callable[[Task, CountingProcess, Findings], None]
_CI_METHOD = "t interval by Rubin's rules"
_PROBABILITIES = frozenset({"survival", "cumulative_incidence"})
_LARGEST_EXPONENT = 700.0  # beyond it exp() is no number
WALD_NOT_PROFILE = (
    "Firth's estimates are pooled by their standard errors (Wald), not by the profile of the penalised "
    "likelihood: where a group has few events the two can be far apart, on either side."
)
UNMOVED = "The same on all imputed tables: no imputed value moves it."


def is_imputed(task: Task) -> bool:
    """Whether an analysis asks for imputation, and has baseline covariates that could be imputed."""
    return task.analysis.missing == "impute" and bool(task.at_index)


def imputed_tables(task: Task) -> ImputedTables:
    """The task's table with its covariates imputed, by the protocol's seed. Raises as `impute_baseline`."""
    return impute_baseline(task.table, task.at_index, m=task.analysis.imputations, seed=task.protocol.seed)


def run_imputed(task: Task, imputed: ImputedTables, run: Runner, findings: Findings) -> None:
    """Run the analysis on each table and pool. Where nothing is missing, it is simply run.

    Raises NotEstimableError where an imputed table carries no analysis.
    """
    note = told(imputed, len(task.table), task.analysis.imputations)
    if len(imputed.tables) == 1:
        plain = replace(task, notes=(*task.notes, note))
        run(plain, plain.rows(), findings)
        return
    each = [_on(task, table, run) for table in imputed.tables]
    if len({len(found.estimates) for found in each}) != 1:
        raise NotEstimableError("the imputed tables do not give the same estimates, so nothing is pooled")
    for same in zip(*(found.estimates for found in each), strict=True):
        findings.estimates.append(_pooled(same, [note, *imputed.warnings]))
    findings.curves += _curves(each)
    findings.weights += each[0].weights
    findings.event_weights += each[0].event_weights
    first = f"the first of {len(each)} imputed tables"
    findings.balance += [replace(b, words=f"{b.words}, {first}") for b in each[0].balance]


def told(imputed: ImputedTables, n: int, m: int) -> str:
    """How many values were imputed, as a sentence."""
    if not imputed.missing:
        return "No baseline covariate is missing, so nothing was imputed."
    total = sum(k for _, k in imputed.missing)
    values = "1 missing value" if total == 1 else f"{total} missing values"
    by = ", ".join(f"{name} {k}" for name, k in imputed.missing)
    return (
        f"{values} ({by}) of {imputed.incomplete} of {n} patients {'was' if total == 1 else 'were'} imputed "
        f"{m} times: {METHOD}."
    )


def _on(task: Task, table: CohortTable, run: Runner) -> Findings:
    one = replace(task, table=table)
    found = Findings()
    try:
        run(one, one.rows(), found)
    except TooLittleError:
        raise  # something simpler can stand in its place
    except RweError as e:
        raise NotEstimableError(f"an imputed table carries no analysis: {e.what}", advice=e.advice) from e
    return found


def _pooled(same: Sequence[Estimate], notes: Sequence[str]) -> Estimate:
    """One estimate out of those of all tables; without a number where a table has none."""
    first, m = same[0], len(same)
    is_log = first.se_scale == "log"
    values = [e.log_estimate if is_log else e.estimate for e in same]
    errors = [e.se for e in same]
    known = [v for v in values if v is not None]
    warnings = list(dict.fromkeys([*notes, *(w for e in same for w in e.warnings)]))
    parameters = first.parameters.model_copy(update={"imputations": m})
    assumed = {"assumptions": [*first.assumptions, *IMPUTATION], "parameters": parameters}
    if first.estimate is not None and len({_result(e) for e in same}) == 1:
        return first.model_copy(update={**assumed, "warnings": [*warnings, UNMOVED]})
    fields: dict[str, object] = {
        "method": f"{first.method}; {m} imputations, Rubin's rules",
        **assumed,
        "coefficients": _coefficients(same),
        **dict.fromkeys(("estimate", "log_estimate", "se", "ci_low", "ci_high", "p_value", "df")),
    }
    if len(known) < m:
        warnings.append(f"{m - len(known)} of {m} imputed tables give no estimate.")
        status = first.status if not known else "did_not_converge"
        return first.model_copy(update={**fields, "warnings": warnings, "status": status})
    spreads = [s for s in errors if s is not None and s > 0]
    if len(spreads) < m:
        warnings.append("A standard error is missing, so the pooled estimate has no interval.")
        mean = math.fsum(known) / m
        fields |= {"estimate": math.exp(mean) if is_log else mean, "log_estimate": mean if is_log else None}
        fields |= {"se_scale": None, "variance_method": None, "ci_method": None}
        return first.model_copy(update={**fields, "warnings": warnings})
    if first.analysis.endswith("_firth"):
        warnings.append(WALD_NOT_PROFILE)
    level = first.ci_level or 0.95
    found = pool(known, [s**2 for s in spreads], complete_df=_complete_df(first), level=level)
    return first.model_copy(update={**fields, **_numbers(found, first), "warnings": warnings})


def _result(e: Estimate) -> tuple[float | None, ...]:
    return e.estimate, e.log_estimate, e.se, e.ci_low, e.ci_high, e.p_value


def _numbers(found: Pooled, first: Estimate) -> dict[str, object]:
    is_log, has_null = first.se_scale == "log", first.contrast.reference is not None
    low, high, how = _limits(found, first)
    return {
        "estimate": _exp(found.estimate) if is_log else found.estimate,
        "log_estimate": found.estimate if is_log else None,
        "se": found.se,
        "ci_low": defined(low),
        "ci_high": defined(high),
        "ci_level": found.ci_level,
        "ci_method": how,
        "p_value": found.p_value if has_null else None,
        "df": found.df if has_null else None,
    }


def _limits(found: Pooled, e: Estimate) -> tuple[float, float, str]:
    """Both limits of what was pooled, where such a number can lie, and how they came about."""
    if e.se_scale == "log":
        return _exp(found.ci_low), _exp(found.ci_high), _CI_METHOD
    if e.estimand in _PROBABILITIES and 0 < found.estimate < 1:
        is_survival = e.estimand == "survival"
        survival = found.estimate if is_survival else 1 - found.estimate
        # By the delta method: d log(-log S) = dS / (S log S).
        hazard = -math.log(survival)
        reach = (found.ci_high - found.estimate) / (survival * hazard)
        most, least = (math.exp(-hazard * _exp(x)) for x in (-reach, reach))
        limits = (least, most) if is_survival else (1 - most, 1 - least)
        return *limits, f"{_CI_METHOD}, on the complementary log-log scale"
    lowest, highest = _range(e)
    # An augmented mean may itself lie outside: it stays within its limits.
    low, high = (
        max(found.ci_low, min(lowest, found.estimate)),
        min(found.ci_high, max(highest, found.estimate)),
    )
    is_cut = (low, high) != (found.ci_low, found.ci_high)
    return low, high, f"{_CI_METHOD}, cut to what is possible" if is_cut else _CI_METHOD


def _range(e: Estimate) -> tuple[float, float]:
    """Between what values an estimand on the natural scale lies."""
    horizon = math.inf if e.parameters.horizon_days is None else float(e.parameters.horizon_days)
    ranges = {
        **dict.fromkeys(_PROBABILITIES, (0.0, 1.0)),
        "survival_difference": (-1.0, 1.0),
        "rmst_days": (0.0, horizon),
        "rmst_difference_days": (-horizon, horizon),
    }
    return ranges.get(e.estimand, (-math.inf, math.inf))


def _exp(x: float) -> float:
    return math.exp(x) if x < _LARGEST_EXPONENT else math.inf


def _complete_df(e: Estimate) -> float:
    """Degrees of freedom had nothing been missing: events less coefficients (Barnard & Rubin 1999).

    Coefficients of models of the weights, which come without standard errors, are not the outcome's.
    """
    coefficients = len(e.coefficients) if any(c.se is not None for c in e.coefficients) else 1
    return max(e.events - coefficients, 1)


def _coefficients(same: Sequence[Estimate]) -> list[Coefficient]:
    """Each coefficient pooled; without a number where a table has none, or leaves it out."""
    first = same[0].coefficients
    if any([c.name for c in e.coefficients] != [c.name for c in first] for e in same):
        return []
    pooled = []
    for cells in zip(*(e.coefficients for e in same), strict=True):
        values = [c.estimate for c in cells if c.estimate is not None]
        errors = [c.se for c in cells if c.se is not None and c.se > 0]
        mean = math.fsum(values) / len(values) if len(values) == len(same) else None
        whole = mean is not None and len(errors) == len(same)
        se = pool(values, [s**2 for s in errors]).se if whole else None
        pooled.append(Coefficient(name=cells[0].name, estimate=mean, se=se))
    return pooled


def _curves(each: Sequence[Findings]) -> list[Curve]:
    """Survival averaged over tables, where their curves step on the same days."""
    kept = []
    for same in zip(*(found.curves for found in each), strict=True):
        days = [[p.time_days for p in curve.points] for curve in same]
        if any(d != days[0] for d in days):
            continue
        points = [_point(cells) for cells in zip(*(curve.points for curve in same), strict=True)]
        m = len(same)
        parameters = same[0].parameters.model_copy(update={"imputations": m})
        kept.append(same[0].model_copy(update={"points": points, "parameters": parameters}))
    return kept


def _point(cells: Sequence[CurvePoint]) -> CurvePoint:
    values = [c.survival for c in cells if c.survival is not None]
    mean = math.fsum(values) / len(values) if len(values) == len(cells) else None
    return cells[0].model_copy(update={"survival": mean, "ci_low": None, "ci_high": None})
