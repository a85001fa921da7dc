"""Landmark analyses: groups fixed at a day, among those still followed then, with the clock restarted.

Source: Anderson, Cain & Gelber 1983. Later starters stay unexposed, so the contrast is "started by the
landmark" against "not (yet) started by it", among survivors to that day.
"""

from __future__ import annotations

from collections.abc import Sequence

from rwe.survival.cox import CoxFit, exposure_cox
from rwe.survival.cox_kernel import Ties
from rwe.survival.data import CohortTable, landmark_split
from rwe.survival.kaplan_meier import ConfidenceType, ExposureCurves, exposure_curves
from rwe.survival.logrank import LogRank, exposure_logrank


def landmark_cox(
    table: CohortTable,
    day: int,
    covariates: Sequence[str] = (),
    time_varying: Sequence[str] = (),
    *,
    stratify_by_site: bool = False,
    ties: Ties = "efron",
    robust: bool = False,
    level: float = 0.95,
) -> CoxFit:
    """Cox model from the landmark on. Raises NotEstimableError as `fit_cox`, e.g. if nobody started by it."""
    rows = landmark_split(table, day, covariates, time_varying)
    return exposure_cox(rows, stratify_by_site=stratify_by_site, ties=ties, robust=robust, level=level)


def landmark_logrank(table: CohortTable, day: int, *, stratify_by_site: bool = False) -> LogRank:
    """Log-rank test from the landmark on."""
    return exposure_logrank(landmark_split(table, day), stratify_by_site=stratify_by_site)


def landmark_curves(
    table: CohortTable, day: int, *, level: float = 0.95, conf_type: ConfidenceType = "log"
) -> ExposureCurves:
    """Kaplan-Meier curves from the landmark on; their times are days since the landmark."""
    return exposure_curves(landmark_split(table, day), level=level, conf_type=conf_type)
