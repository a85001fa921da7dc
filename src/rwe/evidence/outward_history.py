"""The history as it may leave a site: the looks at releases, rounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rwe.evidence.contract import Estimate
from rwe.evidence.history import History, Look, Repeated
from rwe.evidence.small_cells import digits_of, whole_months
from rwe.small_cells import midpoint_6

_RATIOS = ("estimate", "ci_low", "ci_high", "naive")
_ALWAYS = ("always_low", "always_high")


def outward_history(
    h: History | None,
    name: str,
    at: datetime,
    earlier: History | None,
    *,
    shown: Sequence[Estimate],
    is_few: bool,
) -> History | None:
    """The releases so far, as the looks of a reader outside; the number of the look is the true one. A ratio
    that is withheld among the estimates is withheld here."""
    if h is None:
        return None
    own = _look(h.looks[-1], shown, is_few=is_few)
    inside: dict[str, object] = {
        "sites": [],
        "left": None,
        "corrections": None,
        "protocol_changed": [],
        "code_changed": False,
    }
    look = own.model_copy(update={"refresh": name, "created_at": at, **inside})
    return History(
        look=h.look,
        looks=[*(earlier.looks if earlier else []), look],
        change=None,
        repeated=None if is_few else _repeated(h.repeated),
    )


def _look(look: Look, shown: Sequence[Estimate], *, is_few: bool) -> Look:
    """A look with rounded counts; ratios have three digits, the confidence sequence two."""
    ratios = [e for e in shown if e.estimand == "hazard_ratio"]
    numbers = {k: digits_of(getattr(look, k)) for k in _RATIOS}
    if not any(e.analysis == look.analysis and e.estimate == look.estimate for e in ratios):
        numbers |= dict.fromkeys(("estimate", "ci_low", "ci_high"))
    if not any(e.is_biased and e.estimate == look.naive for e in ratios):
        numbers["naive"] = None
    numbers |= {k: None if is_few else digits_of(getattr(look, k), 2) for k in _ALWAYS}
    update = {
        "data_cutoff": whole_months(look.data_cutoff),
        "n": midpoint_6(look.n),
        "events": midpoint_6(look.events),
        "has_sequence": look.has_sequence and not is_few,
        **numbers,
    }
    return look.model_copy(update=update)


def _repeated(r: Repeated | None) -> Repeated | None:
    """Score and information are counts in disguise, and two of estimate and limits would give them back."""
    if r is None:
        return None
    hidden = dict.fromkeys(("estimate", "one_look_low", "one_look_high", "score", "information"))
    limits = {k: digits_of(getattr(r, k), 2) for k in ("ci_low", "ci_high")}
    return r.model_copy(update={**limits, **hidden})
