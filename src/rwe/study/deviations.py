"""What differs between two versions of a protocol, and what of the later one is as the earlier one had it.

A version is the content of a lock's entry: the protocol and its code lists, as JSON. An analysis is as
planned where the earlier version asks for it with the same role and options, and everything that it rests on
is the same: the cohort, the strategies, the outcome, what ends follow-up, the covariates that it uses, and
the codes of all of these. What is only asked for beside it (a subgroup, a toxicity, another analysis) makes
no other analysis another; it is itself what was added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from rwe.study.analyses import Analysis
from rwe.study.protocol import Protocol

Content = dict[str, Any]

#: Fields in which a change is none of what is estimated.
WORDS = frozenset({"title", "question", "version", "schema_version"})
#: Fields that ask for something beside the analyses. Landmarks count for whoever counts from them alone.
_BESIDE = frozenset(
    {
        *("analyses", "sensitivity_grid", "landmarks", "subgroups", "negative_controls", "chart_review"),
        *("toxicities", "cart_copies"),
    }
)
#: Analyses that read survival, incidence or a restricted mean off at the protocol's horizons.
_AT_HORIZONS = frozenset(
    {
        *("naive_kaplan_meier", "naive_rmst", "simon_makuch", "landmark_kaplan_meier", "landmark_rmst"),
        *("landmark_weighting", "landmark_aiptw", "landmark_competing_risks", "clone_censor_weight"),
    }
)
#: Lists of named parts that are asked for one by one.
_NAMED = ("subgroups", "toxicities", "intercurrent_events")


def changed_fields(before: Content, now: Content) -> list[str]:
    """The fields of the protocol that differ, `codelists` among them."""
    old, new = _protocol(before), _protocol(now)
    fields = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [*fields, "codelists"] if before.get("codelists") != now.get("codelists") else fields


def analyses_of(content: Content) -> list[Analysis]:
    """The analyses that a version asks for. One of a format that is no more is left out."""
    return list(_analyses(_protocol(content)))


def primary_of(content: Content) -> Analysis | None:
    """The analysis that a version wants as its answer."""
    return next((a for a in analyses_of(content) if a.role == "primary"), None)


def is_planned(
    before: Content, now: Content, analysis: Analysis, landmark: int | None = None, *, of_site: bool = False
) -> bool:
    """Whether `before` asks for an analysis of `now`, and all that it rests on is the same in both.

    `landmark`: from that day alone. `of_site`: the analysis of one site, which `by_site` asks for.
    """
    return _rests_on(before, analysis) == _rests_on(now, analysis) and any(
        _is_same(analysis, a, of_site=of_site) and _has_landmarks(before, now, a, analysis, landmark)
        for a in analyses_of(before)
    )


def is_same_cohort(before: Content, now: Content) -> bool:
    """Whether patients, strategies, outcome and follow-up are the same, whatever is asked of them."""
    return _rests_on(before, None) == _rests_on(now, None)


def is_same_answer(before: Content, now: Content) -> bool:
    """Whether the primary analysis of `now` is that of `before`; without any, whether the cohort is."""
    primary = primary_of(now)
    if primary is None:
        return primary_of(before) is None and is_same_cohort(before, now)
    return is_planned(before, now, primary)


def is_same_part(before: Content, now: Content, field: str, name: str | None = None) -> bool:
    """Whether a part that is asked for beside the analyses is the same in both: a field, or one of its
    entries by its `name`; with its covariate, its codes and the cohort."""
    return is_same_cohort(before, now) and _part(before, field, name) == _part(now, field, name)


def _protocol(content: Content) -> dict[str, Any]:
    """The protocol of a version, with the defaults of the fields that there are since."""
    protocol: dict[str, Any] = content.get("protocol", {})
    try:
        return Protocol.model_validate(protocol).model_dump(mode="json")
    except ValidationError:
        return protocol


def _analyses(protocol: dict[str, Any]) -> Iterator[Analysis]:
    for asked in protocol.get("analyses", []):
        try:
            yield Analysis.model_validate(asked)
        except ValidationError:
            continue


def _rests_on(content: Content, analysis: Analysis | None) -> dict[str, Any]:
    """All of a version that decides what an analysis gives, but the analysis itself. What is not known to be
    beside it counts. None: any analysis without covariates and horizons."""
    protocol = _protocol(content)
    kept = {name: value for name, value in protocol.items() if name not in WORDS | _BESIDE}
    if analysis is None or analysis.analysis not in _AT_HORIZONS:
        kept.pop("horizons", None)
    events = [e for e in protocol.get("intercurrent_events", []) if e.get("handling") != "treatment_policy"]
    used = {n for e in events for n in e.get("weighted_for", [])}
    used |= set(analysis.adjusted_for) if analysis else set()
    covariates = {c.get("name"): c for c in protocol.get("covariates", []) if c.get("name") in used}
    return _with_codes(content, {**kept, "intercurrent_events": events, "covariates": covariates})


def _with_codes(content: Content, part: Any) -> dict[str, Any]:
    """A part without its labels, and the codes of the lists that it names."""
    known, said = content.get("codelists", {}), set(_strings(part))
    return {"part": _unlabelled(part), "codelists": {n: known[n] for n in known if n in said}}


def _unlabelled(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _unlabelled(value) for name, value in part.items() if name != "label"}
    return [_unlabelled(value) for value in part] if isinstance(part, list) else part


def _strings(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _strings(value)


def _is_same(now: Analysis, before: Analysis, *, of_site: bool) -> bool:
    """Whether two are one analysis, whatever its landmarks are."""
    if of_site and not before.by_site:
        return False
    anywhere = {"by_site": False, "landmarks": None}
    return now.model_copy(update=anywhere) == before.model_copy(update=anywhere)


def _has_landmarks(
    before: Content, now: Content, planned: Analysis, analysis: Analysis, landmark: int | None
) -> bool:
    """Whether the earlier version counts from the day, too; without a `landmark`, from all days of now."""
    if not analysis.analysis.startswith("landmark_"):
        return True
    known = planned.landmarks or _protocol(before).get("landmarks", [])
    asked = analysis.landmarks or _protocol(now).get("landmarks", [])
    return set(asked if landmark is None else [landmark]) <= set(known)


def _part(content: Content, field: str, name: str | None) -> Any:
    protocol = _protocol(content)
    part = protocol.get(field)
    if name is not None and field in _NAMED:
        part = next((p for p in part or [] if p.get("name") == name), None)
    elif name is not None:
        part = name if name in (part or []) else None
    if field == "negative_controls" and part is not None:
        events = protocol.get("intercurrent_events", [])
        part = [e for e in events if e.get("name") in (part if name is None else [name])]
    if field == "subgroups" and isinstance(part, dict):
        of = [c for c in protocol.get("covariates", []) if c.get("name") == part.get("covariate")]
        part = {**part, "of": of}
    return None if part is None else _with_codes(content, part)
