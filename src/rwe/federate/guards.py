"""Every reason for which a site does not answer. Each is a function that returns or raises RefusedError.

What a hub may try, and which function stops it: another key or site (`check_sites`), an old or a foreign
request (`check_time`), an answer of other sites that was changed, or totals that were not theirs, or a beta
of its own choice (`check_step_before`, `check_first`), another protocol over the same patients, another set
of sites, tonight's totals minus yesterday's (`check_approval`, `check_enough_is_new`), plain sums of a site
that masks (`check_mode`). docs/federation.md says what each would reveal.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rwe.errors import UsageError
from rwe.federate import fixed_point
from rwe.federate.documents import Request, SignedAnswer, StepBefore, moment_of, verify_answer
from rwe.federate.ledger import Answered, Headcount, Ledger
from rwe.federate.newton import Decision, Point, decide, is_same_beta, point_of
from rwe.federate.plan import Plan
from rwe.federate.settings import Federation
from rwe.identity import PublicIdentity

FEWEST_SITES = 3
LONGEST = timedelta(days=60)
_CLOCKS_DIFFER = timedelta(minutes=10)


class RefusedError(UsageError):
    """This site does not answer the request. Nothing left it."""


def refuse(what: str, request: Request, advice: str | None = None) -> RefusedError:
    """The error, with the place it concerns."""
    return RefusedError(what, where=f"refresh {request.refresh}, step {request.step}", advice=advice)


def check_time(request: Request, now: datetime) -> None:
    """The request is neither expired nor from the future, nor valid for long."""
    where = f"refresh {request.refresh}"
    created = moment_of(request.created_at, where)
    expires = moment_of(request.expires_at, where)
    if now > expires:
        raise refuse("the request has expired", request, "ask the hub for a new refresh")
    if created > now + _CLOCKS_DIFFER:
        raise refuse("the request is from the future", request, "compare the clocks of hub and site")
    if not created < expires <= created + LONGEST:
        raise refuse(f"the request is valid for more than {LONGEST.days} days", request)


def check_sites(
    request: Request, own: PublicIdentity, hub: PublicIdentity, pins: Mapping[str, PublicIdentity]
) -> str:
    """Every site has the keys that were pinned for it here, once. Returns this site's own name."""
    names = [s.name for s in request.sites]
    keys = [s.public() for s in request.sites]
    if names != sorted(set(names)):
        raise refuse("the request's sites are not in order, or one is named twice", request)
    for half in ("ed25519", "x25519"):
        if len({getattr(k, half) for k in keys}) != len(keys):
            raise refuse("two sites of the request have one key", request, "tell the other sites")
    if hub.ed25519 in {k.ed25519 for k in keys}:
        raise refuse("the hub is one of the sites", request, "give the hub a workspace and keys of its own")
    mine = [s.name for s in request.sites if s.public() == own]
    if len(mine) != 1:
        raise refuse("this site is not asked", request, "the hub must have this workspace's public document")
    for site in request.sites:
        if site.name == mine[0]:
            continue
        if site.name not in pins:
            raise refuse(
                f"no key is pinned for site {site.name}", request, "compare fingerprints and pin its document"
            )
        if pins[site.name] != site.public():
            raise refuse(
                f"the request has other keys for site {site.name} than those pinned here",
                request,
                "the hub may have swapped them: tell that site",
            )
    return mine[0]


def check_mode(request: Request, settings: Federation) -> None:
    """Masked sums of three sites or more; plain ones only where this site allows it."""
    if request.mode == "plain":
        if settings.plain_sums != "allowed":
            raise refuse(
                "the hub asks for plain sums, which give small cells away",
                request,
                "ask it for a masked refresh; docs/federation.md says what federation.plain_sums reveals",
            )
        return
    if len(request.sites) < FEWEST_SITES:
        raise refuse(f"masked sums need {FEWEST_SITES} sites", request, "wait for more sites")


def check_plan(request: Request, plan: Plan) -> None:
    """Hub and site worked out the same plan."""
    if request.plan_sha256 != plan.sha256 or len(request.beta) != len(plan.coefficients):
        raise refuse(
            "the hub's plan is not the one this site makes of the protocol",
            request,
            "use one version of rwe at all sites",
        )


def check_approval(request: Request, ledger: Ledger) -> bool:
    """A person approved this protocol here. Returns whether other protocols do not count for it."""
    approval = ledger.approval(request.study, request.protocol_sha256)
    if approval is None:
        raise refuse(
            "nobody at this site has approved this protocol",
            request,
            f"read it and approve it with `rwe federate approve {request.study}`",
        )
    return approval.apart


def check_enough_is_new(
    request: Request,
    ledger: Ledger,
    settings: Federation,
    *,
    cohort: Headcount,
    model: Headcount,
    rows_kind: str,
    apart: bool,
) -> None:
    """Since every refresh answered before, enough patients and events are new, in the cohort and, where the
    earlier model had the same kind of rows, in its risk sets.

    The difference of two totals is then one of at least so many patients, whichever protocols and sites the
    two had: with more patients now than then by m, at least m are in the one and not in the other. The cohort
    alone would not do: nine of ten who are new may have left before the landmark, or lack a covariate.
    """
    wanted = Headcount(settings.min_new_patients, settings.min_new_events)
    for earlier in ledger.refreshes():
        if earlier.refresh == request.refresh or (apart and not _is_same_study(earlier, request)):
            continue
        few = ""
        if not cohort.is_beyond(earlier.cohort, wanted):
            few = "at this site"
        elif earlier.model in {rows_kind, None} and not model.is_beyond(earlier.in_model, wanted):
            few = "among the rows of the model at this site"
        if not few:
            continue
        others = "" if _is_same_study(earlier, request) else f" of study {earlier.study}"
        changed = " with another set of sites" if earlier.sites != site_set(request) else ""
        raise refuse(
            f"too little is new {few} since refresh {earlier.refresh}{others}{changed}: "
            f"{wanted.patients} patients and {wanted.events} events are needed",
            request,
            "wait; the difference of two totals would be that of a few patients",
        )


