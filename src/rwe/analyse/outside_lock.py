"""The protocol's lock in the evidence: what its entries changed and when, and what is outside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from rwe.analyse.planned import adjusted_cox
from rwe.evidence.contract import Evidence
from rwe.evidence.history import Look
from rwe.evidence.parts import Amendment, Diagnostics, LockSummary, NegativeControls
from rwe.study import Protocol
from rwe.study.deviations import changed_fields, is_same_answer
from rwe.study.lock import LockEntry, ProtocolLock
from rwe.study_words import analysis_words


def describe_lock(lock: ProtocolLock) -> LockSummary:
    """The lock of the protocol, what each entry of its log changed, and what changed since."""
    before = (None, *lock.entries)
    dropped, added = _asked_otherwise(lock.planned, lock.content) if lock.status == "changed" else ([], [])
    return LockSummary(
        status=lock.status,
        registration=lock.registration,
        log=[_amendment(a, b) for a, b in zip(before, lock.entries, strict=False)],
        changed=list(lock.changed),
        dropped=dropped,
        added=added,
    )


def with_refreshes_before(found: LockSummary | None, looks: Sequence[Look]) -> LockSummary | None:
    """The lock, each entry with how many refreshes had been made by then: they had shown the outcome."""
    if found is None:
        return None
    log = [
        a.model_copy(update={"refreshes_before": sum(k.created_at < a.locked_at for k in looks)})
        for a in found.log
    ]
    return found.model_copy(update={"log": log})


def mark_outside_lock(evidence: Evidence, lock: ProtocolLock, protocol: Protocol) -> Evidence:
    """The evidence with everything marked that stands beside the estimates and was not locked as it is."""
    if lock.status != "changed":
        return evidence
    update: dict[str, object] = {}
    if evidence.diagnostics is not None:
        is_posthoc = any(e.is_posthoc for e in evidence.estimates if e.is_the_answer)
        update["diagnostics"] = _diagnostics(evidence.diagnostics, lock, protocol, is_posthoc=is_posthoc)
    if evidence.safety is not None:
        names = [t.name for t in protocol.toxicities if lock.is_posthoc_part("toxicities", t.name)]
        events = [e.name for e in protocol.intercurrent_events]
        names += [e for e in events if lock.is_posthoc_part("intercurrent_events", e)]
        notes = [*evidence.safety.notes, *_note(names)]
        update["safety"] = evidence.safety.model_copy(update={"notes": notes})
    if evidence.kinetics is not None and lock.is_posthoc_part("cart_copies"):
        notes = [*evidence.kinetics.notes, *_note(["copies of the transgene"])]
        update["kinetics"] = evidence.kinetics.model_copy(update={"notes": notes})
    return evidence.model_copy(update=update)


def _note(names: Sequence[str]) -> list[str]:
    return [f"Post hoc, for it was locked otherwise or not at all: {', '.join(names)}."] if names else []


def _amendment(before: LockEntry | None, entry: LockEntry) -> Amendment:
    found = Amendment(
        locked_at=entry.locked_at,
        version=entry.version,
        protocol_sha256=entry.protocol_sha256,
        reason=entry.reason,
        registration=entry.registration,
    )
    if before is None:
        return found
    dropped, added = _asked_otherwise(before.content, entry.content)
    return found.model_copy(
        update={
            "changed": changed_fields(before.content, entry.content),
            "has_other_answer": not is_same_answer(before.content, entry.content),
            "dropped": dropped,
            "added": added,
        }
    )


def _asked_otherwise(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What one version of a protocol asks for and the next does not any more, and the reverse, in words.
    Nothing where a version is of a format that cannot be read any more."""
    try:
        old, new = (list(_asked(Protocol.model_validate(c["protocol"]))) for c in (before, now))
    except (KeyError, ValidationError):
        return [], []
    return [w for w in old if w not in new], [w for w in new if w not in old]


def _asked(protocol: Protocol) -> Iterator[str]:
    p = protocol
    for a in p.analyses:
        alone = "; and for each site alone" if a.by_site else ""
        yield f"{analysis_words(a, p).removesuffix('.')}{alone}"
    yield from (f"sensitivity grid: {c.label}" for c in p.sensitivity_grid)
    yield from (f"subgroup {g.name}: {g.covariate} cut at {g.cut:g}" for g in p.subgroups)
    yield from (f"negative control {name}" for name in p.negative_controls)
    yield from (f"toxicity {t.name}" for t in p.toxicities)
    yield from (f"intercurrent event {e.name}: {e.handling}" for e in p.intercurrent_events)
    if p.chart_review is not None:
        yield "chart review"
    if p.cart_copies is not None:
        yield "copies of the transgene"


def _diagnostics(
    found: Diagnostics, lock: ProtocolLock, protocol: Protocol, *, is_posthoc: bool
) -> Diagnostics:
    """`is_posthoc`: whether the estimate that the diagnostics are of is outside the lock."""
    model = adjusted_cox(protocol)
    is_other_model = model is not None and lock.is_posthoc(model)
    subgroups = [
        g.model_copy(update={"is_posthoc": is_other_model or lock.is_posthoc_part("subgroups", g.name)})
        for g in found.subgroups
    ]
    is_reviewed_since = is_posthoc or lock.is_posthoc_part("chart_review")
    controls = found.negative_controls
    return found.model_copy(
        update={
            "subgroups": subgroups,
            "misclassification": [
                m.model_copy(update={"is_posthoc": is_reviewed_since}) for m in found.misclassification
            ],
            "negative_controls": _controls(controls, lock, is_posthoc=is_posthoc) if controls else None,
        }
    )


def _controls(found: NegativeControls, lock: ProtocolLock, *, is_posthoc: bool) -> NegativeControls:
    """A calibration is as planned where all controls are, and no other was."""
    controls = [
        c.model_copy(
            update={"is_posthoc": is_posthoc or lock.is_posthoc_part("negative_controls", c.outcome)}
        )
        for c in found.controls
    ]
    calibrated, is_other = found.calibrated, is_posthoc or lock.is_posthoc_part("negative_controls")
    if calibrated is not None:
        calibrated = calibrated.model_copy(update={"is_posthoc": is_other})
    return found.model_copy(update={"controls": controls, "calibrated": calibrated})
