"""Toxicity and other events per person-time, and the kinetics of the infused cells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rwe.analyse.read import StudyTables
from rwe.evidence.parts import (
    CaseReport,
    CopiesTrace,
    EventRate,
    ExpansionSummary,
    Kinetics,
    Safety,
)
from rwe.study import Study
from rwe.survival.data import CohortTable, no_changes
from rwe.survival.rates import Rate, first_event_rates

SEVERE = 3
_NOT_ADJUSTED = "Rates are not adjusted: who starts differs from who does not, and starts later."
_CONDITIONED_UNTIL = 28
_WORST_FIRST = (
    "Cytopenia before day 29 comes from the conditioning and the infusion: it counts as unexposed, and "
    "whoever has it is at risk no more. Where most patients have it, few are left to tell anything of later "
    "events: from_day of a toxicity counts those alone."
)
_EARLIER_DO_NOT_COUNT = (
    "Where a day is named, earlier events of that kind neither count nor take anybody out: person-time "
    "begins on that day, for all who are followed until then."
)


def describe_safety(study: Study, tables: StudyTables) -> Safety | None:
    """First cytopenias of grade 3 or 4 and first intercurrent events, by exposure at the time.

    None where the study asks for neither.
    """
    p = study.protocol
    if not p.toxicities and not p.intercurrent_events:
        return None
    rates = [rate for kind in _kinds(study, tables) for rate in _rates(study, tables, kind)]
    begins = [t.from_day for t in p.toxicities]
    notes = [_NOT_ADJUSTED]
    notes += [_WORST_FIRST] if any(day <= _CONDITIONED_UNTIL for day in begins) else []
    notes += [_EARLIER_DO_NOT_COUNT] if any(begins) else []
    return Safety(rates=rates, notes=notes)


@dataclass(frozen=True)
class _Kind:
    """A kind of event: `days` is the first one of each patient who has one, from `from_day` on."""

    name: str
    days: pd.Series[float]
    from_day: int = 0


def _kinds(study: Study, tables: StudyTables) -> Iterable[_Kind]:
    graded = tables.toxicity
    for t in study.protocol.toxicities:
        counts = (graded["toxicity"] == t.name) & (graded["grade"] >= SEVERE) & (graded["day"] >= t.from_day)
        since = f", from day {t.from_day} on" if t.from_day else ""
        first = graded[counts].groupby("patient_id")["day"].min()
        yield _Kind(f"{t.name}, grade {SEVERE} or 4{since}", first, t.from_day)
    for e in study.protocol.intercurrent_events:
        mine = tables.intercurrent[tables.intercurrent["event"] == e.name]
        yield _Kind(e.name, mine.groupby("patient_id")["day"].min())


def _followed_from(cohort: CohortTable, from_day: int) -> tuple[CohortTable, int]:
    """Who is at risk on `from_day`, with days counted from the end of the day before, and that day.

    Whoever had started by then is exposed from the beginning.
    """
    if from_day == 0:
        return cohort, 0
    origin = from_day - 1  # at risk on (origin, …], so that an event on from_day itself counts
    mine = cohort.patients[cohort.patients["time_days"] > origin].reset_index(drop=True)
    shifted = mine.assign(
        time_days=mine["time_days"] - origin, start_day=(mine["start_day"] - origin).clip(lower=0)
    )
    return CohortTable(shifted, no_changes()), origin


def _rates(study: Study, tables: StudyTables, kind: _Kind) -> Iterable[EventRate]:
    cohort, origin = _followed_from(tables.cohort(), kind.from_day)
    first = cohort.patients["patient_id"].map(kind.days).astype(float).to_numpy() - origin
    control, treated = study.protocol.strategies.control.name, study.protocol.strategies.treated.name
    found = first_event_rates(cohort, first, level=study.protocol.confidence_level)
    for strategy, rate in zip((control, treated), found, strict=True):
        yield EventRate(
            event=kind.name,
            strategy=strategy,
            patients_at_risk=rate.patients,
            events=rate.events,
            person_years=rate.person_years,
            rate_per_100_years=_per_100(rate, rate.rate),
            ci_low=_per_100(rate, rate.ci_low),
            ci_high=_per_100(rate, rate.ci_high),
        )


def _per_100(rate: Rate, value: float | None) -> float | None:
    return None if value is None or rate.person_years <= 0 else 100 * value


def describe_kinetics(study: Study, tables: StudyTables) -> Kinetics | None:
    """Expansion and persistence by strategy, single traces, and relapses that responded again.

    None where the study names no code list of copies.
    """
    asked = study.protocol.cart_copies
    if asked is None:
        return None
    notes = [] if len(tables.copies) else ["Nobody has a measurement of copies in the protocol's unit."]
    return Kinetics(
        unit=asked.unit,
        summaries=list(_summaries(study, tables)),
        traces=list(_traces(study, tables)),
        case_series=list(_case_series(tables)),
        notes=notes,
    )


def without_single_patients(found: Kinetics | None) -> Kinetics | None:
    """What may stand in evidence.json: sums, and how many single traces and cases are kept apart.

    Where they are is not said here: the folder `reproduce` is not written everywhere.
    """
    if found is None:
        return None
    apart = {"traces_apart": len(found.traces), "cases_apart": len(found.case_series)}
    return found.model_copy(update={"traces": [], "case_series": [], **apart})


def _strategy_of(study: Study, start_day: float) -> str:
    strategies = study.protocol.strategies
    return strategies.control.name if math.isnan(start_day) else strategies.treated.name


def _summaries(study: Study, tables: StudyTables) -> Iterable[ExpansionSummary]:
    joined = tables.expansion.merge(tables.survival[["patient_id", "start_day"]], on="patient_id")
    strategies = study.protocol.strategies
    for name, started in ((strategies.treated.name, True), (strategies.control.name, False)):
        mine = joined[joined["start_day"].notna() == started]
        quartiles = _quantiles(mine["peak_copies"], (0.25, 0.5, 0.75))
        yield ExpansionSummary(
            strategy=name,
            patients=len(mine),
            peak_q1=quartiles[0],
            peak_median=quartiles[1],
            peak_q3=quartiles[2],
            peak_day_median=_quantiles(mine["peak_day"], (0.5,))[0],
            auc_median=_quantiles(mine["auc_0_28"], (0.5,))[0],
            last_detectable_day_median=_quantiles(mine["last_detectable_day"], (0.5,))[0],
        )


def _quantiles(values: pd.Series[float], at: tuple[float, ...]) -> list[float | None]:
    known = values.astype(float).dropna().to_numpy()
    return [float(np.quantile(known, q)) if len(known) else None for q in at]


def _traces(study: Study, tables: StudyTables) -> Iterable[CopiesTrace]:
    """In an order that says nothing: by strategy, then by the values themselves."""
    starts, progressions = _days_of(tables, "start_day"), _days_of(tables, "progression_day")
    found = []
    for patient, trace in tables.copies.sort_values(["patient_id", "day"]).groupby("patient_id"):
        if str(patient) not in starts:
            continue
        start = starts[str(patient)]
        found.append(
            CopiesTrace(
                strategy=_strategy_of(study, start),
                days=[int(d) for d in trace["day"]],
                copies=[float(c) for c in trace["copies"]],
                start_day=_whole(start),
                progression_day=_whole(progressions[str(patient)]),
            )
        )
    return sorted(found, key=lambda t: (t.strategy, t.days, t.copies))


def _case_series(tables: StudyTables) -> Iterable[CaseReport]:
    """The source paper's pattern: relapse, the drug after it, response again, copies rising."""
    salvages = _days_of(tables, "salvage_start_day")
    found = []
    for patient, course in tables.response.sort_values("from_day").groupby("patient_id"):
        start = _whole(salvages.get(str(patient), math.nan))
        if start is None:
            continue
        relapse = course[course["is_relapse"] & (course["from_day"] <= start)]["from_day"]
        again = course[(course["status"] == "responding") & (course["from_day"] > start)]["from_day"]
        if relapse.empty or again.empty:
            continue
        copies = tables.copies[tables.copies["patient_id"] == patient]
        before = copies[copies["day"] <= start].sort_values("day")["copies"]
        after = copies[copies["day"] > start]["copies"]
        last = float(before.iloc[-1]) if len(before) else None
        peak = float(after.max()) if len(after) else None
        found.append(
            CaseReport(
                relapse_day=int(relapse.iloc[-1]),
                start_day=start,
                response_day=int(again.iloc[0]),
                copies_before=last,
                copies_after=peak,
                is_rising=None if last is None or peak is None else peak > last,
            )
        )
    return sorted(found, key=lambda c: (c.relapse_day, c.start_day, c.response_day))


def _days_of(tables: StudyTables, column: str) -> dict[str, float]:
    """A column of the analysed cohort by patient; NaN is never."""
    pairs = zip(tables.survival["patient_id"], tables.survival[column], strict=True)
    return {str(patient): float(day) for patient, day in pairs}


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
