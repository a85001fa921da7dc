"""Follow-up cut where a weight changes, and the weight at any of these cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwe.survival.data import BoolArray, FloatArray, IntArray, NotEstimableError
from rwe.survival.hazard_model import LARGEST, HazardFit, HazardModel

MOST_ROWS = 6_000_000
"""Rows that still fit a small machine."""


@dataclass(frozen=True)
class Pieces:
    """Entries cut into pieces (begin2, end2], half days, in order of entry and time."""

    entry: IntArray
    begin2: IntArray
    end2: IntArray
    is_last: BoolArray


def piece_counts(begin2: IntArray, end2: IntArray, cuts2: IntArray, is_cut: BoolArray) -> IntArray:
    """Into how many pieces `cut_entries` cuts each entry."""
    low = np.searchsorted(cuts2, begin2, side="right")
    high = np.searchsorted(cuts2, end2, side="left")
    return np.asarray(np.where(is_cut, np.maximum(high - low, 0) + 1, 1))


def cut_entries(begin2: IntArray, end2: IntArray, cuts2: IntArray, is_cut: BoolArray) -> Pieces:
    """Cut each entry flagged in `is_cut` at the `cuts2` (ascending) strictly inside it.

    Raises NotEstimableError for more than 6 million pieces.
    """
    low = np.searchsorted(cuts2, begin2, side="right")
    many = piece_counts(begin2, end2, cuts2, is_cut)
    if int(many.sum()) > MOST_ROWS:
        raise NotEstimableError("too many patients and start days for weights that change with each")
    entry = np.repeat(np.arange(len(begin2)), many)
    piece = np.arange(len(entry)) - np.repeat(np.cumsum(many) - many, many)
    is_last = piece == many[entry] - 1
    padded = np.append(cuts2, 0)
    at = np.clip(low[entry] + piece, 0, len(cuts2))
    return Pieces(
        entry=entry,
        begin2=np.where(piece == 0, begin2[entry], padded[np.maximum(at - 1, 0)]),
        end2=np.where(is_last, end2[entry], padded[at]),
        is_last=is_last,
    )


def steps_that_matter(step2: IntArray, death2: IntArray) -> IntArray:
    """Of the steps between two deaths the last; none after the last death. The others weigh no risk set."""
    if not len(step2):
        return step2
    following = np.searchsorted(death2, step2, side="right")
    is_last = np.append(following[1:] != following[:-1], True)
    return np.asarray(step2[is_last & (following < len(death2))])


def steps_upto(model: HazardModel, half: IntArray) -> IntArray:
    """How many steps of the model lie on or before each half day: what the weight after it is made of."""
    return np.asarray(np.searchsorted(model.time2, half, side="right"))


def log_weight_at(model: HazardModel, fit: HazardFit, patient: IntArray, steps: IntArray) -> FloatArray:
    """Log weight of each (patient, number of steps of the model passed): his hazards added up to there."""
    n = int(patient.max(initial=-1)) + 1
    furthest = np.zeros(n, dtype=np.int64)
    np.maximum.at(furthest, patient, steps)
    begin = np.concatenate([[0], np.cumsum(furthest)])
    who = np.repeat(np.arange(n), furthest)
    slot = np.arange(len(who)) - begin[who]
    key = model.patient * (model.n_slots + 1) + model.first
    row = np.searchsorted(key, who * (model.n_slots + 1) + slot, side="right") - 1
    known = (row >= 0) & (model.patient[row] == who) & (model.past[row] > slot)
    relative = np.where(known, fit.relative[row], 0.0) if len(fit.relative) else np.zeros(len(who))
    with np.errstate(over="ignore"):
        steps_of_weight = np.minimum(fit.increments[slot] * relative, LARGEST)
    running = np.concatenate([[0.0], np.cumsum(steps_of_weight)])
    return np.asarray(running[begin[patient] + steps] - running[begin[patient]])


def last_of_entries(entry: IntArray, values: FloatArray, n: int) -> FloatArray:
    """The value of each entry's last piece; 0 for an entry without any."""
    last = np.zeros(n)
    last[entry] = values  # in order of time: the last one stays
    return last
