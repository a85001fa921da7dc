"""What a hub that is not honest does: plain sums of a site, forged requests, sites that refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwe.analyse.read import StudyTables
from rwe.config import Workspace
from rwe.errors import RweError
from rwe.federate import fixed_point, guards, hub, site
from rwe.federate.documents import (
    SignedAnswer,
    SiteKeys,
    read_answer,
    read_request,
    sign_request,
    write_document,
)
from rwe.federate.hub import Asked
from rwe.federate.plan import Plan, make_plan
from rwe.federate.site import own_tables
from rwe.federate.sums import SiteRows, site_rows, site_sums
from rwe.identity import Identity, make_identity, read_identity
from rwe.study import Study
from tests.federate.hospitals import THREE, Hospitals, approve_everywhere

UNADJUSTED = 4  # of the study other_models: the exposure alone


def rows_of(made: Hospitals, name: str, study: str = "three_sites", analysis: int = 0) -> SiteRows:
    found = made.study(name, study)
    return site_rows(found, make_plan(found, analysis), own_tables(made.workspace(name), found))


def plan_of(made: Hospitals, study: str = "three_sites", analysis: int = 0) -> Plan:
    return make_plan(made.study("hub", study), analysis)


def plain(rows: SiteRows, plan: Plan, *beta: float, step: int = 0) -> dict[str, float]:
    return dict(zip(plan.layout(step), site_sums(rows, plan, step, beta, rounding="exact"), strict=True))


class Truth:
    """What is to be kept: the risk set at each death of a site, and where the dead were."""

    def __init__(self, rows: SiteRows) -> None:
        r = rows.rows
        self.deaths_on_maintenance = int((r.event & r.exposed).sum())
        self.risk_sets = []
        for day in np.sort(r.stop[r.event]):
            here = (r.start < day) & (day <= r.stop)
            self.risk_sets.append((int((here & r.exposed).sum()), int((here & ~r.exposed).sum())))


def first_request(made: Hospitals, post: Path, **options: object) -> Asked:
    return hub.init(made.workspace("hub"), made.study(), THREE, post, **options)  # type: ignore[arg-type]


def begun(made: Hospitals, post: Path) -> tuple[Asked, Asked]:
    """A refresh of which all three sites answered the first step: both requests so far."""
    approve_everywhere(made, THREE)
    first = first_request(made, post)
    for name in THREE:
        site.answer(made.workspace(name), first.path, post)
    second = hub.combine(made.workspace("hub"), first.refresh, post, post)
    assert isinstance(second, Asked)
    return first, second


def forged(made: Hospitals, path: Path, post: Path, **changes: object) -> Path:
    """A request changed by a hub that is not honest, and signed with its own, pinned key."""
    request = read_request(path).document.model_copy(update=changes)
    target = post / "forged.json"
    write_document(sign_request(request, read_identity(made.workspace("hub"))), target)
    return target


def refused(made: Hospitals, request: Path, post: Path, *, by: str = "siteA") -> str:
    """The sentence with which a site refuses; nothing of it reached the hub, and its ledger is as before."""
    before, ledger = sorted(p.name for p in post.iterdir()), ledger_of(made, by)
    with pytest.raises(RweError) as caught:
        site.answer(made.workspace(by), request, post)
    assert sorted(p.name for p in post.iterdir()) == before
    assert ledger_of(made, by) == ledger
    return str(caught.value)


def ledger_of(made: Hospitals, name: str) -> bytes:
    path = made.folder(name) / "federate" / "site" / "ledger.ndjson"
    return path.read_bytes() if path.exists() else b""


def risk_sets_from(score: float, information: float, patients: int) -> list[tuple[int, list[float]]]:
    """All ways to have five deaths with this score and information: deaths on maintenance, and shares of
    the risk sets on maintenance. The score is the deaths on it less the sum of shares p, the information the
    sum of p (1 - p)."""
    shares = np.unique([a / n for n in range(1, patients + 1) for a in range(n + 1)])
    count, spread = len(shares), shares * (1 - shares)
    two = [(i, j) for i in range(count) for j in range(i, count)]
    three = np.array([(i, j, k) for i, j in two for k in range(j, count)])
    order = np.argsort(shares[three].sum(axis=1))
    three = three[order]
    sums, spreads = shares[three].sum(axis=1), spread[three].sum(axis=1)
    found = set()
    for on_maintenance in range(6):
        for i, j in two:
            rest = on_maintenance - score - shares[i] - shares[j]
            low, high = np.searchsorted(sums, [rest - 1e-9, rest + 1e-9])
            for k in range(low, high):
                if abs(spreads[k] + spread[i] + spread[j] - information) < 1e-9:
                    found.add((on_maintenance, tuple(sorted((i, j, *(int(x) for x in three[k]))))))
    return [(deaths, [float(shares[i]) for i in places]) for deaths, places in sorted(found)]


def new_identity(folder: Path) -> Identity:
    from rwe.config import init_workspace

    return make_identity(init_workspace(folder / "workspace", key_file=folder / "key"))


def keys_of(name: str, identity: Identity) -> SiteKeys:
    public = identity.public
    return SiteKeys(name=name, ed25519=public.ed25519.hex(), x25519=public.x25519.hex())


def answer_file(post: Path, name: str) -> Path:
    return next(p for p in post.glob("answer-*.json") if read_answer(p).document.site == name)


def changed(signed: SignedAnswer, **values: str) -> SignedAnswer:
    masked = {**signed.document.masked, **values}
    return signed.model_copy(update={"document": signed.document.model_copy(update={"masked": masked})})


def total_at_zero(made: Hospitals, sites: tuple[str, ...], post: Path) -> dict[str, float]:
    """What a hub legitimately learns from one masked step: the totals."""
    asked = hub.init(made.workspace("hub"), made.study(), sites, post)
    given = [site.answer(made.workspace(name), asked.path, post).path for name in sites]
    plan = plan_of(made)
    totals = guards.total_of([read_answer(p) for p in given], plan, 0)
    return {name: fixed_point.decode(n) for name, n in totals.items()}


def without_patients(made: Hospitals, name: str, count: int) -> SiteRows:
    """The rows of a site before its last `count` patients came."""
    study = made.study(name)
    return site_rows(study, plan_of(made), before_they_came(own_tables(made.workspace(name), study), count))


def before_they_came(tables: StudyTables, count: int) -> StudyTables:
    kept = len(tables.survival) - count
    return replace(tables, survival=tables.survival.iloc[:kept], covariates=tables.covariates.iloc[:kept])


def fewer(monkeypatch: pytest.MonkeyPatch, made: Hospitals, count: int | dict[str, int]) -> None:
    """Until this is called again, sites have `count` patients fewer than landed."""

    def tables_at(workspace: Workspace, study: Study, progress: object = None) -> StudyTables:
        name = workspace.root.parent.name
        less = count if isinstance(count, int) else count.get(name, 0)
        return before_they_came(own_tables(workspace, study), less)

    monkeypatch.setattr(site, "own_tables", tables_at)
