"""Two refreshes of one study, patient by patient at the site, told in counts.

What is new in follow-up that was not there before (an event, a start, a status) is growth. What differs in
the days that both refreshes saw is a correction of old records. The two are kept apart: growth is what a
study waits for, corrections are what its reader must know of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rwe.evidence.history import Change, Corrections, SiteNews
from rwe.history.ledger import Ledger
from rwe.wording import counted

NO_LONGER_RECORDED = "no longer recorded"
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moves:
    """Who moved, as flags over `patients` (index: patient_id of those in both, columns `…_a` of before and
    `…_b` of after), and the ids of those who entered and left. Never leaves the site."""

    patients: pd.DataFrame
    entered: frozenset[str]
    left: frozenset[str]
    to_treated: _Flags
    to_control: _Flags
    start_day: _Flags
    salvage: _Flags
    event_known: _Flags
    event_withdrawn: _Flags
    shortened: _Flags
    grown: _Flags
    started_since: _Flags
    covariates: _Flags
    status: _Flags

    @property
    def corrected_exposure(self) -> _Flags:
        """Start, salvage or status differ in days that both refreshes saw."""
        return self.to_treated | self.to_control | self.start_day | self.salvage | self.status

    @property
    def outcome(self) -> _Flags:
        return self.event_known | self.event_withdrawn

    @property
    def any(self) -> _Flags:
        follow_up = self.outcome | self.shortened | self.grown | self.started_since
        return follow_up | self.corrected_exposure | self.covariates


def moves(before: Ledger, after: Ledger) -> Moves:
    """Who moved from one refresh to the next. Both ledgers are of one pseudonym key."""
    a, b = before.survival.set_index("patient_id"), after.survival.set_index("patient_id")
    both = a.join(b, how="inner", lsuffix="_a", rsuffix="_b").sort_index()
    time_a, time_b = _column(both, "time_days_a"), _column(both, "time_days_b")
    start_a, start_b = _column(both, "start_day_a"), _column(both, "start_day_b")
    event_a, event_b = both["is_event_a"].to_numpy(bool), both["is_event_b"].to_numpy(bool)
    had, has = ~np.isnan(start_a), ~np.isnan(start_b)
    # A start on the last day seen before would have been seen then, were it recorded in time.
    is_seen = start_b <= time_a
    seen = dict(zip(both.index, np.minimum(time_a, time_b), strict=True))
    return Moves(
        patients=both,
        entered=frozenset(b.index) - frozenset(a.index),
        left=frozenset(a.index) - frozenset(b.index),
        to_treated=~had & has & is_seen,
        to_control=had & ~has,
        start_day=had & has & (start_a != start_b),
        salvage=_differs_within(both, "salvage_start_day", time_a)
        | _differs_within(both, "progression_day", time_a),
        event_known=~event_a & event_b,
        event_withdrawn=event_a & ~event_b,
        shortened=time_b < time_a,
        grown=time_b > time_a,
        started_since=~had & has & ~is_seen,
        covariates=_covariates_differ(before, after, both.index),
        status=_status_differs(before.changes, after.changes, seen),
    )


def describe(
    found: Moves,
    before: Ledger,
    after: Ledger,
    *,
    protocol_changed: list[str],
    code_changed: bool,
) -> Change:
    """The moves as counts; nobody can be told from it but by being few."""
    both = found.patients
    longer = _column(both, "time_days_b") - _column(both, "time_days_a")
    reasons = Counter(after.excluded.get(p, NO_LONGER_RECORDED) for p in found.left)
    erased = max(0, before.erased - after.erased)
    n_before, n_after = len(before.survival) + before.erased, len(after.survival) + after.erased
    missing = n_after - (n_before - erased - len(found.left) + len(found.entered))
    return Change(
        since=before.refresh,
        n_before=n_before,
        n_after=n_after,
        entered=len(found.entered),
        left=dict(sorted(reasons.items())),
        erased=erased,
        outcome_known=_count(found.event_known),
        started_since=_count(found.started_since),
        follow_up_grown=_count(found.grown),
        follow_up_days=float(longer[found.grown].sum()),
        unchanged=_count(~found.any),
        corrections=Corrections(
            moved_to_treated=_count(found.to_treated),
            moved_to_control=_count(found.to_control),
            start_day_changed=_count(found.start_day),
            event_withdrawn=_count(found.event_withdrawn),
            follow_up_shortened=_count(found.shortened),
            progression_changed=_count(found.salvage),
            covariates_changed=_count(found.covariates),
            status_changed=_count(found.status),
        ),
        sites=news_by_site(before, after),
        protocol_changed=protocol_changed,
        code_changed=code_changed,
        notes=[f"{counted(abs(missing), 'patient')} erased after both refreshes: not counted here."]
        if missing
        else [],
    )


def news_by_site(before: Ledger | None, after: Ledger) -> list[SiteNews]:
    """New patients and new events of each site; of everything where nothing was before."""
    known = set(before.survival["patient_id"]) if before else set()
    had = set(before.survival.loc[before.survival["is_event"], "patient_id"]) if before else set()
    now = after.survival
    is_new = ~now["patient_id"].isin(known)
    is_new_event = now["is_event"] & ~now["patient_id"].isin(had)
    sites = {*now["site"], *(before.survival["site"] if before else ())}
    return [
        SiteNews(
            site=site,
            new_patients=int((is_new & (now["site"] == site)).sum()),
            new_events=int((is_new_event & (now["site"] == site)).sum()),
        )
        for site in sorted(sites)
    ]


def protocol_differences(
    before: dict[str, object], after: dict[str, object], *, has_other_codelists: bool = False
) -> list[str]:
    """Fields of two protocols that differ, but for words (title, question, version); else `codelists`, where
    only codes differ."""
    words = {"title", "question", "version", "schema_version"}
    fields = sorted(f for f in {*before, *after} - words if before.get(f) != after.get(f))
    return fields or (["codelists"] if has_other_codelists else [])


def _column(frame: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _count(flags: _Flags) -> int:
    return int(flags.sum())


def _differs_within(both: pd.DataFrame, name: str, time_a: npt.NDArray[np.float64]) -> _Flags:
    """A day that differs, where at least one of the two lies in the days seen before."""
    a, b = _column(both, f"{name}_a"), _column(both, f"{name}_b")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    differs: _Flags = ~same & (~np.isnan(a) | (b <= time_a))
    return differs


def _covariates_differ(before: Ledger, after: Ledger, index: pd.Index[str]) -> _Flags:
    """Covariates that both refreshes know; a covariate that only one of them has is the protocol's change."""
    shared = [c for c in before.covariates.columns if c in after.covariates.columns]
    differs = np.zeros(len(index), dtype=bool)
    for name in shared:
        a = _by_patient(before, name).reindex(index).to_numpy(dtype=np.float64)
        b = _by_patient(after, name).reindex(index).to_numpy(dtype=np.float64)
        differs |= ~((a == b) | (np.isnan(a) & np.isnan(b)))
    return differs


def _by_patient(ledger: Ledger, name: str) -> pd.Series[float]:
    return pd.Series(ledger.covariates[name].to_numpy(), index=ledger.survival["patient_id"])


def _status_differs(before: pd.DataFrame, after: pd.DataFrame, seen: dict[str, float]) -> _Flags:
    """Whose status over time differs in the days that both refreshes saw."""
    shared = set(before["covariate"]) & set(after["covariate"]) if len(before) and len(after) else None
    a, b = _statuses(before, seen, shared), _statuses(after, seen, shared)
    return np.array([a(p) != b(p) for p in seen], dtype=bool)


def _statuses(
    changes: pd.DataFrame, seen: dict[str, float], shared: set[str] | None
) -> Callable[[str], list[tuple[str, float, float]]]:
    """The changes of each patient that take effect in the days seen (a change of day d holds after it)."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    columns = (changes[c].tolist() for c in ("patient_id", "covariate", "day", "value"))
    for patient, covariate, day, value in zip(*columns, strict=True):
        if day < seen.get(patient, -1) and (shared is None or covariate in shared):
            found.setdefault(patient, []).append((covariate, day, value))
    return lambda patient: sorted(found.get(patient, []))
