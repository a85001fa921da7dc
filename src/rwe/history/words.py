"""The history in sentences: for the command line and the report alike."""

from __future__ import annotations

from collections.abc import Sequence

from rwe.evidence.history import Change, Corrections, EstimateStep, Look, SiteNews
from rwe.wording import counted

STEPS = {
    "before": "as it was",
    "analysis": "the analysis of now on the rows of then",
    "left": "without those who left",
    "covariates": "covariates at index corrected",
    "moved": "starts, statuses and values corrected",
    "outcome": "outcomes that came to be known or were withdrawn",
    "follow_up": "other follow-up: grown, shortened, started since",
    "entered": "with those who entered",
}


def repeated_looks(look: int) -> str:
    """What repeated looking means for the ordinary interval."""
    if look == 1:
        return "This is the first look at this study."
    return f"This is look {look} at this study; intervals are not adjusted for looking repeatedly."


def news(sites: Sequence[SiteNews]) -> str:
    """New patients and events by site: `north 3 patients, 1 event`."""
    told = [
        f"{s.site} {counted(s.new_patients, 'patient')}, {counted(s.new_events, 'event')}"
        for s in sites
        if s.new_patients or s.new_events
        if s.new_patients is not None and s.new_events is not None
    ]
    return "; ".join(told)


def corrections(found: Corrections) -> list[str]:
    """What was corrected in old records, where anything was."""
    told = [
        (found.moved_to_treated, "moved to the treated strategy"),
        (found.moved_to_control, "moved to the control strategy"),
        (found.start_day_changed, "with another start day"),
        (found.event_withdrawn, "whose event was withdrawn"),
        (found.follow_up_shortened, "with shorter follow-up"),
        (found.progression_changed, "with another progression or salvage start"),
        (found.covariates_changed, "with another covariate at index"),
        (found.status_changed, "with another status or measured value before"),
    ]
    return [f"{counted(n, 'patient')} {what}" for n, what in told if n]


def look_notes(look: Look) -> list[str]:
    """What was new or changed at a look, each a clause."""
    notes = [f"new: {told}"] if (told := news(look.sites)) else []
    if look.left:
        notes.append(f"{counted(look.left, 'patient')} left")
    if look.corrections is not None:
        notes += [f"corrected: {c}" for c in corrections(look.corrections)]
    if look.protocol_changed:
        notes.append(f"protocol changed: {', '.join(look.protocol_changed)}")
    if look.code_changed:
        notes.append("code changed")
    return notes


def change_lines(change: Change) -> list[tuple[str, int]]:
    """A change as lines of a table: what, and how many patients; classes of nobody are left out."""
    lines = [("Before", change.n_before), ("Entered", change.entered)]
    lines += [(f"Left: {reason}", n) for reason, n in change.left.items()]
    lines += [("Erased at their wish", change.erased)] if change.erased else []
    lines.append(("Now", change.n_after))
    c = change.corrections
    in_both = [
        ("Event came to be known", change.outcome_known),
        ("Started in new follow-up", change.started_since),
        ("Follow-up grown", change.follow_up_grown),
        ("Corrected: moved to the treated strategy", c.moved_to_treated),
        ("Corrected: moved to the control strategy", c.moved_to_control),
        ("Corrected: another start day", c.start_day_changed),
        ("Corrected: event withdrawn", c.event_withdrawn),
        ("Corrected: follow-up shortened", c.follow_up_shortened),
        ("Corrected: another progression or salvage start", c.progression_changed),
        ("Corrected: covariate at index", c.covariates_changed),
        ("Corrected: status or value within known follow-up", c.status_changed),
    ]
    in_both = [(what, n) for what, n in in_both if n]
    return [*lines, *in_both, ("Nothing changed", change.unchanged)]


def step_label(step: EstimateStep) -> str:
    """A step of the estimate, with the patients it concerns."""
    who = "" if step.patients is None else f" ({counted(step.patients, 'patient')})"
    return STEPS[step.what] + who
