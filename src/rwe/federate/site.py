"""A site's part: approve a protocol once, then answer each step of a refresh."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rwe.analyse.own_tables import own_tables
from rwe.analyse.read import StudyTables, holds_study, read_study
from rwe.config import Workspace
from rwe.errors import EvidenceError, UsageError
from rwe.federate import fixed_point, guards
from rwe.federate.documents import (
    Answer,
    Request,
    SignedAnswer,
    canonical,
    instant,
    read_answer,
    read_request,
    sha256_of,
    sign_answer,
    verify_request,
    write_document,
)
from rwe.federate.ledger import Answered, Approved, Ledger, held
from rwe.federate.masks import Stream, keystream, pairwise_masks
from rwe.federate.plan import Plan, make_plan
from rwe.federate.sums import SiteRows, site_rows, site_sums
from rwe.identity import Identity, pinned, pins, read_identity
from rwe.progress import SILENT, Progress
from rwe.study import Study, load_studies, load_study
from rwe.warehouse.builds import kept_builds
from rwe.warehouse.opening import private_key


@dataclass(frozen=True)
class Given:
    """An answer that was given. `is_repeat`: it is the one of before, to the same request, byte by byte."""

    path: Path
    study: str
    refresh: str
    step: int
    mode: str
    numbers: int
    is_repeat: bool


@dataclass(frozen=True)
class _Step:
    """A request that passed every guard that needs no patient, and what this site makes of it."""

    request: Request
    request_sha256: str
    own_name: str
    study: Study
    plan: Plan
    apart: bool
    steps: tuple[Answered, ...]
    before: dict[str, int]


def approve(workspace: Workspace, study: Study, *, apart: bool = False) -> Approved:
    """Note that a person at this site approved exactly this protocol.

    `apart`: this study does not wait until enough is new since refreshes of other studies; whoever says so
    knows that their totals can be compared. Raises UsageError where the study is none of the workspace's.
    """
    known = {s.name: s.protocol_sha256 for s in load_studies(workspace.studies)}
    if known.get(study.name) != study.protocol_sha256:
        raise UsageError(
            "the study is not in this workspace",
            where=f"study {study.name}",
            advice=f"put its file into {workspace.studies}, then `rwe build`",
        )
    entry = Approved(instant(datetime.now(UTC)), _user(), study.name, study.protocol_sha256, apart)
    with held(workspace) as ledger:
        ledger.append(entry)
    return entry


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "a user without a name"


def answer(
    workspace: Workspace,
    request_file: Path,
    to: Path,
    *,
    now: datetime | None = None,
    stream: Stream = keystream,
    progress: Progress = SILENT,
) -> Given:
    """Answer one step into the folder `to`; the same request again gets the same answer again.

    Raises RefusedError (see `rwe.federate.guards`) where this site does not answer, SignatureError where the
    request or an answer in it is not signed by a pinned key, EvidenceError where the patients of this refresh
    are not here any more.
    """
    if not to.is_dir():
        raise UsageError("there is no such folder", where=str(to), advice="make it first")
    signed = read_request(request_file)
    hub = pinned(workspace, workspace.settings.federation.hub)
    verify_request(signed, hub, f"request {signed.document.refresh}, step {signed.document.step}")
    request = signed.document
    with held(workspace) as ledger:
        again = _given_before(ledger, request, to)
        if again is not None:
            return again
        identity = read_identity(workspace)
        moment = now or datetime.now(UTC)
        guards.check_time(request, moment)
        name = guards.check_sites(request, identity.public, hub, pins(workspace))
        guards.check_mode(request, workspace.settings.federation)
        step = _checked(workspace, ledger, request, name)
        rows = _rows(workspace, step, progress)
        if not step.steps:
            guards.check_enough_is_new(
                request,
                ledger,
                workspace.settings.federation,
                cohort=rows.cohort,
                model=rows.informative(),
                rows_kind=step.plan.rows_kind,
                apart=step.apart,
            )
        made = _make(workspace, step, rows, identity, stream)
        write_document(made, ledger.answers / f"{sha256_of(made.document)}.json")
        ledger.append(_entry(step, rows, made, workspace, moment))
        target = to / _file_name(made.document)
        write_document(made, target)
    return _given(made.document, target, is_repeat=False)


def _given_before(ledger: Ledger, request: Request, to: Path) -> Given | None:
    sha256 = sha256_of(request)
    for entry in ledger.steps(request.refresh):
        if entry.request_sha256 != sha256:
            continue
        path = ledger.answers / f"{entry.answer_sha256}.json"
        if not path.is_file():
            raise EvidenceError(
                "the answer to this request is lost, and another is never given",
                where=f"refresh {request.refresh}, step {request.step}",
                advice="restore federate/ from a backup, or ask the hub for a new refresh",
            )
        kept = read_answer(path)
        target = to / _file_name(kept.document)
        write_document(kept, target)
        return _given(kept.document, target, is_repeat=True)
    return None


def _file_name(made: Answer) -> str:
    """A name for people, of a hash alone: no text of a request becomes a path."""
    return f"answer-{made.step:02d}-{sha256_of(made)[:16]}.json"


def _given(made: Answer, path: Path, *, is_repeat: bool) -> Given:
    count = len(made.masked) + len(made.plain)
    return Given(path, made.study, made.refresh, made.step, made.mode, count, is_repeat)


def _checked(workspace: Workspace, ledger: Ledger, request: Request, name: str) -> _Step:
    study = _study(workspace, request)
    plan = make_plan(study, request.analysis, request.landmark_day)
    guards.check_plan(request, plan)
    apart = guards.check_approval(request, ledger)
    steps = ledger.steps(request.refresh)
    before: dict[str, int] = {}
    if request.step == 0:
        guards.check_first(request, ledger)
    else:
        last, given = guards.check_follows(request, steps)
        before = guards.verified_totals(request, last, given, plan)
        own = next(a.document for a in given.answers if a.document.site == name)
        guards.check_own(sha256_of(own), last, request)
        guards.check_beta(request, plan, guards.points_of(plan, steps, before, last.beta))
    return _Step(request, sha256_of(request), name, study, plan, apart, steps, before)


def _study(workspace: Workspace, request: Request) -> Study:
    """The workspace's own study of that name and hash; the request's name is compared, never opened."""
    for path in workspace.studies.glob("*.yaml"):
        if path.stem == request.study:
            study = load_study(path)
            if (study.name, study.protocol_sha256) == (request.study, request.protocol_sha256):
                return study
            raise guards.refuse(
                "the hub has another version of the protocol", request, "use one study file at all sites"
            )
    raise guards.refuse(
        "this workspace has no such study",
        request,
        f"put its file into {workspace.studies}, then `rwe build`",
    )


def _rows(workspace: Workspace, step: _Step, progress: Progress) -> SiteRows:
    """The rows of this refresh: tonight's at its first step, and the very same ones afterwards."""
    current = site_rows(step.study, step.plan, own_tables(workspace, step.study, progress))
    if not step.steps:
        return current
    key, wanted = workspace.pseudonym_key(), step.steps[0].rows
    if current.digest(key) == wanted:
        return current
    for tables in _kept_tables(workspace, step.study):
        rows = site_rows(step.study, step.plan, tables)
        if rows.digest(key) == wanted:
            return rows
    raise EvidenceError(
        "the data changed since the first step of this refresh, and the build of then is not kept any more",
        where=f"refresh {step.request.refresh}",
        advice="it ends as incomplete; with more published.keep_builds the next one can take longer",
    )


