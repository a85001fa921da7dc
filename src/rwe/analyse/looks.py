"""This look at a study among the looks before it: what is new, what moved, what looking often does."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.analyse.moved import Answer, answer_of, change_between
from rwe.analyse.read import StudyTables
from rwe.errors import RweError
from rwe.evidence.contract import Estimate, Evidence
from rwe.evidence.history import Change, History, Look, Repeated
from rwe.history.compare import news_by_site, protocol_differences
from rwe.history.inputs import ledger_of
from rwe.history.ledger import Ledger
from rwe.history.manifest import Inputs
from rwe.history.past import Past
from rwe.study import Study
from rwe.survival.confidence_sequence import confidence_sequence, score_process
from rwe.survival.data import exposure_split

NO_LEDGER = "The refresh before kept no ledger that can be read here: who moved since cannot be told."
OTHER_KEY = "The pseudonyms' key is another one than at the refresh before: nobody can be found again."


@dataclass(frozen=True)
class Before:
    """The refresh before, as far as it is kept: its look, inputs, ledger, and the protocol and code lists of
    its evidence, as JSON."""

    look: Look | None = None
    inputs: Inputs | None = None
    ledger: Ledger | None = None
    protocol: dict[str, object] | None = None
    codelists: list[object] | None = None


@dataclass(frozen=True)
class _Now:
    """The refresh under way: its evidence, its answer with what gave it, and what it is made of."""

    study: Study
    evidence: Evidence
    inputs: Inputs
    ledger: Ledger
    answer: tuple[Answer, Estimate] | None


def describe_history(
    study: Study,
    tables: StudyTables,
    evidence: Evidence,
    inputs: Inputs,
    *,
    past: Past,
    before: Before,
    key_id: str,
) -> tuple[History, Ledger]:
    """The history up to this refresh, and the ledger that the next one will be compared with."""
    ledger = ledger_of(tables, evidence.refresh.id, key_id)
    now = _Now(study, evidence, inputs, ledger, answer_of(study.protocol, evidence.estimates))
    notes = list(past.notes)
    change: Change | None = None
    if before.ledger is not None and before.ledger.key_id == key_id:
        change = _change(before, before.ledger, now)
    elif before.look is not None:
        notes.append(OTHER_KEY if before.ledger is not None else NO_LEDGER)
    repeated = _repeated(study, tables, notes)
    look = _look(before, now, change, repeated)
    looks = [*past.looks, look]
    return History(look=look.number, looks=looks, change=change, repeated=repeated, notes=notes), ledger


def _change(before: Before, known: Ledger, now: _Now) -> Change:
    is_same_code = before.inputs is not None and before.inputs.code_sha256 == now.inputs.code_sha256
    return change_between(
        known,
        now.ledger,
        now.answer,
        look=before.look,
        protocol_changed=_protocol_changed(now, before),
        is_same_code=is_same_code,
    )


def _protocol_changed(now: _Now, before: Before) -> list[str]:
    if before.look is None or before.look.protocol_sha256 == now.study.protocol_sha256:
        return []
    if before.protocol is None:
        return ["not known which"]
    codelists = [c.model_dump(mode="json") for c in now.evidence.codelists]
    return protocol_differences(
        before.protocol,
        now.study.protocol.model_dump(mode="json"),
        has_other_codelists=before.codelists != codelists,
    )


def _look(before: Before, now: _Now, change: Change | None, repeated: Repeated | None) -> Look:
    last, evidence = before.look, now.evidence
    primary = now.answer[1] if now.answer else None
    ratios = [e for e in evidence.estimates if e.estimand == "hazard_ratio" and e.site is None]
    naive = [e.estimate for e in ratios if e.is_biased and e.estimate is not None]
    is_same_data = before.inputs is not None and before.inputs.tables_sha256 == now.inputs.tables_sha256
    sites = change.sites if change else news_by_site(None, now.ledger)
    if change is None and last is not None:
        sites = [s.model_copy(update={"new_patients": None, "new_events": None}) for s in sites]
    return Look(
        number=1 if last is None else last.number + (0 if is_same_data else 1),
        refresh=evidence.refresh.id,
        created_at=evidence.refresh.created_at,
        data_cutoff=evidence.refresh.data_cutoff,
        code_version=evidence.refresh.code_version,
        protocol_version=evidence.study.version,
        protocol_sha256=evidence.study.protocol_sha256,
        n=evidence.cohort.n,
        events=sum(evidence.cohort.events_by_strategy.values()),
        analysis=primary.analysis if primary else None,
        adjusted_for=primary.parameters.adjusted_for if primary else None,
        estimate=primary.estimate if primary else None,
        ci_low=primary.ci_low if primary else None,
        ci_high=primary.ci_high if primary else None,
        naive=naive[0] if naive else None,
        always_low=repeated.ci_low if repeated else None,
        always_high=repeated.ci_high if repeated else None,
        has_sequence=repeated is not None,
        sites=sites,
        left=sum(change.left.values()) + change.erased if change else None,
        corrections=change.corrections if change else None,
        protocol_changed=change.protocol_changed if change else [],
        code_changed=change.code_changed if change else False,
    )


def _repeated(study: Study, tables: StudyTables, notes: list[str]) -> Repeated | None:
    """None where the rows are not there to be tested, with a note."""
    try:
        rows = exposure_split(tables.cohort())
        rows.require_both_groups()
    except RweError as e:
        notes.append(f"No confidence sequence: {str(e).rstrip('.')}.")
        return None
    found = confidence_sequence(score_process(rows), level=study.protocol.confidence_level)
    return Repeated(
        estimate=found.estimate,
        ci_low=found.low,
        ci_high=found.high,
        one_look_low=found.pointwise[0],
        one_look_high=found.pointwise[1],
        level=found.level,
        score=found.score,
        information=found.information,
        planned_information=found.planned_information,
        is_stratified=len(set(rows.site.tolist())) > 1,
    )
