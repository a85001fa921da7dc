"""The part of evidence.json that other hospitals gave as sums: what a hub's federated refreshes found.

A hub leaves each estimate as a file beside the refresh (`rwe.federate`), and an analysis reads it from there:

    WORKSPACE/federate/hub/REFRESH/estimate.json    0600

It holds what the result file holds of the model and of the rounded counts, and nothing of a single site. The
exact sums of the log-rank test and the life table stay in the result file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from rwe.durable import write_whole
from rwe.errors import EvidenceError
from rwe.evidence.parts import Part
from rwe.study.analyses import AnalysisName

HUB: Final = Path("federate", "hub")
"""The folder of a hub's refreshes, in its workspace."""
ESTIMATE: Final = "estimate.json"


AT_SITES: Final = "midpoint_6"
"""Each site rounded its own counts to midpoints of six, and these are their totals."""
OF_TOTALS: Final = "midpoint_6 of the totals"


class FederatedCoefficient(Part):
    """One coefficient of the federated model: on the log scale, and as a hazard ratio with its limits."""

    name: str
    estimate: float | None
    se: float | None
    hazard_ratio: float | None
    ci_low: float | None
    ci_high: float | None


class FederatedCounts(Part):
    """Totals over the sites, rounded. `counts_are` says whether each site rounded its own before it gave them
    (`midpoint_6`), or the totals were (`midpoint_6 of the totals`)."""

    patients: int
    ever_exposed: int
    events: int
    events_exposed: int
    incomplete: int = Field(description="Patients without a covariate of the model: not in the estimate.")
    counts_are: str


class FederatedEstimate(Part):
    """The hazard ratio over sites that kept their patients, from totals of their sums; null without one."""

    format: Literal["rwe federated estimate 1"] = "rwe federated estimate 1"
    study: str
    protocol_sha256: str
    analysis: AnalysisName
    role: Literal["primary", "sensitivity", "contrast"] = Field(description="As the protocol says.")
    place: int = Field(description="Which analysis of the protocol, from 1 on.")
    landmark_day: int | None
    adjusted_for: list[str]
    refresh: str = Field(description="Of the hub, by `rwe federate`; not a refresh of this evidence.")
    finished_at: datetime
    mode: Literal["masked", "plain"] = Field(
        description="masked: the hub saw totals only. plain: the sums of each site."
    )
    sites: list[str]
    rounds: int = Field(description="How often the hub asked and every site answered.")
    has_converged: bool
    method: str
    variance_method: str
    estimate: float | None
    log_estimate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    p_value: float | None
    coefficients: list[FederatedCoefficient] = Field(description="The exposure, then the covariates.")
    logrank_chi_square: float | None
    logrank_p_value: float | None
    counts: FederatedCounts
    is_biased: bool
    request_sha256: str = Field(description="Of the last request, which chains back to the first.")
    warnings: list[str]


def write_estimate(found: FederatedEstimate, folder: Path) -> None:
    """Leave an estimate in the folder of its refresh: complete or absent, for the owner only."""
    write_whole(folder / ESTIMATE, f"{found.model_dump_json(indent=1)}\n".encode())


def read_estimate(folder: Path) -> FederatedEstimate | None:
    """The estimate of one refresh; None without. Raises EvidenceError where it cannot be read."""
    path = folder / ESTIMATE
    try:
        return FederatedEstimate.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise EvidenceError(
            "the federated estimate is damaged or of another version of rwe",
            where=str(path),
            advice=f"remove the file and repeat `rwe federate combine {folder.name}`, which writes it again",
        ) from None


@dataclass(frozen=True)
class FederatedEstimates:
    """What a hub found under one protocol: of each analysis and landmark the newest, in the order of the
    protocol; and a sentence for each file that cannot be read, whatever study it is of."""

    found: list[FederatedEstimate]
    warnings: tuple[str, ...] = ()


def federated_estimates(workspace: Path, study: str, protocol_sha256: str) -> FederatedEstimates:
    """What this hub found under exactly this protocol. `workspace`: its folder."""
    root = workspace / HUB
    newest: dict[tuple[int, int], FederatedEstimate] = {}
    warnings = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        try:
            found = read_estimate(folder)
        except EvidenceError as e:
            warnings.append(f"The federated refresh {folder.name} is left out: {e.what}; {e.advice}.")
            continue
        if found is None or (found.study, found.protocol_sha256) != (study, protocol_sha256):
            continue
        key = (found.place, found.landmark_day or 0)
        if key not in newest or newest[key].finished_at <= found.finished_at:
            newest[key] = found
    return FederatedEstimates([newest[key] for key in sorted(newest)], tuple(warnings))


def federated_sha256(found: Sequence[FederatedEstimate]) -> str | None:
    """The hash by which the next analysis knows that there is nothing new; None without an estimate."""
    if not found:
        return None
    return hashlib.sha256("\n".join(f.model_dump_json() for f in found).encode()).hexdigest()
