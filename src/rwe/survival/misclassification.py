"""What a chart review says about a hazard ratio: misclassified exposure, misclassified deaths.

A sample of charts gives positive predictive values (PPV): the share of recorded starts (deaths) that were
real. Their uncertainty goes into the answer: each draw takes the PPV from a Beta distribution (Jeffreys'
prior) and the log hazard ratio from its normal one; the corrected ratio's median and quantiles are reported.

Exposure: of those recorded as exposed a share PPV is, and of those recorded as unexposed a share NPV is not.
The recorded groups' hazards are mixtures, so the true ratio x solves
HR = (PPV x + 1 - PPV) / (NPV + (1 - NPV) x). No x above 0 solves it for an HR at or below 1 - PPV: then the
estimate and the chart review contradict each other.
Deaths: HR x (PPV1 / sensitivity1) / (PPV0 / sensitivity0); with equal shares in both groups nothing changes.

Both treat hazards as mixtures at the given shares all along: small corrections are trustworthy, big ones not.

Sources: Lash, Fox & Fink 2009, Applying Quantitative Bias Analysis, chapters 6 to 8; Brenner & Gefeller 1993,
Am J Epidemiol 138:1007 (PPV).

For the planner: `misclassified_exposure(log_hr, se, ChartReview(confirmed, reviewed))` and
`misclassified_deaths(log_hr, se, exposed=..., unexposed=...)` where the protocol names a chart-review sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.data import FloatArray, NotEstimableError, SurvivalDataError

DRAWS = 100_000
METHOD = "probabilistic bias analysis"


@dataclass(frozen=True)
class ChartReview:
    """Of `reviewed` charts `confirmed` showed what the record says. Raises SurvivalDataError otherwise."""

    confirmed: int
    reviewed: int

    def __post_init__(self) -> None:
        if not 0 <= self.confirmed <= self.reviewed or self.reviewed < 1:
            raise SurvivalDataError("a chart review confirms between none and all of at least one chart")

    @property
    def share(self) -> float:
        """The share confirmed."""
        return self.confirmed / self.reviewed

    def draw(self, random: np.random.Generator, n: int) -> FloatArray:
        """Shares that the review is compatible with."""
        return random.beta(self.confirmed + 0.5, self.reviewed - self.confirmed + 0.5, n)


@dataclass(frozen=True)
class MisclassificationAnalysis:
    """The hazard ratio corrected at the shares observed (`point`) and over their uncertainty.

    `median`, `ci_low` and `ci_high` are quantiles of the draws that are possible; `impossible` is the share
    that was not: there the estimate and the review contradict each other. `point` is None where it is so.
    """

    what: str
    point: float | None
    median: float
    ci_low: float
    ci_high: float
    ci_level: float
    impossible: float
    draws: int
    seed: int
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    method: str = METHOD


def misclassified_exposure(
    log_hazard_ratio: float,
    se: float,
    starts: ChartReview,
    *,
    non_starts: ChartReview | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> MisclassificationAnalysis:
    """Recorded starts that were none (`starts`), and starts not recorded (`non_starts`; None: all recorded).

    Raises NotEstimableError where nearly no draw is possible, SurvivalDataError for a standard error not > 0.
    """
    _check(log_hazard_ratio, se, level)
    random = np.random.default_rng(seed)
    ratio = np.exp(random.normal(log_hazard_ratio, se, draws))
    ppv = starts.draw(random, draws)
    npv = np.ones(draws) if non_starts is None else non_starts.draw(random, draws)
    shares = np.array([starts.share]), np.array([1.0 if non_starts is None else non_starts.share])
    return _summarise(
        "exposure",
        point=_true_ratio(np.exp(np.array([log_hazard_ratio])), *shares),
        drawn=_true_ratio(ratio, ppv, npv),
        level=level,
        seed=seed,
        assumptions=(
            "Who is recorded wrongly has the hazard of the group they truly belong to.",
            "The reviewed charts are a random sample of the recorded starts.",
        ),
    )


def misclassified_deaths(
    log_hazard_ratio: float,
    se: float,
    *,
    exposed: ChartReview,
    unexposed: ChartReview,
    found_exposed: ChartReview | None = None,
    found_unexposed: ChartReview | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> MisclassificationAnalysis:
    """Recorded deaths that were none (PPV by group), and deaths that were missed.

    `found_*`: of so many true deaths (a registry's) so many were recorded; None: all were.
    Raises SurvivalDataError for a standard error not above 0, NotEstimableError where no death is confirmed.
    """
    _check(log_hazard_ratio, se, level)
    random = np.random.default_rng(seed)
    ratio = np.exp(random.normal(log_hazard_ratio, se, draws))
    reviews = (exposed, unexposed, found_unexposed, found_exposed)
    drawn = [np.ones(draws) if r is None else r.draw(random, draws) for r in reviews]
    ppv1, ppv0, found0, found1 = (np.array([1.0 if r is None else r.share]) for r in reviews)
    with np.errstate(divide="ignore", invalid="ignore"):
        point = np.exp(log_hazard_ratio) * (ppv1 / found1) / (ppv0 / found0)
        corrected = ratio * (drawn[0] / drawn[3]) / (drawn[1] / drawn[2])
    return _summarise(
        "deaths",
        point=np.where(np.isfinite(point) & (point > 0), point, np.nan),
        drawn=np.where(np.isfinite(corrected) & (corrected > 0), corrected, np.nan),
        level=level,
        seed=seed,
        assumptions=(
            "False and missed deaths are spread over time as the true ones.",
            "The reviewed charts are a random sample of each group's recorded deaths.",
        ),
    )


def _true_ratio(ratio: FloatArray, ppv: FloatArray, npv: FloatArray) -> FloatArray:
    """x of HR = (PPV x + 1 - PPV) / (NPV + (1 - NPV) x); NaN where none above 0 solves it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (ratio * npv - (1 - ppv)) / (ppv - ratio * (1 - npv))
    # With PPV + NPV at or below 1 the labels would be the wrong way round.
    return np.where(np.isfinite(x) & (x > 0) & (ppv + npv > 1), x, np.nan)


def _summarise(
    what: str,
    *,
    point: FloatArray,
    drawn: FloatArray,
    level: float,
    seed: int,
    assumptions: tuple[str, ...],
) -> MisclassificationAnalysis:
    possible = drawn[~np.isnan(drawn)]
    impossible = 1 - len(possible) / len(drawn)
    if len(possible) < len(drawn) / 100:
        raise NotEstimableError(f"the chart review of {what} and the hazard ratio contradict each other")
    low, median, high = np.quantile(possible, [0.5 - level / 2, 0.5, 0.5 + level / 2])
    warnings = []
    if impossible > 0.01:
        warnings.append(
            f"In {impossible:.0%} of the draws the chart review of {what} and the hazard ratio contradict "
            "each other; they were left out."
        )
    return MisclassificationAnalysis(
        what=what,
        point=None if np.isnan(point[0]) else float(point[0]),
        median=float(median),
        ci_low=float(low),
        ci_high=float(high),
        ci_level=level,
        impossible=float(impossible),
        draws=len(drawn),
        seed=seed,
        assumptions=assumptions,
        warnings=tuple(warnings),
    )


def _check(log_hazard_ratio: float, se: float, level: float) -> None:
    if not (np.isfinite(log_hazard_ratio) and np.isfinite(se) and se > 0):
        raise SurvivalDataError("the log hazard ratio needs a finite standard error above 0")
    if not 0 < level < 1:
        raise SurvivalDataError(f"the confidence level {level} is not between 0 and 1")
