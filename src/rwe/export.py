"""Bulk Data export as a way in: ask, wait, download, and land what belongs to the cohort.

What a night leaves behind when it is killed (the job at the server, files already here) the next one goes on
with: see `rwe.export_job`. The caller opens the run (and holds the site's lock), commits it, and then calls
`finish_export`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec

from rwe.config import Site, Workspace
from rwe.errors import PartialError, RweError
from rwe.export_job import DoneFile, ExportJob, JobStore
from rwe.export_landing import ExportReader, Lander, Tally, Wanted, find_cohort, index_medications
from rwe.extraction_plan import ExtractionPlan
from rwe.fhir.budget import Ceiling
from rwe.fhir.bulk import (
    DeadlineError,
    ExportLevel,
    ExportRequest,
    ExportTooEarlyError,
    FileGoneError,
    JobFailedError,
    JobGoneError,
    delete_job,
    download,
    kick_off,
    read_manifest,
    wait_for_manifest,
)
from rwe.fhir.bulk_files import IncompleteFileError
from rwe.fhir.bulk_manifest import (
    ExportFile,
    ExportManifest,
    describe_severities,
    is_harmless,
    issue_severities,
)
from rwe.fhir.bundle import Resource, reference_id
from rwe.fhir.client import FhirClient
from rwe.landing import RunWriter
from rwe.progress import SILENT, Progress

_MOST_EXPORTS = 3  # one that fails or expires is begun again, within one night
_MOST_MANIFESTS = 3
#: A nightly job starts a little earlier or later each night: an interval is kept but for this share of it.
_INTERVAL_SLACK = 0.05
_OLDEST_JOB = timedelta(days=7)
_CLOCKS_APART = timedelta(minutes=1)
_LABEL = "$export"


@dataclass(frozen=True)
class Scope:
    """What of an export may land. Without one: whoever has an index event in it, and nobody known before.

    `patients` is the cohort where the site names it (a file of ids). `is_known` says whether a patient's
    history is landed already, `knows_medication` whether a Medication is. `admits` refuses resources that may
    not enter (labels, test data). Ids go in and nothing of them comes out.
    """

    patients: frozenset[str] | None = field(default=None, repr=False)
    is_known: Callable[[str], bool] = lambda _: False
    knows_medication: Callable[[str], bool] = lambda _: False
    admits: Callable[[Resource], bool] = lambda _: True


@dataclass(frozen=True)
class ExportOutcome:
    """What an export brought into the run.

    `patients` are those it holds something of or found an index event of. `newcomers` are those among the
    cohort of whom `_since` can have kept the history back: pull them whole, or export again without `since`.
    `watermarks` are transactionTime for each type that came whole; `errors` say what did not.
    """

    transaction_time: datetime
    patients: frozenset[str] = field(repr=False)
    newcomers: frozenset[str] = field(repr=False)
    resources: Mapping[str, int]
    tombstones: int
    watermarks: Mapping[str, datetime]
    queries: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]

    def raise_if_partial(self, site: str) -> None:
        """Raise PartialError if something is missing. Call it after the run is committed."""
        if self.errors:
            raise PartialError(
                "the export is not complete: " + "; ".join(self.errors),
                where=f"site {site}",
                advice="what came is landed and kept; ask the hospital, and run it again",
            )


def export_site(  # noqa: PLR0917
    workspace: Workspace,
    site_name: str,
    site: Site,
    client: FhirClient,
    plan: ExtractionPlan,
    writer: RunWriter,
    *,
    types: Sequence[str],
    level: ExportLevel,
    since: datetime | None = None,
    use_type_filter: bool = False,
    scope: Scope = Scope(),
    progress: Progress = SILENT,
) -> ExportOutcome:
    """Export `types` at `level` and write what belongs to the cohort into the run, byte by byte as served.

    The cohort: the members of the site's Group (all of them), else `scope.patients`, else the patients with
    an index event of `plan` in the export, with those whom `scope` knows. Observations land if they bear one
    of `plan.observation_codes`. Deletions land as type `_deleted`. `since` is by the server's clock.

    Commit the run, call `finish_export`, then `raise_if_partial`. Killed or failed in between, the next call
    goes on with the same job. Raises ExportTooEarlyError within min_export_interval_hours or where the server
    says so, SiteError (server, deadline, ceiling), LandingError (disk).
    """
    group = site.cohort.id if site.cohort.source == "group" else None
    request = ExportRequest(
        level=level,
        types=tuple(types),
        since=since,
        group=group if level == "group" else None,
        observation_codes=tuple(plan.observation_codes) if use_type_filter else (),
    )
    store = JobStore(workspace.landing, site_name, workspace.cipher())
    job = _Export(store, site, client, request, progress).run()
    job = replace(job, run=writer.run)
    store.save(job)
    reader = ExportReader(site_name, store.spill, job.files, store.cipher)
    tally = Tally()
    members = _members(reader, plan, client, group, scope, is_whole=job.since is None, tally=tally)
    lander = Lander(
        reader,
        writer,
        Wanted(
            types=frozenset(types),
            observation_codes=frozenset(plan.observation_codes),
            is_member=_is_member(members, scope),
            knows_medication=scope.knows_medication,
            admits=scope.admits,
        ),
        Ceiling(site_name, site),
    )
    with progress.step(f"{site_name}: landing", len(reader.of("output")), "files") as step:
        lander.land(client, _transaction_time(job), step)
    found = members or frozenset[str]()
    return _outcome(job, request, reader, lander, tally=tally, members=found, scope=scope)


def finish_export(workspace: Workspace, site_name: str) -> None:
    """The export's run is committed: clear its files away and remember when it was.

    Forgetting this call costs disk space until the next export, nothing else.
    """
    JobStore(workspace.landing, site_name, workspace.cipher()).load()


def _members(
    reader: ExportReader,
    plan: ExtractionPlan,
    client: FhirClient,
    group: str | None,
    scope: Scope,
    *,
    is_whole: bool,
    tally: Tally,
) -> frozenset[str] | None:
    """The cohort's patients; None is everyone in the export (of a Group that cannot be read itself)."""
    if scope.patients is not None:
        return scope.patients
    if group is not None:
        return _group_members(client, group, tally)
    codes = plan.index_codes.get("MedicationAdministration", ())
    medications = index_medications(reader, client, codes, is_whole=is_whole, tally=tally)
    found = find_cohort(reader, plan, medications, tally)
    if not found and is_whole:
        tally.warnings.append("no patient has an index event of any study")
    return frozenset(found)


