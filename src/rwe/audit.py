"""The audit log of a workspace: who did what, when, for which approval. Only ever appended to.

    WORKSPACE/audit.ndjson      mode 0600, one JSON object a line

It names users of this machine, commands, sites, studies, runs and counts; no id of a patient or of a record,
and no content. Whoever may read it learns what was done, not to whom.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.durable import append
from rwe.errors import PartialError, RweError
from rwe.flow_run import current_flow_run
from rwe.landing import Run

FILE = "audit.ndjson"


@dataclass(frozen=True)
class AuditEntry:
    """One deed. `command` is the verb (`extract`, `build`, `erase`); `counts` are by type or table.

    `outcome` is done, partly or failed; `reason` says why, where the command gives it. `flow_run` is the
    scheduled run it was part of, if it was.
    """

    at: datetime
    user: str
    command: str
    site: str | None = None
    study: str | None = None
    run: str | None = None
    approval: str | None = None
    outcome: str = "done"
    counts: dict[str, int] = field(default_factory=dict)
    flow_run: str | None = None
    reason: str | None = None


def record(
    root: Path,
    command: str,
    *,
    site: str | None = None,
    study: str | None = None,
    run: str | None = None,
    approval: str | None = None,
    outcome: str = "done",
    counts: Mapping[str, int] | None = None,
    reason: str | None = None,
) -> AuditEntry:
    """Append an entry to the log of the workspace at `root`, synced to disk before this returns.

    Raises RweError where the log cannot be written: what cannot be recorded is not to be done.
    """
    entry = AuditEntry(
        at=datetime.now(UTC),
        user=_user(),
        command=command,
        site=site,
        study=study,
        run=run,
        approval=approval,
        outcome=outcome,
        counts=dict(counts or {}),
        flow_run=current_flow_run(),
        reason=reason,
    )
    line = msgspec.json.encode(entry) + b"\n"
    _append(root, line)
    return entry


def _append(root: Path, line: bytes) -> None:
    try:
        append(root / FILE, line)
    except OSError as e:
        raise RweError(
            "the audit log cannot be written", where=str(root / FILE), advice="check its owner and the disk"
        ) from e


@dataclass
class Deed:
    """What a command under way will have done: filled in as it becomes known, then recorded."""

    run: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    reason: str | None = None

    def landed(self, run: Run) -> None:
        """This run, with its lines by type."""
        self.run, self.counts = run.run, run.resources


@contextmanager
def audited(
    workspace: Workspace, command: str, *, site: str | None = None, study: str | None = None
) -> Iterator[Deed]:
    """Record what is done inside, however it ends: done, partly (PartialError) or failed (anything else).

        with audited(workspace, "build") as deed:
            deed.counts = build(workspace, studies).tables

    The approval is the workspace's. Raises RweError where the log cannot be written: before the work where
    that shows then, so that nothing is done unrecorded.
    """
    _append(workspace.root, b"")
    deed, outcome = Deed(), "failed"
    try:
        yield deed
        outcome = "done"
    except PartialError:
        outcome = "partly"
        raise
    finally:
        record(
            workspace.root,
            command,
            site=site,
            study=study,
            run=deed.run,
            approval=workspace.settings.approval,
            outcome=outcome,
            counts=deed.counts,
            reason=deed.reason,
        )


def entries(root: Path) -> Iterator[AuditEntry]:
    """The log from the oldest entry on; a line cut off by a crash is passed over."""
    try:
        lines = (root / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=AuditEntry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"