def _kept_tables(workspace: Workspace, study: Study) -> Iterator[StudyTables]:
    """The study's tables of each kept build that has them, newest first."""
    key = private_key(workspace)
    for kept in kept_builds(workspace):
        path = workspace.private_builds / f"{kept.build}.duckdb"
        if holds_study(path, study, key):
            yield read_study(path, study, key)


def _make(
    workspace: Workspace, step: _Step, rows: SiteRows, identity: Identity, stream: Stream
) -> SignedAnswer:
    request, plan = step.request, step.plan
    rounding = workspace.settings.federation.counts
    values = site_sums(rows, plan, request.step, request.beta, rounding=rounding)
    names = plan.layout(request.step)
    is_masked = request.mode == "masked"
    masked: dict[str, str] = {}
    if is_masked:
        numbers = masked_numbers(values, step.own_name, identity, request, stream=stream)
        masked = {n: fixed_point.to_text(v) for n, v in zip(names, numbers, strict=True)}
    made = Answer(
        study=request.study,
        protocol_sha256=request.protocol_sha256,
        refresh=request.refresh,
        step=request.step,
        request_sha256=step.request_sha256,
        site=step.own_name,
        mode=request.mode,
        counts=rounding,
        masked=masked,
        plain={} if is_masked else dict(zip(names, values, strict=True)),
    )
    return sign_answer(made, identity)


def masked_numbers(
    values: Sequence[float],
    own_name: str,
    identity: Identity,
    request: Request,
    *,
    stream: Stream = keystream,
) -> list[int]:
    """A site's numbers under the masks of this request: modulo 2^128, in the order of `values`."""
    masks = pairwise_masks(
        own_name,
        identity.agreement,
        {s.name: s.public().agreement_key() for s in request.sites if s.name != own_name},
        binding=canonical(request),
        length=len(values),
        stream=stream,
    )
    addends = len(request.sites)
    encoded = (fixed_point.encode(v, addends=addends) for v in values)
    return [fixed_point.total(pair) for pair in zip(encoded, masks, strict=True)]


def _entry(
    step: _Step, rows: SiteRows, made: SignedAnswer, workspace: Workspace, moment: datetime
) -> Answered:
    request, model = step.request, rows.informative()
    return Answered(
        at=instant(moment),
        study=request.study,
        protocol_sha256=request.protocol_sha256,
        refresh=request.refresh,
        step=request.step,
        request_sha256=step.request_sha256,
        plan_sha256=request.plan_sha256,
        sites=guards.site_set(request),
        mode=request.mode,
        beta=request.beta,
        patients=rows.cohort.patients,
        events=rows.cohort.events,
        model=step.plan.rows_kind,
        model_patients=model.patients,
        model_events=model.events,
        rows=rows.digest(workspace.pseudonym_key()),
        answer_sha256=sha256_of(made.document),
        before={name: fixed_point.to_text(n) for name, n in step.before.items()},
    )
