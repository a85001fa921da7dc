"""The protocol lock in words: what was planned before the outcome was seen, and what was not."""

from __future__ import annotations

from dataclasses import dataclass

from rwe.evidence.contract import Evidence
from rwe.evidence.parts import Amendment, LockSummary
from rwe.report.formats import count, humanise, instant, listing


@dataclass(frozen=True)
class LogRow:
    """`changes`: what an amendment made another, a clause each."""

    when: str
    what: str
    version: str
    registration: str
    refreshes: str
    reason: str
    changes: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class LockShown:
    """`badge` stands at the top of the page. `status` is unlocked, locked, changed, or late: locked as it
    stands, but only after the outcome had been seen. `lists`: what was locked and is no longer asked for,
    and the reverse, each under its heading."""

    status: str
    badge: str
    sentences: tuple[str, ...]
    log: tuple[LogRow, ...]
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()


def lock(evidence: Evidence) -> LockShown | None:
    """Where the protocol stands. None where the evidence does not say."""
    found = evidence.protocol_lock
    if found is None:
        return None
    if found.status == "unlocked" or not found.log:
        said = (
            "The protocol was not locked before this analysis: nothing shows that its choices were made "
            "before the outcome was known.",
        )
        return LockShown("unlocked", "Protocol not locked", said, ())
    is_late = found.status == "locked" and _is_late(_of_the_answer(found))
    return LockShown(
        status="late" if is_late else found.status,
        badge=_badge(found, has_primary=_has_primary(evidence)),
        sentences=(*_sentences(found), *_outside(found, evidence)),
        log=_log(found),
        lists=_lists(found),
    )


def _has_primary(evidence: Evidence) -> bool:
    return any(e.role == "primary" and e.is_the_answer for e in evidence.estimates)


def _of_the_answer(found: LockSummary) -> Amendment:
    """The entry since which the primary analysis is what it was locked as last."""
    return next((a for a in reversed(found.log) if a.has_other_answer), found.log[0])


def _is_late(entry: Amendment) -> bool:
    return bool(entry.refreshes_before)


def _seen(entry: Amendment) -> str:
    many = entry.refreshes_before or 0
    return "1 refresh had" if many == 1 else f"{count(many)} refreshes had"


def _day(entry: Amendment) -> str:
    return entry.locked_at.date().isoformat()


def _badge(found: LockSummary, *, has_primary: bool) -> str:
    answer = _of_the_answer(found)
    late = f" after {_seen(answer)} shown the outcome" if _is_late(answer) else ""
    under = _registered(found)
    if found.status == "changed":
        kept = ", its primary analysis as locked" if has_primary else ""
        when = f" (locked{late})" if late else ""
        return f"Protocol changed after its lock of {_day(found.log[-1])}{when}{kept}{under}"
    if answer is not found.log[0]:
        return f"Primary analysis amended {_day(answer)}{late}{under}"
    amended = f", amended {_day(found.log[-1])}" if len(found.log) > 1 else ""
    return f"Protocol locked {_day(found.log[0])}{late}{amended}{under}"


def _registered(found: LockSummary) -> str:
    """The registration, and of which version it is where that is not the last one."""
    if not found.registration:
        return ""
    entry = _registered_entry(found)
    is_older = entry is not None and entry is not found.log[-1]
    version = f" of version {entry.version}" if entry is not None and is_older else ""
    return f", registration {found.registration}{version}"


def _registered_entry(found: LockSummary) -> Amendment | None:
    """The entry that names the registration; None where older evidence does not say."""
    return next((a for a in reversed(found.log) if a.registration), None)


def _sentences(found: LockSummary) -> list[str]:
    first, amendments = found.log[0], len(found.log) - 1
    entry = _registered_entry(found)
    number = first.registration if entry is not None else found.registration
    under = f" under the registration {number}" if number else ", without a registration"
    said = [f"The protocol was locked on {_day(first)}{under}."]
    if first.refreshes_before == 0:
        said.append("No refresh of this study had been made before.")
    elif _is_late(first):
        said.append(f"{_seen(first)} shown the outcome by then: the lock does not show what was planned.")
    if amendments:
        many = "once" if amendments == 1 else f"{count(amendments)} times"
        said.append(f"It was amended {many} since, with the reasons below.")
    for number_of, a in enumerate(found.log[1:], start=1):
        if a.has_other_answer:
            seen = f", after {_seen(a)} shown the outcome" if _is_late(a) else ""
            said.append(
                f"Amendment {number_of} ({_day(a)}{seen}) made the primary analysis, or what it rests on, "
                f"another; changed: {_fields(a.changed)}."
            )
    if entry is not None and entry is not found.log[-1]:
        said.append(
            f"The registration {entry.registration} is of version {entry.version}; no later one is named."
        )
    return said


def _fields(names: list[str]) -> str:
    return listing([humanise(name) for name in names])


def _outside(found: LockSummary, evidence: Evidence) -> list[str]:
    """How the protocol of this analysis differs from the one locked last."""
    if found.status != "changed":
        return ["This analysis was run with the protocol as locked last."]
    many = sum(e.is_posthoc for e in evidence.estimates)
    outside = "1 estimate is" if many == 1 else f"{count(many)} estimates are"
    fields = _fields(found.changed)
    return [
        f"This analysis was run with a protocol that differs from the locked one in: {fields}.",
        f"{outside} outside the lock and marked post hoc." if many else "No estimate is outside the lock.",
    ]


def _lists(found: LockSummary) -> tuple[tuple[str, tuple[str, ...]], ...]:
    named = (("Locked, and no longer asked for", found.dropped), ("Asked for, and not locked", found.added))
    return tuple((heading, tuple(what)) for heading, what in named if what)


def _log(found: LockSummary) -> tuple[LogRow, ...]:
    return tuple(
        LogRow(
            when=instant(a.locked_at),
            what="Lock" if i == 0 else f"Amendment {i}",
            version=a.version,
            registration=a.registration or "",
            refreshes="" if a.refreshes_before is None else count(a.refreshes_before),
            reason=a.reason or "",
            changes=_changes(a),
            sha256=a.protocol_sha256,
        )
        for i, a in enumerate(found.log)
    )


def _changes(a: Amendment) -> tuple[str, ...]:
    said = [f"changed: {_fields(a.changed)}"] if a.changed else []
    said += [f"no longer asked for: {what}" for what in a.dropped]
    return (*said, *(f"new: {what}" for what in a.added))
