"""Clones written out as start-stop rows with weights: for the sandwich variance, diagnostics and R.

One row for each stretch of a clone's follow-up over which its weight is constant, cut at every time at which
someone departs (as R's `survSplit` does it). The estimates themselves are made without these rows
(`rwe.survival.clone_plan`); they agree to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.clone_plan import Arms, ClonePlan, WeightFits, grace_log_weight
from rwe.survival.clones import ArmClones
from rwe.survival.cox import CoxData, CoxFit, cox_data, fit_cox
from rwe.survival.data import (
    BoolArray,
    FloatArray,
    IntArray,
    frozen_flags,
    frozen_floats,
    frozen_ints,
)
from rwe.survival.hazard_model import LARGEST, HazardFit, HazardModel
from rwe.survival.weight_steps import cut_entries, log_weight_at, steps_upto


@dataclass(frozen=True)
class WeightedRows:
    """Rows at risk on (start, stop], days, of both arms; `arm` 1 is the treated strategy.

    `patient` numbers the patients of `Clones` and is the cluster of a robust variance.
    """

    start: FloatArray
    stop: FloatArray
    event: BoolArray
    arm: IntArray
    weight: FloatArray
    patient: IntArray

    def __len__(self) -> int:
        return len(self.stop)


def weighted_rows(plan: ClonePlan, fits: WeightFits, arms: Arms) -> WeightedRows:
    """Write both arms out. Raises NotEstimableError for more than 6 million rows."""
    own: list[list[tuple[HazardModel, HazardFit]]] = [[(plan.starting, fits.starting)], []]
    leaving = list(zip(plan.leaving, fits.leaving, strict=True))
    own = [[*sources, *leaving] for sources in own]
    both = (plan.clones.control, plan.clones.treated)
    grace = (None, (plan.clones.grace2, grace_log_weight(plan, fits)))
    parts = [
        _arm_rows(clones, sources, jump, cap)
        for clones, sources, jump, cap in zip(both, own, grace, arms.caps, strict=True)
    ]
    who, start2, stop2, event, weight = (np.concatenate(c) for c in zip(*parts, strict=True))
    return WeightedRows(
        start=frozen_floats(start2 / 2),
        stop=frozen_floats(stop2 / 2),
        event=frozen_flags(event),
        arm=frozen_ints(np.repeat([0, 1], [len(p[0]) for p in parts])),
        weight=frozen_floats(weight),
        patient=frozen_ints(who),
    )


def arm_cox_data(rows: WeightedRows) -> CoxData:
    """The rows as the Cox model of the arm alone takes them."""
    return cox_data(
        rows.arm[:, None].astype(np.float64),
        rows.stop,
        rows.event,
        names=("exposed",),
        start=rows.start,
        weights=rows.weight,
        cluster=rows.patient,
    )


def arm_cox(rows: WeightedRows, *, level: float = 0.95) -> CoxFit:
    """The weighted Cox model of the arm alone, with the sandwich variance by patient (weights as known)."""
    return fit_cox(arm_cox_data(rows), robust=True, level=level)


_Rows = tuple[IntArray, IntArray, IntArray, BoolArray, FloatArray]


def _arm_rows(
    clones: ArmClones,
    sources: list[tuple[HazardModel, HazardFit]],
    jump: tuple[int, FloatArray] | None,
    cap: float | None,
) -> _Rows:
    cuts = [model.time2 for model, _ in sources] + ([np.array([jump[0]])] if jump else [])
    times = np.unique(np.concatenate(cuts))
    kept = np.flatnonzero(clones.stop2 > 0)
    zero = np.zeros(len(kept), dtype=np.int64)
    pieces = cut_entries(zero, clones.stop2[kept], times[times > 0], zero == 0)
    who = kept[pieces.entry]
    log_weight = np.zeros(len(who))
    for model, fit in sources:
        log_weight += log_weight_at(model, fit, who, steps_upto(model, pieces.begin2))
    if jump:
        log_weight += np.where(pieces.begin2 >= jump[0], jump[1][who], 0.0)
    weight = np.exp(np.minimum(log_weight, LARGEST))
    event = clones.event[who] & pieces.is_last
    return who, pieces.begin2, pieces.end2, event, weight if cap is None else np.minimum(weight, cap)
