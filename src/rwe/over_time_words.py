"""How measured covariates go on after index, in words for `rwe study check`."""

from __future__ import annotations

from rwe.study import ObservationCovariate, Protocol

_LOG = {
    "none": "the value",
    "log": "natural logarithm of the value",
    "log1p": "natural logarithm of 1 + the value",
}


def transformed_words(c: ObservationCovariate) -> str:
    """What of the value analyses take."""
    return _LOG[c.transform]


def later_words(c: ObservationCovariate) -> str:
    """What stands for a missing value, and which later values count in which analyses, as sentences."""
    missing = "" if c.before_first is None else f" Where there is none it is {c.before_first:g}."
    if c.over_time:
        return f"{missing} Later values take its place as they come, in every analysis but naive ones."
    return f"{missing} From a landmark on, the last value by then; in other analyses it stays that of day 0."


def mediated(p: Protocol) -> list[str]:
    """A note on measured values that a model follows beyond the start: they take a part of the effect."""
    models = [a for a in p.analyses if a.analysis.startswith("time_dependent_")]
    asked = {n for a in models if a.status_after_start == "follow" for n in a.adjusted_for}
    names = [c.name for c in p.covariates if c.name in asked & (p.followed() - p.statuses())]
    if not names:
        return []
    return [
        f"Note: time-dependent models adjust for {', '.join(names)} after the start, too: an effect by way "
        "of it is not part of their ratio. A marginal_structural_model weighs for it instead."
    ]
