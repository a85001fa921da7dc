"""The hub's part: write a request, add the answers, take a step, and so on until there is an estimate.

WORKSPACE/federate/hub/REFRESH/request.STEP.json      every request as it was sent
WORKSPACE/federate/hub/REFRESH/answers.STEP/SITE.json every answer that was added
WORKSPACE/federate/hub/REFRESH/result.json            once it ended
WORKSPACE/federate/hub/REFRESH/estimate.json          of it, what the next `rwe analyse` takes up
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from rwe.config import Workspace
from rwe.durable import write_whole
from rwe.errors import EvidenceError, PartialError, UsageError
from rwe.evidence.federated import ESTIMATE, HUB, write_estimate
from rwe.federate import fixed_point, guards
from rwe.federate.documents import (
    Mode,
    Request,
    SignedAnswer,
    SignedRequest,
    SiteKeys,
    StepBefore,
    instant,
    is_about,
    private_folder,
    read_answer,
    read_request,
    sha256_of,
    sign_request,
    verify_answer,
    write_document,
)
from rwe.federate.evidence import evidence_of
from rwe.federate.newton import Decision, Point, decide, point_of
from rwe.federate.plan import Plan, default_analysis, make_plan
from rwe.federate.result import FORMAT, FederatedResult, make_result
from rwe.identity import pinned, read_identity
from rwe.scratch import locked
from rwe.study import Study, load_study

DAYS = 14


@dataclass(frozen=True)
class Asked:
    """A request that was written for all sites."""

    path: Path
    refresh: str
    step: int
    sites: tuple[str, ...]


def init(
    workspace: Workspace,
    study: Study,
    sites: Sequence[str],
    to: Path,
    *,
    mode: Mode = "masked",
    analysis: int | None = None,
    landmark_day: int | None = None,
    days: int = DAYS,
    now: datetime | None = None,
) -> Asked:
    """Begin a refresh: write its first request, signed, into the folder `to`. Sites are names of pins.

    Raises UsageError where a site is not pinned or is this hub, there are too few for masks, or the analysis
    cannot be federated.
    """
    if not to.is_dir():
        raise UsageError("there is no such folder", where=str(to), advice="make it first")
    if mode == "masked" and len(set(sites)) < guards.FEWEST_SITES:
        raise UsageError(
            f"masked sums need {guards.FEWEST_SITES} sites", where="--site", advice="name more sites"
        )
    if not 1 <= days <= guards.LONGEST.days:
        raise UsageError(f"a request is valid for 1 to {guards.LONGEST.days} days", where="--days")
    place = default_analysis(study.protocol) if analysis is None else analysis
    plan = make_plan(study, place, landmark_day)
    keys = [(name, pinned(workspace, name)) for name in sorted(set(sites))]
    if read_identity(workspace).public.ed25519 in {k.ed25519 for _, k in keys}:
        raise UsageError(
            "the hub cannot be one of the sites",
            where="--site",
            advice="give the site's patients a workspace and keys of their own",
        )
    moment = now or datetime.now(UTC)
    request = Request(
        study=study.name,
        protocol_sha256=study.protocol_sha256,
        analysis=place,
        landmark_day=plan.landmark_day,
        plan_sha256=plan.sha256,
        refresh=f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}",
        step=0,
        mode=mode,
        sites=tuple(SiteKeys(name=n, ed25519=k.ed25519.hex(), x25519=k.x25519.hex()) for n, k in keys),
        beta=(0.0,) * len(plan.coefficients),
        nonce=secrets.token_hex(16),
        created_at=instant(moment),
        expires_at=instant(moment + timedelta(days=days)),
        before=None,
    )
    private_folder(workspace.root, "federate", "hub", request.refresh)
    return _send(workspace, request, to)


def hub_folder(workspace: Workspace) -> Path:
    """Where this workspace keeps the refreshes that it began."""
    return workspace.root / HUB


def _send(workspace: Workspace, request: Request, to: Path) -> Asked:
    signed = sign_request(request, read_identity(workspace))
    folder = hub_folder(workspace) / request.refresh
    write_document(signed, folder / f"request.{request.step}.json")
    write_document(signed, to / request.file_name)
    return Asked(to / request.file_name, request.refresh, request.step, tuple(s.name for s in request.sites))


def combine(
    workspace: Workspace, refresh: str, answers: Path, to: Path, *, now: datetime | None = None
) -> Asked | FederatedResult:
    """Add the answers to the newest step of a refresh: the next request, or the result if it ended.

    Answers are found in the folder `answers`; files of other refreshes and steps are passed over. Raises
    PartialError where sites are missing, naming them; UsageError and SignatureError where an answer is not
    what was asked for or not signed by the pinned key of its site. Beside the result it leaves the estimate
    for the next analysis of the study; where that is missing, a repeat leaves it again.
    """
    if not to.is_dir():
        raise UsageError("there is no such folder", where=str(to), advice="make it first")
    folder = _folder_of(workspace, refresh)
    with locked(folder / ".lock"):
        if (folder / "result.json").is_file():
            result = read_result(workspace, refresh)
            if not (folder / ESTIMATE).is_file():
                _leave_estimate(workspace, folder, result)
            return result
        sent = _requests(folder)
        last = sent[-1].document
        plan = _plan(workspace, last)
        _take_in(workspace, folder, last, answers)
        points = _points(folder, sent, plan)
        decision = decide(plan, points)
        if decision.beta is not None:
            return _send(workspace, _next(folder, last, decision.beta, now or datetime.now(UTC)), to)
        result = _result(folder, sent, plan, points, decision, moment=now or datetime.now(UTC))
        for path in (folder / "result.json", to / f"{last.study}.{refresh}.result.json"):
            _write_result(result, path)
        _leave_estimate(workspace, folder, result)
        return result


def _leave_estimate(workspace: Workspace, folder: Path, result: FederatedResult) -> None:
    """For the next analysis of the study; none where its protocol is another one by now."""
    request = _requests(folder)[-1].document
    study = study_asked(workspace, request)
    if study is not None:
        write_estimate(evidence_of(result, study, request.analysis), folder)


def _folder_of(workspace: Workspace, refresh: str) -> Path:
    """The folder of a refresh, by comparing names. Raises UsageError where this hub began none such."""
    root = hub_folder(workspace)
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name == refresh:
            return folder
    raise UsageError(
        "this hub began no such refresh", where=f"refresh {refresh}", advice="see `rwe federate status`"
    )


def _requests(folder: Path) -> list[SignedRequest]:
    count = len(list(folder.glob("request.*.json")))
    return [read_request(folder / f"request.{step}.json") for step in range(count)]


def study_asked(workspace: Workspace, about: Request | FederatedResult) -> Study | None:
    """The study that a refresh is about; None where its protocol is another one by now."""
    for path in workspace.studies.glob("*.yaml"):
        if path.stem != about.study:
            continue
        study = load_study(path)
        if (study.name, study.protocol_sha256) == (about.study, about.protocol_sha256):
            return study
    return None


def _plan(workspace: Workspace, request: Request) -> Plan:
    study = study_asked(workspace, request)
    if study is not None:
        plan = make_plan(study, request.analysis, request.landmark_day)
        if plan.sha256 == request.plan_sha256:
            return plan
    raise UsageError(
        "the protocol changed since this refresh began",
        where=f"study {request.study}",
        advice="restore its file, or begin a new refresh",
    )


def _take_in(workspace: Workspace, folder: Path, request: Request, answers: Path) -> None:
    """Verify and keep the answers to this step. Raises PartialError as long as sites are missing."""
    kept = folder / f"answers.{request.step}"
    kept.mkdir(mode=0o700, exist_ok=True)
    keys = {s.name: s.public() for s in request.sites}
    sha256 = sha256_of(request)
    for path in sorted(answers.glob("*.json")) if answers.is_dir() else ():
        if not is_about(path, request.refresh, request.step):
            continue
        signed = read_answer(path)
        a = signed.document
        if a.site not in keys or a.request_sha256 != sha256 or a.mode != request.mode:
            raise UsageError("the answer is to another request", where=path.name, advice="ask that site")
        if keys[a.site] != pinned(workspace, a.site):
            raise UsageError("other keys are pinned for the site by now", where=a.site)
        verify_answer(signed, keys[a.site], path.name)
        target = kept / f"{a.site}.json"
        if target.is_file() and read_answer(target) != signed:
            raise UsageError("the site gave two answers to one request", where=path.name)
        write_document(signed, target)
    missing = [name for name in keys if not (kept / f"{name}.json").is_file()]
    if missing:
        raise PartialError(
            f"no answer of {', '.join(missing)} yet",
            where=f"refresh {request.refresh}, step {request.step}",
            advice=f"wait for it until {request.expires_at}; without it this refresh ends as incomplete",
        )


def _answers(folder: Path, request: Request) -> tuple[SignedAnswer, ...]:
    kept = folder / f"answers.{request.step}"
    return tuple(read_answer(kept / f"{s.name}.json") for s in request.sites)


def _points(folder: Path, sent: Sequence[SignedRequest], plan: Plan) -> list[Point]:
    found = []
    for signed in sent:
        request = signed.document
        totals = guards.total_of(_answers(folder, request), plan, request.step)
        decoded = {name: fixed_point.decode(n) for name, n in totals.items()}
        found.append(point_of(plan, request.beta, decoded))
    return found


def _next(folder: Path, last: Request, beta: tuple[float, ...], moment: datetime) -> Request:
    before = StepBefore(request_sha256=sha256_of(last), answers=_answers(folder, last))
    return last.model_copy(
        update={
            "step": last.step + 1,
            "beta": beta,
            "nonce": secrets.token_hex(16),
            "created_at": instant(moment),
            "expires_at": instant(moment + timedelta(days=DAYS)),
            "before": before,
        }
    )


def _result(
    folder: Path,
    sent: Sequence[SignedRequest],
    plan: Plan,
    points: Sequence[Point],
    decision: Decision,
    *,
    moment: datetime,
) -> FederatedResult:
    first, last = sent[0].document, sent[-1].document
    answers = _answers(folder, first)
    totals = guards.total_of(answers, plan, 0)
    roundings = {a.document.counts for a in answers}
    return make_result(
        plan,
        points,
        decision,
        {name: fixed_point.decode(n) for name, n in totals.items()},
        refresh=last.refresh,
        created_at=instant(moment),
        mode=last.mode,
        sites=[s.name for s in last.sites],
        counts_are=roundings.pop() if len(roundings) == 1 else "midpoint_6 at some sites, exact at others",
        request_sha256=sha256_of(last),
    )


def _write_result(result: FederatedResult, path: Path) -> None:
    write_whole(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(workspace: Workspace, refresh: str) -> FederatedResult:
    """The result of a refresh of this hub. Raises EvidenceError where damaged, UsageError without."""
    path = _folder_of(workspace, refresh) / "result.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=FederatedResult)
    except FileNotFoundError:
        raise UsageError("the refresh has no result yet", where=f"refresh {refresh}") from None
    except (OSError, msgspec.DecodeError):
        raise EvidenceError("the result cannot be read", where=str(path)) from None
    if found.format != FORMAT:
        raise EvidenceError("the result is of another version of rwe", where=str(path))
    return found


def refreshes(workspace: Workspace) -> tuple[tuple[str, Request, bool], ...]:
    """The refreshes that this hub began, oldest first: id, newest request, whether it ended."""
    root = hub_folder(workspace)
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    found = []
    for folder in folders:
        sent = _requests(folder)
        if sent:
            found.append((folder.name, sent[-1].document, (folder / "result.json").is_file()))
    return tuple(found)
