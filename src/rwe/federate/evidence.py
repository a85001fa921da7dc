"""A federated result as a part of the evidence: what an analysis and its report may show of it."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from rwe.evidence.federated import (
    AT_SITES,
    OF_TOTALS,
    FederatedCoefficient,
    FederatedCounts,
    FederatedEstimate,
)
from rwe.federate.documents import Mode
from rwe.federate.result import Coefficient, FederatedResult
from rwe.small_cells import midpoint_6
from rwe.study import Study


def evidence_of(result: FederatedResult, study: Study, place: int) -> FederatedEstimate:
    """The estimate of the exposure with its interval, the rounded counts and what warns of them.

    `place` is that of the analysis in the study, from 0 on. Each site's sums, the exact sums of the log-rank
    test and the life table stay out. A hazard ratio is null where the refresh ended without an estimate.
    """
    asked = study.protocol.analyses[place]
    exposure, *_ = coefficients = [_coefficient(c) for c in result.coefficients]
    counts = {name: _outside(round(n), result.counts_are) for name, n in result.counts.items()}
    return FederatedEstimate(
        study=result.study,
        protocol_sha256=result.protocol_sha256,
        analysis=asked.analysis,
        role=asked.role,
        place=place + 1,
        landmark_day=result.landmark_day,
        adjusted_for=list(asked.adjusted_for),
        refresh=result.refresh,
        finished_at=datetime.fromisoformat(result.created_at),
        mode=cast(Mode, result.mode),
        sites=list(result.sites),
        rounds=result.steps,
        has_converged=result.ending == "converged",
        method=result.method,
        variance_method=result.variance_method,
        estimate=exposure.hazard_ratio,
        log_estimate=exposure.estimate,
        se=exposure.se,
        ci_low=exposure.ci_low,
        ci_high=exposure.ci_high,
        ci_level=result.ci_level,
        p_value=result.coefficients[0].p_value,
        coefficients=coefficients,
        logrank_chi_square=result.logrank.chi_square if result.logrank else None,
        logrank_p_value=result.logrank.p_value if result.logrank else None,
        counts=FederatedCounts(counts_are=_counts_are(result.counts_are), **counts),
        is_biased=asked.analysis.startswith("naive_"),
        request_sha256=result.request_sha256,
        warnings=list(result.warnings),
    )


def _outside(count: int, counts_are: str) -> int:
    """Exact totals stay in the result, which its owner alone can read; evidence has more readers."""
    return count if counts_are == AT_SITES else midpoint_6(count)


def _counts_are(counts_are: str) -> str:
    return counts_are if counts_are == AT_SITES else OF_TOTALS


def _coefficient(c: Coefficient) -> FederatedCoefficient:
    ratio, low, high = c.hazard_ratio or (None, None, None)
    return FederatedCoefficient(
        name=c.name, estimate=c.estimate, se=c.se, hazard_ratio=ratio, ci_low=low, ci_high=high
    )