class _Member(msgspec.Struct):
    entity: _Reference | None = None
    inactive: bool = False


class _Reference(msgspec.Struct):
    reference: str | None = None


class _Group(msgspec.Struct):
    member: list[_Member] | None = None


def _group_members(client: FhirClient, group: str, tally: Tally) -> frozenset[str] | None:
    answer = client.request("Group", f"{client.base_url}/Group/{group}", accept={403, 404, 405, 410, 501})
    try:
        read = msgspec.json.decode(answer.body, type=_Group) if answer.status < 400 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        read = None
    if read is None or read.member is None:
        tally.warnings.append("Group: its members cannot be read, so all patients of its export belong to it")
        return None
    references = [m.entity.reference for m in read.member if m.entity and not m.inactive]
    return frozenset(i for r in references if r and (i := reference_id(r, "Patient")))


def _is_member(members: frozenset[str] | None, scope: Scope) -> Callable[[str], bool]:
    if members is None:
        return lambda _: True
    if scope.patients is not None:
        return members.__contains__
    return lambda patient: patient in members or scope.is_known(patient)


def _transaction_time(job: ExportJob) -> datetime:
    if job.transaction_time is None:
        raise RweError("an export was landed before its manifest was read")
    return job.transaction_time


def _outcome(
    job: ExportJob,
    request: ExportRequest,
    reader: ExportReader,
    lander: Lander,
    *,
    tally: Tally,
    members: frozenset[str],
    scope: Scope,
) -> ExportOutcome:
    severities: Counter[str] = Counter()
    for file in reader.of("error"):
        for line in reader.lines(file):
            severities += issue_severities(line)
    errors = [f"{t}: a file never came whole" for t in job.failed]
    errors += [f"{t}: a file holds no FHIR resource" for t in sorted(lander.tally.alien)]
    is_partial = bool(severities) and not is_harmless(severities)
    if is_partial:
        errors.append(f"the server reports {describe_severities(severities)}")
    warnings = [*job.warnings, *tally.all_warnings(), *lander.tally.all_warnings()]
    if severities and not is_partial:
        warnings.append(f"$export: the server reports {describe_severities(severities)}")
    patients = members | lander.patients
    if job.since is None and lander.patients and not reader.of("output", {"Patient"}):
        warnings.append("Patient: not in the export")
    newcomers = frozenset(p for p in patients if not scope.is_known(p)) if job.since else frozenset[str]()
    at = _transaction_time(job)
    # An error file does not say of which types something is missing, nor does a lost file of errors or
    # deletions: then no type is known to be whole.
    is_unsure = is_partial or bool(set(job.failed) - set(job.types))
    whole = [] if is_unsure else [t for t in job.types if t not in job.failed and t not in lander.tally.alien]
    return ExportOutcome(
        transaction_time=at,
        patients=patients,
        newcomers=newcomers,
        resources=dict(sorted(lander.tally.landed.items())),
        tombstones=lander.tally.tombstones,
        watermarks=dict.fromkeys(whole, at),
        queries=(replace(request, types=job.types).template,),
        warnings=tuple(dict.fromkeys(warnings)),
        errors=tuple(errors),
    )


