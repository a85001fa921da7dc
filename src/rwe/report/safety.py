"""Events by exposure at the time, and the kinetics of the infused cells, as rows of tables."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.contract import Contrast
from rwe.evidence.parts import CaseReport, ExpansionSummary, Kinetics, Safety
from rwe.report.formats import NOT_ESTIMABLE, count, interval, listing, titled, whole_days
from rwe.report.names import Names


@dataclass(frozen=True)
class RateRow:
    event: str
    strategy: str
    patients: str
    events: str
    person_years: str
    rate: str
    interval: str


def rates(found: Safety, names: Names) -> list[RateRow]:
    """First events per 100 person-years; the strategies of an event follow each other, treated first."""
    rows = []
    for event in dict.fromkeys(r.event for r in found.rates):
        mine = [r for r in found.rates if r.event == event]
        order = names.strategy_order([r.strategy for r in mine])
        for i, r in enumerate(sorted(mine, key=lambda r: order.index(r.strategy))):
            rows.append(
                RateRow(
                    event=titled(event) if i == 0 else "",
                    strategy=names.group(r.strategy),
                    patients=count(r.patients_at_risk),
                    events=count(r.events),
                    person_years=f"{r.person_years:.1f}",
                    rate=_rate(r.rate_per_100_years),
                    interval=interval(_rate(r.ci_low), _rate(r.ci_high)),
                )
            )
    return rows


def _rate(value: float | None) -> str:
    """Events per 100 years: a decimal, two where one would hide a rare event."""
    if value is None:
        return NOT_ESTIMABLE
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2f}"


@dataclass(frozen=True)
class ExpansionRow:
    strategy: str
    patients: str
    peak: str
    peak_day: str
    auc: str
    last_detectable: str


def expansion(found: Kinetics, names: Names) -> list[ExpansionRow]:
    """Peak, area and persistence by ever started."""
    order = names.strategy_order([s.strategy for s in found.summaries])
    return [_expansion(s, names) for s in sorted(found.summaries, key=lambda s: order.index(s.strategy))]


def ever(strategy: str, names: Names) -> str:
    """The strategies of the kinetics are by ever started."""
    looks_ahead = Contrast(strategy=names.treated, reference=names.control, groups="ever_started")
    return names.group(strategy, looks_ahead)


def _expansion(s: ExpansionSummary, names: Names) -> ExpansionRow:
    quartiles = (
        "" if s.peak_q1 is None or s.peak_q3 is None else f" [{copies(s.peak_q1)}, {copies(s.peak_q3)}]"
    )
    return ExpansionRow(
        strategy=ever(s.strategy, names),
        patients=count(s.patients),
        peak=copies(s.peak_median) + quartiles,
        peak_day=NOT_ESTIMABLE if s.peak_day_median is None else f"day {whole_days(s.peak_day_median)}",
        auc=copies(s.auc_median),
        last_detectable=NOT_ESTIMABLE
        if s.last_detectable_day_median is None
        else f"day {whole_days(s.last_detectable_day_median)}",
    )


def unit_words(unit: str) -> str:
    """A UCUM unit without the braces of its annotation: {copies}/ug is copies/ug."""
    return unit.replace("{", "").replace("}", "")


def copies(value: float | None) -> str:
    """A number of copies: whole from 100 on, three digits below."""
    if value is None:
        return NOT_ESTIMABLE
    return count(round(value)) if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class CaseRow:
    number: int
    relapse: str
    start: str
    response: str
    before: str
    after: str
    course: str


def case_series(found: Kinetics) -> list[CaseRow]:
    """Relapse, a start after it, a response again: in the order of days, numbered on this page only."""
    return [_case(i, c) for i, c in enumerate(found.case_series, start=1)]


def has_no_case(found: Kinetics) -> bool:
    """Whether it is known that there is none: an empty list may also be one whose cases are kept apart.

    Evidence of an older version does not count what is kept apart; where it has traces, nothing is.
    """
    is_whole = found.cases_apart == 0 or (found.cases_apart is None and bool(found.traces))
    return is_whole and not found.case_series


def kept_apart(found: Kinetics, *, is_written: bool) -> str:
    """How many single traces and cases are not on this page, and where they are; empty without any.

    `is_written`: a page with them is in the folder `reproduce` beside the evidence.
    """
    traces, cases = found.traces_apart or 0, found.cases_apart or 0
    if not traces + cases:
        return ""
    kinds = ((traces, "single trace", "single traces"), (cases, "case", "cases"))
    told = [f"{count(n)} {one if n == 1 else many}" for n, one, many in kinds if n]
    told[-1] += " (relapse, a start of the exposure after it, a response again)" if cases else ""
    where = (
        "reproduce/report.html, in the folder of this page, shows them; it stays at the site, and an erasure "
        "removes it."
        if is_written
        else "Nothing of single patients is kept beside it: an encrypted workspace never writes it, and an "
        "erasure removes it."
    )
    verb = "is" if traces + cases == 1 else "are"
    return f"{listing(told)} {verb} not on this page. {where}"


def _case(number: int, c: CaseReport) -> CaseRow:
    course = {True: "rising", False: "not rising", None: "not measured on both sides"}
    return CaseRow(
        number=number,
        relapse=f"day {c.relapse_day}",
        start=f"day {c.start_day}",
        response=f"day {c.response_day}",
        before="not measured" if c.copies_before is None else copies(c.copies_before),
        after="not measured" if c.copies_after is None else copies(c.copies_after),
        course=course[c.is_rising],
    )
