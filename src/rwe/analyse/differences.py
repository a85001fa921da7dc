"""Two refreshes of one study against each other: `rwe diff`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rwe.analyse.moved import answer_of, change_between
from rwe.config import Workspace
from rwe.errors import UsageError
from rwe.evidence.history import Change, Look
from rwe.history.compare import protocol_differences
from rwe.history.ledger import read_ledger
from rwe.history.manifest import require_unaltered
from rwe.history.past import older_evidence, read_past
from rwe.study import Protocol


@dataclass(frozen=True)
class Difference:
    """What lies between two refreshes. `change` is None where their ledgers are no longer kept: then
    `between` (the looks after the first up to the second) is all that can be told."""

    study: str
    before: Look
    after: Look
    change: Change | None
    between: tuple[Look, ...]


def difference(workspace: Workspace, before: Path, after: Path) -> Difference:
    """Compare two refreshes, the earlier one first, whatever the order they are named in.

    Raises UsageError where they are of two studies or one and the same, EvidenceError where one was altered
    or cannot be read.
    """
    study = before.parent.name
    if after.parent.name != study:
        raise UsageError("the two refreshes are of two studies", advice="name two of one study")
    if before == after:
        raise UsageError("the two refreshes are one and the same", advice="see `rwe history STUDY`")
    before, after = sorted((before, after), key=lambda p: p.name)
    for folder in (before, after):
        require_unaltered(folder)
    looks = {look.refresh: look for look in read_past(workspace, study).looks}
    for folder in (before, after):
        if folder.name not in looks:
            raise UsageError(
                "the refresh was written by another rwe and cannot be told by this one",
                where=str(folder),
                advice="compare refreshes that this one made, see `rwe history STUDY`",
            )
    a, b = looks[before.name], looks[after.name]
    between = tuple(look for name, look in looks.items() if before.name < name <= after.name)
    return Difference(study, a, b, _change(workspace, before, after, a), between)


def _change(workspace: Workspace, before: Path, after: Path, look: Look) -> Change | None:
    study = before.parent.name
    then, now = (read_ledger(workspace, study, f.name) for f in (before, after))
    newer = older_evidence(after)
    if then is None or now is None or then.key_id != now.key_id:
        reported = newer.history.change if newer.history else None
        return reported if reported is not None and reported.since == before.name else None
    older = older_evidence(before)
    manifests = [require_unaltered(f) for f in (before, after)]
    codes = {m.inputs.code_sha256 if m else None for m in manifests}
    return change_between(
        then,
        now,
        answer_of(Protocol.model_validate(newer.protocol), newer.estimates),
        look=look,
        protocol_changed=protocol_differences(
            older.protocol, newer.protocol, has_other_codelists=older.codelists != newer.codelists
        ),
        is_same_code=len(codes) == 1 and None not in codes,
    )