class _Export:
    """One export of one site, from the kick-off (or what an earlier night left) to verified files on disk."""

    def __init__(
        self, store: JobStore, site: Site, client: FhirClient, request: ExportRequest, progress: Progress
    ) -> None:
        self._store, self._site, self._client = store, site, client
        self._request, self._progress = request, progress
        self._fingerprint = request.fingerprint(client.base_url)
        self._deadline = timedelta(hours=site.export_deadline_hours)
        self._began = datetime.now(UTC)

    def run(self) -> ExportJob:
        """Get all files of one export onto the disk."""
        job = self._resumable()
        last = self._store.last()
        newer_than = last.transaction_time if last and job is None else None
        for attempt in range(1, _MOST_EXPORTS + 1):
            is_last = attempt == _MOST_EXPORTS
            if job is None:
                job = self._begin()
            if job.is_downloaded:
                return job
            try:
                return self._finish_download(job, newer_than)
            except JobGoneError:
                reason = "the server forgot the export before it was read"
            except FileGoneError:
                reason = "the export's files expired before they were read, or are refused"
                newer_than = (self._store.load() or job).transaction_time
            except _OldJobError:
                reason = "the server answers with an old export"
            except JobFailedError:
                self._give_up(job)
                if is_last:
                    raise
                reason = ""
            except DeadlineError:
                self._give_up(job)
                raise
            self._give_up(job)
            job = None
            if is_last:
                break
        raise self._client.error(
            reason, _LABEL, advice="try later, and ask the hospital how long exports are kept"
        )

    def _resumable(self) -> ExportJob | None:
        """What an earlier night left, if it answers the same question and is not too old."""
        job = self._store.load()
        if job is None:
            return None
        since = self._request.since
        covers = job.since is None or (since is not None and job.since <= since)
        # Its deadline may have passed in the site's quiet hours: it is looked at, and given up if not ready.
        is_fresh = datetime.now(UTC) <= job.started_at + max(self._deadline, _OLDEST_JOB)
        if job.request_sha256 == self._fingerprint and covers and is_fresh:
            return job
        self._give_up(job)
        return None

    def _give_up(self, job: ExportJob) -> None:
        if not job.is_downloaded:
            delete_job(self._client, job.status_url)
        self._store.forget()

    def _begin(self) -> ExportJob:
        last, hours = self._store.last(), self._site.min_export_interval_hours
        if last is not None:
            next_start = last.started_at + timedelta(hours=hours * (1 - _INTERVAL_SLACK))
            if datetime.now(UTC) < next_start:
                raise ExportTooEarlyError(
                    f"the last export began less than {hours:g} hours ago, the site's interval",
                    where=f"site {self._client.name}, {_LABEL}",
                    advice=f"try again after {next_start.astimezone(self._site.zone):%Y-%m-%d %H:%M %Z}, "
                    "or change min_export_interval_hours",
                )
        started = kick_off(self._client, self._request)
        job = ExportJob(
            status_url=started.status_url,
            request_sha256=self._fingerprint,
            level=started.request.level,
            types=started.request.types,
            since=started.request.since,
            started_at=datetime.now(UTC),
            kicked_off_at=started.server_clock,
            warnings=started.warnings,
        )
        self._store.begin(job)
        return job

    def _finish_download(self, job: ExportJob, newer_than: datetime | None) -> ExportJob:
        manifest = self._wait(job)
        if newer_than is not None and manifest.transaction_time <= newer_than:
            raise _OldJobError
        for attempt in range(1, _MOST_MANIFESTS + 1):
            job = self._with_manifest(job, manifest)
            try:
                job = self._download_all(job, manifest)
                break
            except FileGoneError:
                if attempt == _MOST_MANIFESTS:
                    raise
                # The manifest may carry fresh links by now.
                job = self._store.load() or job
                again = read_manifest(self._client, job.status_url)
                if {f.url for f in again.files} == {f.url for f in manifest.files}:
                    raise
                manifest = again
        job = replace(job, is_downloaded=True)
        self._store.save(job)
        delete_job(self._client, job.status_url)
        return job

    def _wait(self, job: ExportJob) -> ExportManifest:
        shown = 0
        with self._progress.step(f"{self._client.name}: export", 100, "%") as step:

            def show(percent: int) -> None:
                nonlocal shown
                step.advance(max(0, percent - shown))
                shown = max(shown, percent)

            until = self._began + self._deadline
            manifest = wait_for_manifest(self._client, job.status_url, until=until, on_percent=show)
            show(100)
        return manifest

    def _with_manifest(self, job: ExportJob, manifest: ExportManifest) -> ExportJob:
        """The job with this manifest. Files kept from another one count only if this one names them too."""
        keys = {f.key for f in manifest.files}
        is_same = job.transaction_time in (None, manifest.transaction_time)
        kept = job.files if is_same and all(f.key in keys for f in job.files) else ()
        warnings = job.warnings
        if job.kicked_off_at and manifest.transaction_time < job.kicked_off_at - _CLOCKS_APART:
            sentence = "$export: the server answered with an export begun earlier"
            warnings = tuple(dict.fromkeys([*warnings, sentence]))
        job = replace(job, transaction_time=manifest.transaction_time, files=kept, warnings=warnings)
        self._store.save(job)
        return job

    def _download_all(self, job: ExportJob, manifest: ExportManifest) -> ExportJob:
        done = {f.key for f in job.files}
        with self._progress.step(f"{self._client.name}: files", len(manifest.files), "files") as step:
            step.advance(len(done))
            for file in manifest.files:
                if file.key in done:
                    continue
                job = self._download(job, file, manifest.requires_access_token)
                step.advance()
        return job

    def _download(self, job: ExportJob, file: ExportFile, with_token: bool | None) -> ExportJob:
        # Named by its key: a file that is kept never has its place taken by another.
        path = self._store.file(f"{sha256(file.key.encode()).hexdigest()[:24]}.ndjson")
        try:
            stored = download(
                self._client, file, path, requires_access_token=with_token, cipher=self._store.cipher
            )
        except IncompleteFileError:
            path.unlink(missing_ok=True)
            job = replace(job, failed=tuple(dict.fromkeys([*job.failed, file.type])))
        except OSError as e:
            raise self._store.disk_error() from e
        else:
            done = DoneFile(file.kind, file.type, file.key, path.name, stored)
            job = replace(job, files=(*job.files, done))
        self._store.save(job)
        return job


class _OldJobError(Exception):
    """The server answered with an export that brings nothing new."""
