"""One night at one site: what to ask for in full, what since the last night, and what is gone.

Each type stands for itself: it is asked for from its own watermark, and if it fails its watermark stays where
it was while the other types go on. A patient who is new to the cohort, and a type that is asked for otherwise
than before, are pulled whole. A patient who left the cohort is looked at once more: something changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from rwe.config import Site
from rwe.errors import SiteError
from rwe.fhir.budget import CeilingError, QuietHoursError
from rwe.fhir.client import RefusedError
from rwe.fhir.deletions import Change, changes_since
from rwe.harvest import Harvest, Token
from rwe.id_sets import IdSet, IdShelf
from rwe.known import Known, Lost, Rule
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.landing import Run, TypeScope
from rwe.reconcile import confirm
from rwe.watermarks import Baseline, reconciled_at

_MOST_HISTORY_PAGES = 50  # a history is the whole hospital's; beyond this, listing ids is cheaper
_MOST_MERGES = 5
_ENOUGH_FAILURES = 3  # in a row: then the server is not worth more questions tonight
_BAD_REQUEST = frozenset({400, 403, 422, 501})


@dataclass(frozen=True)
class Memory:
    """What earlier runs of the site left: the runs (oldest first), what to build on by type, known ids.

    `shelf` is where sets of ids are kept while the night compares them.
    """

    runs: Sequence[Run]
    baselines: Mapping[str, Baseline]
    known: Known
    shelf: IdShelf
    pseudonyms: Pseudonymiser

    def is_covered(self, patient: str, baseline: Baseline) -> bool:
        """Whether the patient's history was pulled by the baseline."""
        return self.pseudonyms.of("Patient", patient) in baseline.patients


@dataclass(frozen=True)
class _Question:
    """What is asked of a type: of the patients in `whole` everything, of those in `rest` since an instant."""

    whole: tuple[str, ...] = field(repr=False)
    rest: tuple[str, ...] = field(repr=False)
    codes: tuple[Token, ...]
    plan_sha256: str
    baseline: Baseline | None
    since: datetime | None


def _ours(question: _Question, patients: Collection[str]) -> Rule:
    """Whether a resource answers the question: of one of the patients, with one of its codes."""
    codes = frozenset(question.codes)
    return lambda r: r.patient in patients and (not codes or bool(r.codes & codes))


