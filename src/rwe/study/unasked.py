"""Which sensitivities that a reader expects a protocol does not ask for."""

from __future__ import annotations

from rwe.study.grid import RuleName, analysis_of
from rwe.study.protocol import Protocol

_EXPECTED: dict[RuleName, str] = {
    "grace_days": "another grace period",
    "landmark": "another landmark",
    "exposure_tiers": "other evidence of exposure",
    "salvage": "salvage counted as a start",
    "censoring": "the other rule of censoring",
    "death_without_date": "the other rule for deaths on no known day",
    "lag_days": "a lag until exposure counts",
}


def not_asked(protocol: Protocol) -> list[RuleName]:
    """The expected rules that neither the sensitivity grid nor an analysis of its own tries otherwise.

    Without `unless_progressed` no start is salvage, so there is nothing to ask.
    """
    asked: set[RuleName] = {c.rule for c in protocol.sensitivity_grid} | _asked_by_analyses(protocol)
    if not protocol.strategies.treated.unless_progressed:
        asked.add("salvage")
    return [rule for rule in _EXPECTED if rule not in asked]


def _asked_by_analyses(protocol: Protocol) -> set[RuleName]:
    found: set[RuleName] = set()
    grace = protocol.strategies.treated.grace_days
    days: dict[str, set[int]] = {}
    for a in protocol.analyses:
        if a.grace_days not in (None, grace):
            found.add("grace_days")
        if a.salvage == "counts_as_start":
            found.add("salvage")
        if a.analysis.startswith("landmark_"):
            days.setdefault(a.analysis, set()).update(a.landmarks or protocol.landmarks)
    return found | ({"landmark"} if any(len(d) > 1 for d in days.values()) else set())


def rules_in_words(rules: list[RuleName]) -> str:
    """As a list inside a sentence."""
    words = [_EXPECTED[r] for r in rules]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def unasked_words(protocol: Protocol) -> list[str]:
    """One line for who writes the protocol; empty where all are asked for."""
    missing = not_asked(protocol)
    able = [r for r in missing if analysis_of(r, protocol.analyses) is not None]
    unable = [r for r in missing if r not in able]
    parts = [f"{rules_in_words(able)} (sensitivity_grid has room for that)"] if able else []
    parts += [f"{rules_in_words(unable)} (no analysis of this study has such a rule)"] if unable else []
    return [f"Note: no sensitivity was asked for on {'; on '.join(parts)}."] if parts else []
