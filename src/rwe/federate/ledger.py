"""What a site approved and answered: appended to, synced before an answer leaves, never rewritten.

    WORKSPACE/federate/site/ledger.ndjson      0600, one JSON object a line
    WORKSPACE/federate/site/answers/           0700, the answers as they left, to be given again

It holds the site's own counts of patients and events at each refresh, hashes, betas and totals; no patient
and no id of one. A refresh that was answered once counts for ever, whatever became of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.durable import append
from rwe.errors import EvidenceError
from rwe.federate.documents import private_folder
from rwe.scratch import locked


@dataclass(frozen=True)
class Headcount:
    """How many patients, and how many of them with an event."""

    patients: int
    events: int

    def is_beyond(self, earlier: Headcount, wanted: Headcount) -> bool:
        """Whether both grew by what is wanted."""
        return (
            self.patients - earlier.patients >= wanted.patients
            and self.events - earlier.events >= wanted.events
        )


class Approved(msgspec.Struct, tag="approved", frozen=True, forbid_unknown_fields=True):
    """A person at this site approved a protocol. `apart`: refreshes of other studies do not count."""

    at: str
    user: str
    study: str
    protocol_sha256: str
    apart: bool = False


class Answered(msgspec.Struct, tag="answered", frozen=True, forbid_unknown_fields=True):
    """A step that was answered. `sites` is `name key` of each, sorted; `rows` tells whether the rows changed.

    `patients` and `events` are of the cohort, `model_patients` and `model_events` of who was in a risk set of
    the model, and `model` is its kind of rows; an older entry lacks these. `before` are the totals of the
    step before, which this site formed itself: hex digits by name.
    """

    at: str
    study: str
    protocol_sha256: str
    refresh: str
    step: int
    request_sha256: str
    plan_sha256: str
    sites: tuple[str, ...]
    mode: str
    beta: tuple[float, ...]
    patients: int
    events: int
    rows: str
    answer_sha256: str
    before: dict[str, str]
    model: str | None = None
    model_patients: int | None = None
    model_events: int | None = None

    @property
    def cohort(self) -> Headcount:
        """Who was in the cohort."""
        return Headcount(self.patients, self.events)

    @property
    def in_model(self) -> Headcount:
        """Who was in the model; of an older entry that does not say, at most the cohort was."""
        if self.model_patients is None or self.model_events is None:
            return self.cohort
        return Headcount(self.model_patients, self.model_events)


Entry = Approved | Answered


class Ledger:
    """The ledger of one workspace. Use it inside `held`."""

    def __init__(self, folder: Path, entries: tuple[Entry, ...]) -> None:
        self.folder, self.entries = folder, entries

    @property
    def answers(self) -> Path:
        """Where answers are kept as they left."""
        return self.folder / "answers"

    def approval(self, study: str, protocol_sha256: str) -> Approved | None:
        """The newest approval of exactly this protocol."""
        found = [
            e
            for e in self.entries
            if isinstance(e, Approved) and (e.study, e.protocol_sha256) == (study, protocol_sha256)
        ]
        return found[-1] if found else None

    def steps(self, refresh: str) -> tuple[Answered, ...]:
        """The steps of one refresh that were answered, in their order."""
        found = [e for e in self.entries if isinstance(e, Answered) and e.refresh == refresh]
        return tuple(sorted(found, key=lambda e: e.step))

    def refreshes(self) -> tuple[Answered, ...]:
        """The first answered step of each refresh, oldest first."""
        found: dict[str, Answered] = {}
        for e in self.entries:
            if isinstance(e, Answered):
                found.setdefault(e.refresh, e)
        return tuple(found.values())

    def append(self, entry: Entry) -> None:
        """Write an entry, synced to the disk before this returns. Raises EvidenceError where it cannot."""
        try:
            append(_file(self.folder), msgspec.json.encode(entry) + b"\n")
        except OSError:
            raise _unusable("written", self.folder) from None
        self.entries = (*self.entries, entry)


@contextmanager
def held(workspace: Workspace) -> Iterator[Ledger]:
    """The ledger, while no other process of this workspace answers.

    Raises EvidenceError where it cannot be read: a damaged ledger forgets nothing, it stops.
    """
    folder = private_folder(workspace.root, "federate", "site", "answers").parent
    with locked(folder / ".lock"):
        yield Ledger(folder, _read(folder))


def read_ledger(workspace: Workspace) -> Ledger:
    """The ledger as it stands, to be looked at. Raises EvidenceError as `held`."""
    folder = workspace.root / "federate" / "site"
    return Ledger(folder, _read(folder))


def _read(folder: Path) -> tuple[Entry, ...]:
    try:
        lines = _file(folder).read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError:
        raise _unusable("read", folder) from None
    try:
        return tuple(msgspec.json.decode(line, type=Entry) for line in lines if line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unusable("read", folder) from None


def _file(folder: Path) -> Path:
    return folder / "ledger.ndjson"


def _unusable(verb: str, folder: Path) -> EvidenceError:
    return EvidenceError(
        f"the ledger of federated answers cannot be {verb}",
        where=str(_file(folder)),
        advice="restore it from a backup: without it nobody knows what was answered, so nothing is",
    )