def _is_same_study(earlier: Answered, request: Request) -> bool:
    return earlier.study == request.study


def site_set(request: Request) -> tuple[str, ...]:
    """The sites of a request with their keys, as the ledger notes them."""
    return tuple(f"{s.name} {s.ed25519}" for s in request.sites)


def check_first(request: Request, ledger: Ledger) -> None:
    """Step 0 is at beta 0, follows nothing, and its refresh is new."""
    if request.before is not None or any(request.beta):
        raise refuse("a first step is at beta 0 and follows no other", request)
    if ledger.steps(request.refresh):
        raise refuse("this step was answered before, to another request", request, "it may be a replay")


def check_follows(request: Request, steps: Sequence[Answered]) -> tuple[Answered, StepBefore]:
    """The request is the step after the last one answered here, of the same refresh in every respect."""
    if not steps or request.before is None:
        raise refuse("this site answered no step before it", request, "start a new refresh")
    last = steps[-1]
    if request.step != last.step + 1:
        raise refuse(f"step {last.step + 1} comes next at this site", request, "it may be a replay")
    same = (last.study, last.protocol_sha256, last.plan_sha256, last.mode, last.sites)
    asked = (request.study, request.protocol_sha256, request.plan_sha256, request.mode, site_set(request))
    if same != asked:
        raise refuse("study, plan, mode or sites changed within the refresh", request, "start a new one")
    if request.before.request_sha256 != last.request_sha256:
        raise refuse("it does not follow the request that this site answered", request)
    return last, request.before


def verified_totals(request: Request, last: Answered, before: StepBefore, plan: Plan) -> dict[str, int]:
    """The totals of the step before, formed from the answers that the sites themselves signed.

    Raises RefusedError where one is missing, is twice there, is of another request or is not signed by the
    pinned key of its site; or where this site's own is not the one that it gave.
    """
    keys = {s.name: s.public() for s in request.sites}
    given = [a.document.site for a in before.answers]
    if given != sorted(keys):
        raise refuse("it does not bring one answer of each site to the step before", request)
    for signed in before.answers:
        answer = signed.document
        where = f"refresh {request.refresh}, answer of site {answer.site} to step {answer.step}"
        verify_answer(signed, keys[answer.site], where)
        told = (answer.study, answer.protocol_sha256, answer.refresh, answer.step, answer.mode)
        asked = (request.study, request.protocol_sha256, request.refresh, request.step - 1, request.mode)
        if told != asked or answer.request_sha256 != last.request_sha256:
            raise refuse(f"the answer of site {answer.site} is to another request", request)
    return total_of(before.answers, plan, request.step - 1)


def check_own(own_sha256: str, last: Answered, request: Request) -> None:
    """The answer under this site's name is the one that it gave."""
    if not hmac.compare_digest(own_sha256, last.answer_sha256):
        raise refuse("the answer under this site's name is not the one it gave", request)


def total_of(answers: Sequence[SignedAnswer], plan: Plan, step: int) -> dict[str, int]:
    """The totals of all answers to one step, encoded, by name.

    Raises UsageError where an answer has not exactly the numbers of the plan.
    """
    names = plan.layout(step)
    for signed in answers:
        a = signed.document
        here, empty = (a.masked, a.plain) if a.mode == "masked" else (a.plain, a.masked)
        if set(here) != set(names) or empty:
            raise UsageError(
                "the answer has not the numbers that were asked for",
                where=f"refresh {a.refresh}, answer of site {a.site} to step {a.step}",
            )
    return {name: fixed_point.total(_number(s, name, len(answers)) for s in answers) for name in names}


def _number(signed: SignedAnswer, name: str, addends: int) -> int:
    a = signed.document
    if a.mode == "masked":
        return fixed_point.from_text(a.masked[name])
    return fixed_point.encode(a.plain[name], addends=addends)


def points_of(
    plan: Plan, steps: Sequence[Answered], totals: Mapping[str, int], beta: Sequence[float]
) -> list[Point]:
    """The points of a refresh up to the last one answered, as this site itself formed their totals."""
    kept = [(steps[k].beta, _decoded(steps[k + 1].before)) for k in range(len(steps) - 1)]
    now = (tuple(beta), {name: fixed_point.decode(n) for name, n in totals.items()})
    return [point_of(plan, b, t) for b, t in [*kept, now]]


def _decoded(texts: Mapping[str, str]) -> dict[str, float]:
    return {name: fixed_point.decode(fixed_point.from_text(t)) for name, t in texts.items()}


def check_beta(request: Request, plan: Plan, points: Sequence[Point]) -> Decision:
    """Beta is the one that follows from the totals, and lies in the box."""
    decision = decide(plan, points)
    if decision.following is None or len(points) >= plan.most_steps:
        raise refuse(f"no step follows from the totals ({decision.ending.replace('_', ' ')})", request)
    if not is_same_beta(request.beta, decision.following):
        raise refuse("beta does not follow from the totals of the step before", request)
    return decision
