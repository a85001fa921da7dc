"""The protocol lock in words: what was planned before the outcome was seen, and what was not."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.contract import Evidence
from rwe.evidence.parts import LockSummary
from rwe.report.formats import count, humanise, instant, listing


@dataclass(frozen=True)
class LogRow:
    when: str
    what: str
    version: str
    reason: str
    sha256: str


@dataclass(frozen=True)
class LockShown:
    """`badge` stands at the top of the page; `status` is unlocked, locked or changed."""

    status: str
    badge: str
    sentences: tuple[str, ...]
    log: tuple[LogRow, ...]


def lock(evidence: Evidence) -> LockShown | None:
    """Where the protocol stands. None where the evidence does not say."""
    found = evidence.protocol_lock
    if found is None:
        return None
    return LockShown(found.status, _badge(found), _sentences(found, _posthoc(evidence)), _log(found))


def _posthoc(evidence: Evidence) -> int:
    return sum(e.role == "posthoc" for e in evidence.estimates)


def _badge(found: LockSummary) -> str:
    if found.status == "unlocked" or not found.log:
        return "Protocol not locked"
    day = found.log[-1].locked_at.date().isoformat()
    under = f", registration {found.registration}" if found.registration else ""
    if found.status == "changed":
        return f"Protocol changed after its lock of {day}{under}"
    return f"Protocol locked {day}{under}"


def _sentences(found: LockSummary, posthoc: int) -> tuple[str, ...]:
    if found.status == "unlocked" or not found.log:
        return (
            "The protocol was not locked before this analysis: nothing shows that its choices were made "
            "before the outcome was known.",
        )
    first, amendments = found.log[0], len(found.log) - 1
    under = (
        f" under the registration {found.registration}" if found.registration else ", without a registration"
    )
    said = [f"The protocol was locked on {first.locked_at.date().isoformat()}{under}."]
    if amendments:
        many = "once" if amendments == 1 else f"{count(amendments)} times"
        said.append(f"It was amended {many} since, with the reasons below.")
    if found.status == "changed":
        fields = listing([humanise(f) for f in found.changed])
        said.append(f"This analysis was run with a protocol that differs from the locked one in: {fields}.")
        outside = "1 estimate is" if posthoc == 1 else f"{count(posthoc)} estimates are"
        said.append(f"{outside} outside the lock and marked post hoc.")
    else:
        said.append("This analysis was run with the protocol as locked last.")
    return tuple(said)


def _log(found: LockSummary) -> tuple[LogRow, ...]:
    return tuple(
        LogRow(
            when=instant(a.locked_at),
            what="Lock" if i == 0 else f"Amendment {i}",
            version=a.version,
            reason=a.reason or "",
            sha256=a.protocol_sha256,
        )
        for i, a in enumerate(found.log)
    )