class Night:
    """The pulls of one run. `scopes` and `errors` are for its manifest; errors name types, no patient."""

    def __init__(self, harvest: Harvest, site: Site, memory: Memory, *, is_full: bool = False) -> None:
        self._harvest, self._site, self._memory = harvest, site, memory
        self._shelf = memory.shelf
        self._baselines = {} if is_full else memory.baselines
        self._failures = 0
        self._is_over = False
        self._unreadable: set[str] = set()
        self.scopes: dict[str, TypeScope] = {}
        self._failed: dict[str, Callable[[], TypeScope | None]] = {}
        self._reasons: dict[str, str] = {}
        self.first_error: SiteError | None = None

    def leavers(self, patients: Collection[str]) -> tuple[str, ...]:
        """Patients whom the last whole pulls were about and who are not among `patients` any more.

        Where everything is pulled anew too: who was deleted in between shows by nothing else.
        """
        covered = frozenset[str]().union(*(b.patients for b in self._memory.baselines.values()))
        gone = covered - {self._memory.pseudonyms.of("Patient", p) for p in patients}
        if not gone:
            return ()
        landed = self._memory.known.of("Patient")
        return tuple(sorted(p for p in landed if self._memory.pseudonyms.of("Patient", p) in gone))

    def attempt(self, resource_type: str, work: Callable[[], TypeScope | None]) -> None:
        """Pull a type. What fails is noted, and the next type has its turn; not after several in a row."""
        if self._is_over:
            self._reasons[resource_type] = "not asked for after the failures before"
            return
        try:
            scope = work()
        except SiteError as e:
            self.first_error = self.first_error or e
            self._reasons[resource_type] = e.what
            self._failed[resource_type] = work
            self.scopes[resource_type] = TypeScope(plan_sha256="", is_complete=False)
            self._failures += 1
            stops = isinstance(e, CeilingError | QuietHoursError)
            self._is_over = stops or self._failures >= _ENOUGH_FAILURES
            return
        self._failures = 0
        self._reasons.pop(resource_type, None)
        if scope is not None:
            self.scopes[resource_type] = scope

    @property
    def errors(self) -> tuple[str, ...]:
        """What failed, and why: one sentence a type."""
        return tuple(f"{name}: {reason}" for name, reason in self._reasons.items())

    def try_again(self) -> None:
        """Give each type that failed a second chance: much of what goes wrong is over minutes later."""
        failed, self._failed = self._failed, {}
        for resource_type, work in failed.items():
            if not self._is_over:
                self.attempt(resource_type, work)

    def pull_patients(self, patients: Iterable[str], refused: Collection[str] = ()) -> frozenset[str]:
        """Land the Patients, and those they were merged with: their records belong together.

        Returns all of them. A merged patient in `refused` is not asked for.
        """
        everyone: set[str] = set()
        waiting = set(patients)

        def work() -> TypeScope:
            nonlocal waiting
            lost: set[str] = set()
            for _ in range(_MOST_MERGES):
                lost |= self._harvest.pull_ids("Patient", sorted(waiting), "_id={patients}")
                everyone.update(waiting)
                waiting = set(self._harvest.merged_patients) - everyone - set(refused)
                if not waiting:
                    break
            known = self._memory.known.of("Patient")
            for one in sorted(lost & known.keys()):
                self._harvest.bury("Patient", one, None, "read")
            if unknown := lost - known.keys():
                self._harvest.warn(f"Patient: index event, but no readable Patient resource: {len(unknown)}")
            return self._scope("Patient", self._plan_sha256("Patient", ()), None, None, is_reconciled=True)

        self.attempt("Patient", work)
        return frozenset(everyone | waiting)

    def pull_medications(self) -> None:
        """Land the Medications that anything landed refers to, as they are now."""

        def work() -> TypeScope | None:
            if not self._harvest.offers("Medication"):
                return None
            known = self._memory.known.of("Medication")
            lost = self._harvest.pull_medications(known)
            for one in sorted(lost & known.keys()):
                self._harvest.bury("Medication", one, None, "read")
            if unknown := lost - known.keys():
                self._harvest.warn(f"Medication: referred to, but not to be read: {len(unknown)}")
            sha256 = self._plan_sha256("Medication", ())
            return self._scope("Medication", sha256, None, None, is_reconciled=True)

        self.attempt("Medication", work)

    def pull(
        self,
        resource_type: str,
        patients: Sequence[str],
        leavers: Sequence[str],
        *,
        codes: Sequence[Sequence[Token]] = ((),),
        always_whole: bool = False,
    ) -> None:
        """Land a type for the cohort. `codes` are the portions of codes to ask for it by."""

        def work() -> TypeScope | None:
            if not self._harvest.offers(resource_type):
                return None
            question = self._question(resource_type, patients, leavers, codes, always_whole)
            question = self._ask(resource_type, question, codes)
            told = self._history(resource_type, question)
            if self._was_disturbed(resource_type, question, told or ()):
                self._harvest.warn(f"{resource_type}: changed while it was read last time; read again")
                earlier = question.baseline.since if question.baseline else None
                self._pull_portions(resource_type, question.rest, codes, earlier)
            return self._scope(
                resource_type,
                question.plan_sha256,
                question.baseline if question.rest else None,
                question.since,
                is_reconciled=self._find_deleted(resource_type, question, codes, leavers, told),
            )

        self.attempt(resource_type, work)

    def _question(
        self,
        resource_type: str,
        patients: Sequence[str],
        leavers: Sequence[str],
        codes: Sequence[Sequence[Token]],
        always_whole: bool,
    ) -> _Question:
        flat = tuple(token for portion in codes for token in portion)
        sha256 = self._plan_sha256(resource_type, flat)
        everyone = (*patients, *leavers)
        baseline = self._baselines.get(resource_type)
        if baseline is None or always_whole or baseline.plan_sha256 != sha256:
            return _Question(everyone, (), flat, sha256, None, None)
        overlap = timedelta(minutes=self._site.overlap_minutes)
        since = baseline.ask_from(overlap, self._harvest.clock_ahead)
        if since is None or not self._harvest.capability.searches(resource_type, "_lastUpdated"):
            return _Question(everyone, (), flat, sha256, None, None)
        covered = [p for p in patients if self._memory.is_covered(p, baseline)]
        new = [p for p in patients if not self._memory.is_covered(p, baseline)]
        return _Question(tuple(new), (*covered, *leavers), flat, sha256, baseline, since)

    def _plan_sha256(self, resource_type: str, codes: Sequence[Token]) -> str:
        asked = [self._harvest.client.base_url, resource_type, sorted(codes)]
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()

    def _ask(self, resource_type: str, question: _Question, codes: Sequence[Sequence[Token]]) -> _Question:
        self._pull_portions(resource_type, question.whole, codes, None)
        try:
            watched = self._watched(question)
            self._pull_portions(resource_type, question.rest, codes, question.since, watched)
        except RefusedError as e:
            if e.status not in _BAD_REQUEST:
                raise
            self._harvest.warn(f"{resource_type}: the server refuses _lastUpdated; all was asked for")
            self._pull_portions(resource_type, question.rest, codes, None)
            everyone = (*question.whole, *question.rest)
            return _Question(everyone, (), question.codes, question.plan_sha256, None, None)
        return question

    def _pull_portions(
        self,
        resource_type: str,
        patients: Sequence[str],
        codes: Sequence[Sequence[Token]],
        since: datetime | None,
        watched: tuple[datetime, datetime] | None = None,
    ) -> None:
        for portion in codes if patients else ():
            self._harvest.pull(resource_type, patients, codes=portion, since=since, watched=watched)

    def _watched(self, question: _Question) -> tuple[datetime, datetime] | None:
        """The time in which the baseline read its pages, where a change may have disturbed it."""
        baseline = question.baseline
        if baseline is None or baseline.watermark is None or not question.rest or not baseline.was_paged:
            return None
        return baseline.watermark, baseline.finished_at

    def _was_disturbed(self, resource_type: str, question: _Question, told: Sequence[Change]) -> bool:
        """Whether something changed while the baseline read its pages: then it may have missed something.

        A page is an offset for some servers: what a deletion moves forward over its edge is never seen.
        """
        watched = self._watched(question)
        if watched is None:
            return False
        return resource_type in self._harvest.disturbed or any(watched[0] <= c.at <= watched[1] for c in told)

    def _history(self, resource_type: str, question: _Question) -> list[Change] | None:
        """What `_history` tells of known resources; None where it does not tell of all."""
        if not question.rest or question.baseline is None:
            return []
        overlap = timedelta(minutes=self._site.overlap_minutes)
        since = question.baseline.history_from(overlap, self._harvest.clock_ahead)
        if since is None or not self._harvest.capability.has_history(resource_type):
            return None
        found = changes_since(
            self._harvest.client,
            resource_type,
            since,
            page_size=self._site.page_size,
            most_pages=_MOST_HISTORY_PAGES,
        )
        if found is None:
            self._harvest.warn(f"{resource_type}: its history cannot be read to the end; ids were compared")
            self._unreadable.add(resource_type)
            return None
        if not found:
            return []
        is_ours = _ours(question, {*question.whole, *question.rest})
        known = self._memory.known.among(resource_type, {c.resource_id for c in found}.__contains__)
        return [c for c in found if c.resource_id in known and is_ours(known[c.resource_id])]

    def _find_deleted(
        self,
        resource_type: str,
        question: _Question,
        codes: Sequence[Sequence[Token]],
        leavers: Collection[str],
        told: Sequence[Change] | None,
    ) -> bool:
        """Bury what the server no longer has. Returns whether it was looked for among all patients.

        What was pulled whole needs no question more: what did not come is gone. The others' ids are listed
        when that is due, and where no history tells.
        """
        if not self._memory.runs:
            return True
        is_due = self._is_reconcile_due(resource_type) or resource_type in self._unreadable
        to_list = [p for p in question.rest if is_due or (told is None and p in leavers)]
        compared = {*question.whole, *to_list}
        buried = self._bury_what_history_tells(resource_type, question, told or ())
        if not compared:
            # The landed lines need not be read.
            return bool(told) and (is_due or not question.rest)
        listed = self._shelf.new()
        for portion in codes if to_list else ():
            self._harvest.list_ids(resource_type, to_list, listed, codes=portion)
        everyone = {*question.whole, *question.rest}
        groups = (compared,) if compared == everyone else (compared, everyone)
        rules = (_ours(question, group) for group in groups)
        expected, *known = self._memory.known.ids(resource_type, self._shelf, *rules)
        if listed.minus(self._landed(resource_type), expected, *known):
            self._harvest.warn(f"{resource_type}: the server lists what is not known; read again")
            self._pull_portions(resource_type, to_list, codes, None)
        missing = expected.minus(self._landed(resource_type), listed, self._shelf.new(buried))
        suspects = self._memory.known.named(resource_type, self._shelf, missing)
        return self._confirm(resource_type, suspects, question) and (is_due or not question.rest)

    def _bury_what_history_tells(
        self, resource_type: str, question: _Question, told: Sequence[Change]
    ) -> set[str]:
        """Bury what was deleted, and what became a stranger's: a search by patient is silent on both."""
        asked = {*question.whole, *question.rest}
        buried: set[str] = set()
        for change in sorted(told, key=lambda c: c.resource_id):
            is_moved = change.patient is not None and change.patient not in asked
            if change.is_deletion or is_moved:
                at = change.at if change.is_deletion else None
                self._harvest.bury(resource_type, change.resource_id, at, "history")
                buried.add(change.resource_id)
        return buried

    def _landed(self, resource_type: str) -> IdSet:
        return self._harvest.landed.get(resource_type) or self._shelf.new()

    def _is_reconcile_due(self, resource_type: str) -> bool:
        last = reconciled_at(self._memory.runs, resource_type)
        return last is None or datetime.now(UTC) - last >= timedelta(days=self._site.reconcile_days)

    def _confirm(self, resource_type: str, suspects: Lost, question: _Question) -> bool:
        """Read each resource that was not listed: gone, no more the cohort's, or missed by the search."""
        everyone = {*question.whole, *question.rest}
        return confirm(self._harvest, resource_type, suspects, _ours(question, everyone))

    def _scope(
        self,
        resource_type: str,
        plan_sha256: str,
        base: Baseline | None,
        since: datetime | None,
        *,
        is_reconciled: bool,
    ) -> TypeScope:
        seen = [self._harvest.newest.get(resource_type), base.newest if base else None]
        newest = max((at for at in seen if at), default=None)
        return TypeScope(
            plan_sha256=plan_sha256,
            is_complete=True,
            since=since.isoformat() if since and base else None,
            base=base.run if base else None,
            newest=newest.isoformat() if newest else None,
            is_reconciled=is_reconciled,
            is_paged=resource_type in self._harvest.paged,
        )
