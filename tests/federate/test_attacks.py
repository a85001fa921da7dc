"""What a hub could find out, and what stops it.

Each attack first recovers a site's small cells from plain sums, so that nobody takes the guards for
decoration; then it meets them, and is refused or gets totals of three sites and nothing else. The twelve
patients of site D (five deaths, none on maintenance) are the prey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from rwe.analyse.read import StudyTables
from rwe.config import Workspace
from rwe.errors import EvidenceError, PartialError, RweError, UsageError
from rwe.federate import fixed_point, guards, hub, site
from rwe.federate.documents import (
    Request,
    SignedAnswer,
    SiteKeys,
    canonical,
    read_answer,
    read_request,
    sign_answer,
    sign_request,
    write_document,
)
from rwe.federate.guards import RefusedError
from rwe.federate.hub import Asked
from rwe.federate.masks import pairwise_masks
from rwe.federate.plan import Plan, make_plan
from rwe.federate.site import own_tables
from rwe.federate.sums import SiteRows, site_rows, site_sums
from rwe.identity import Identity, SignatureError, make_identity, read_identity
from rwe.study import Study
from tests.federate.hospitals import FOUR, NO_MINIMUM, THREE, Hospitals, approve_everywhere

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
    before, ledger = sorted(p.name for p in post.iterdir()), _ledger(made, by)
    with pytest.raises(RweError) as caught:
        site.answer(made.workspace(by), request, post)
    assert sorted(p.name for p in post.iterdir()) == before
    assert _ledger(made, by) == ledger
    return str(caught.value)


def _ledger(made: Hospitals, name: str) -> bytes:
    path = made.folder(name) / "federate" / "site" / "ledger.ndjson"
    return path.read_bytes() if path.exists() else b""


# One answer at beta 0


def test_one_plain_answer_gives_back_every_risk_set(hospitals: Hospitals) -> None:
    """Score and information at 0 of the twelve: of two million combinations of risk sets one fits."""
    sums = plain(rows_of(hospitals, "siteD"), plan_of(hospitals), 0.0, 0.0, 0.0)
    found = risk_sets_from(sums["score[exposed]"], sums["information[exposed,exposed]"], patients=12)
    truth = Truth(rows_of(hospitals, "siteD"))
    assert truth.deaths_on_maintenance == 0
    shares = sorted(a / (a + b) for a, b in truth.risk_sets)
    assert found == [(0, pytest.approx(shares))]


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


def test_plain_sums_do_not_leave_a_site_that_did_not_say_so(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, FOUR)
    asked = hub.init(hospitals.workspace("hub"), hospitals.study(), ["siteD"], post, mode="plain")
    assert "plain sums, which give small cells away" in refused(hospitals, asked.path, post, by="siteD")


def test_masked_sums_of_two_sites_are_refused_by_hub_and_site(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    with pytest.raises(UsageError, match="masked sums need 3 sites"):
        hub.init(hospitals.workspace("hub"), hospitals.study(), THREE[:2], post)
    asked = first_request(hospitals, post)
    two = read_request(asked.path).document.sites[:2]
    told = refused(hospitals, forged(hospitals, asked.path, post, sites=two), post)
    assert "masked sums need 3 sites" in told


# A grid of betas, and extreme ones


def test_a_grid_of_betas_gives_back_the_risk_sets(hospitals: Hospitals) -> None:
    """The score is the deaths on maintenance less a sum of a e^b / (a e^b + c) over the risk sets: one term
    for each kind of risk set, and their weights are how many deaths had it."""
    plan = plan_of(hospitals, "other_models", UNADJUSTED)
    rows = rows_of(hospitals, "siteD", "other_models", UNADJUSTED)
    grid = np.linspace(-9, 9, 120)
    scores = np.array([plain(rows, plan, float(b), step=1)["score[exposed]"] for b in grid])
    on_maintenance = round(plain(rows, plan, -40.0, step=1)["score[exposed]"])
    kinds = sorted({(a // g, c // g) for a in range(13) for c in range(13 - a) if (g := np.gcd(a, c))})
    terms = np.array([[a * np.exp(b) / (a * np.exp(b) + c) for a, c in kinds] for b in grid])
    weights, rest = nnls(terms, on_maintenance - scores)
    assert rest < 1e-6
    found = [k for k, w in zip(kinds, np.rint(weights).astype(int), strict=True) for _ in range(w)]
    truth = Truth(rows)
    assert on_maintenance == truth.deaths_on_maintenance == 0
    reduced = [(int(a // np.gcd(a, c)), int(c // np.gcd(a, c))) for a, c in truth.risk_sets]
    assert sorted((int(a), int(c)) for a, c in found) == sorted(reduced)


def test_an_extreme_beta_counts_the_deaths_of_the_untreated(hospitals: Hospitals) -> None:
    """Far out every risk set is its treated part: what is left of the score are deaths, one by one."""
    plan = plan_of(hospitals, "other_models", UNADJUSTED)
    rows = rows_of(hospitals, "siteD", "other_models", UNADJUSTED)
    low, high = (plain(rows, plan, b, step=1)["score[exposed]"] for b in (-30.0, 30.0))
    truth = Truth(rows)
    assert all(treated for treated, _ in truth.risk_sets)
    assert (round(low), round(-high)) == (truth.deaths_on_maintenance, len(truth.risk_sets)) == (0, 5)
    assert (low, high) == pytest.approx((0, -5), abs=1e-9)


@pytest.mark.parametrize("beta", [(0.5, 0.0, 0.0), (20.0, 0.0, 0.0), (0.0, 1e-6, 0.0)])
def test_a_first_step_is_at_zero(hospitals: Hospitals, post: Path, beta: tuple[float, ...]) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    told = refused(hospitals, forged(hospitals, asked.path, post, beta=beta), post)
    assert "a first step is at beta 0" in told


@pytest.mark.parametrize("beta", [(20.0, 0.0, 0.0), (0.0, 0.0, 0.0), None])
def test_a_later_beta_must_follow_from_the_totals(
    hospitals: Hospitals, post: Path, beta: tuple[float, ...] | None
) -> None:
    _, second = begun(hospitals, post)
    chosen = beta or tuple(b + 1e-4 for b in read_request(second.path).document.beta)
    told = refused(hospitals, forged(hospitals, second.path, post, beta=chosen), post)
    assert "beta does not follow from the totals" in told
    assert site.answer(hospitals.workspace("siteA"), second.path, post).step == 1


# Other protocols over the same patients


def test_a_nested_protocol_gives_away_whom_it_leaves_out(hospitals: Hospitals, post: Path) -> None:
    """Plain: the difference of two sums is that of the patients whom the second protocol excludes."""
    whole = plain(rows_of(hospitals, "siteC"), plan_of(hospitals), 0.0, 0.0, 0.0)
    nested = plain(rows_of(hospitals, "siteC", "nested"), plan_of(hospitals, "nested"), 0.0, 0.0, 0.0)
    table = hospitals.cohort(["siteC"]).patients
    oldest = table[table["age"] > 78]
    assert 0 < len(oldest) < 10
    observed = [f"logrank.observed[{arm}]" for arm in ("unexposed", "exposed")]
    assert sum(whole[k] - nested[k] for k in observed) == oldest["is_event"].sum()
    assert whole["count[patients]"] - nested["count[patients]"] == len(oldest)

    begun(hospitals, post)
    asked = hub.init(hospitals.workspace("hub"), hospitals.study("hub", "nested"), THREE, post)
    assert "nobody at this site has approved this protocol" in refused(hospitals, asked.path, post)
    approve_everywhere(hospitals, THREE, "nested")
    told = refused(hospitals, asked.path, post, by="siteC")
    assert "too little is new at this site since refresh" in told
    assert "of study three_sites" in told
    # A person at the site may say that the two are apart, and only then they are.
    nested_there = hospitals.study("siteC", "nested")
    site.approve(hospitals.workspace("siteC"), nested_there, apart=True)
    assert site.answer(hospitals.workspace("siteC"), asked.path, post).study == "nested"


def test_another_analysis_of_the_same_protocol_waits_too(hospitals: Hospitals, post: Path) -> None:
    begun(hospitals, post)
    other = hub.init(hospitals.workspace("hub"), hospitals.study(), THREE, post, analysis=1)
    assert "too little is new" in refused(hospitals, other.path, post)


# Replay


def test_a_replayed_request_gets_the_same_answer_whatever_the_data_are_by_then(
    hospitals: Hospitals, post: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain: two answers to one request before and after a patient came are that patient."""
    rows, plan = rows_of(hospitals, "siteD"), plan_of(hospitals)
    night_before = without_patients(hospitals, "siteD", 1)
    gone = hospitals.cohort(["siteD"]).patients.iloc[-1]
    difference = {
        k: v - plain(night_before, plan, 0.0, 0.0, 0.0)[k]
        for k, v in plain(rows, plan, 0.0, 0.0, 0.0).items()
    }
    assert difference["count[patients]"] == 1
    assert (
        difference["logrank.observed[unexposed]"] + difference["logrank.observed[exposed]"] == gone.is_event
    )

    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    given = site.answer(hospitals.workspace("siteA"), asked.path, post)
    fewer(monkeypatch, hospitals, 20)
    other = tmp_path / "again"
    other.mkdir()
    again = site.answer(hospitals.workspace("siteA"), asked.path, other)
    assert again.is_repeat
    assert again.path.read_bytes() == given.path.read_bytes()
    told = refused(hospitals, forged(hospitals, asked.path, post, nonce="0" * 32), post)
    assert "this step was answered before, to another request" in told


def test_old_requests_and_requests_for_ever_are_refused(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    asked = first_request(hospitals, post, now=long_ago)
    assert "the request has expired" in refused(hospitals, asked.path, post)
    asked = first_request(hospitals, post, now=datetime.now(UTC) + timedelta(days=1))
    assert "the request is from the future" in refused(hospitals, asked.path, post)
    asked = first_request(hospitals, post)
    told = refused(hospitals, forged(hospitals, asked.path, post, expires_at="2099-01-01T00:00:00Z"), post)
    assert "valid for more than 60 days" in told
    told = refused(hospitals, forged(hospitals, asked.path, post, expires_at="2099-02-31T00:00:00Z"), post)
    assert "no date and time" in told


def test_a_step_of_another_refresh_does_not_follow(hospitals: Hospitals, post: Path, tmp_path: Path) -> None:
    for name in THREE:
        hospitals.settings(name, **NO_MINIMUM)
    _, second = begun(hospitals, post)
    (tmp_path / "other").mkdir()
    _, foreign = begun(hospitals, tmp_path / "other")
    before = read_request(foreign.path).document.before
    told = refused(hospitals, forged(hospitals, second.path, post, before=before), post)
    assert "does not follow the request that this site answered" in told
    told = refused(hospitals, forged(hospitals, second.path, post, step=2), post)
    assert "step 1 comes next at this site" in told


# Swapped keys


def test_with_keys_of_its_own_a_hub_would_take_the_masks_off(
    hospitals: Hospitals, post: Path, tmp_path: Path
) -> None:
    """The hub names its own key as that of sites B and C, and knows every mask of site A."""
    made = hospitals
    (tmp_path / "evil").mkdir()
    evil = [_new_identity(tmp_path / "evil" / n) for n in ("one", "two")]
    approve_everywhere(made, THREE)
    asked = first_request(made, post)
    honest = read_request(asked.path).document
    keys = (honest.sites[0], _keys("siteB", evil[0]), _keys("siteC", evil[1]))
    request = honest.model_copy(update={"sites": keys})

    victim, plan = read_identity(made.workspace("siteA")), plan_of(made)
    rows = rows_of(made, "siteA")
    values = site_sums(rows, plan, 0, request.beta)
    masked = site.masked_numbers(values, "siteA", victim, request)  # what an unguarded site would send
    recovered = np.array(masked, dtype=object)
    for name, identity in zip(("siteB", "siteC"), evil, strict=True):
        peer = {"siteA": honest.sites[0].public().agreement_key()}
        masks = pairwise_masks(name, identity.agreement, peer, binding=canonical(request), length=len(values))
        recovered = (recovered + np.array(masks, dtype=object)) % fixed_point.MODULUS
    assert [fixed_point.decode(int(n)) for n in recovered] == pytest.approx(values, abs=1e-15)

    told = refused(made, forged(made, asked.path, post, sites=keys), post)
    assert "other keys for site siteB than those pinned here" in told


def _new_identity(folder: Path) -> Identity:
    from rwe.config import init_workspace

    return make_identity(init_workspace(folder / "workspace", key_file=folder / "key"))


def _keys(name: str, identity: Identity) -> SiteKeys:
    public = identity.public
    return SiteKeys(name=name, ed25519=public.ed25519.hex(), x25519=public.x25519.hex())


def test_invented_sites_the_hub_itself_and_one_site_twice_are_refused(
    hospitals: Hospitals, post: Path, tmp_path: Path
) -> None:
    made = hospitals
    approve_everywhere(made, THREE)
    asked = first_request(made, post)
    a, b, c = read_request(asked.path).document.sites
    invented = _keys("siteX", _new_identity(tmp_path / "invented"))
    itself = _keys("siteX", read_identity(made.workspace("hub")))
    twice = c.model_copy(update={"x25519": b.x25519})
    for sites, sentence in (
        ((a, b, invented), "no key is pinned for site siteX"),
        ((a, b, itself), "the hub is one of the sites"),
        ((a, b, b.model_copy(update={"name": "siteC"})), "two sites of the request have one key"),
        ((a, b, twice), "two sites of the request have one key"),
        ((b, a, c), "not in order"),
        ((b, c, invented), "this site is not asked"),
    ):
        assert sentence in refused(made, forged(made, asked.path, post, sites=sites), post)


def test_a_request_of_another_hub_is_refused(hospitals: Hospitals, post: Path, tmp_path: Path) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    stranger = _new_identity(tmp_path / "stranger")
    path = post / "forged.json"
    write_document(sign_request(read_request(asked.path).document, stranger), path)
    assert "the signature is not that of the pinned key" in refused(hospitals, path, post)
    # A site's key does not sign requests, nor does a signature of an answer pass for one.
    write_document(
        sign_request(read_request(asked.path).document, read_identity(hospitals.workspace("siteB"))), path
    )
    assert "the signature is not that of the pinned key" in refused(hospitals, path, post)


# Lies about totals


def answer_file(post: Path, name: str) -> Path:
    return next(p for p in post.glob("answer-*.json") if read_answer(p).document.site == name)


def _changed(signed: SignedAnswer, **values: str) -> SignedAnswer:
    masked = {**signed.document.masked, **values}
    return signed.model_copy(update={"document": signed.document.model_copy(update={"masked": masked})})


def test_lies_about_the_totals_are_found(hospitals: Hospitals, post: Path) -> None:
    """With totals of its choice a hub would have a beta of its choice. But sites signed the answers."""
    made = hospitals
    _, second = begun(made, post)
    request = read_request(second.path).document
    assert request.before is not None
    a, b, c = request.before.answers
    lie = _changed(b, **{"score[exposed]": "0" * 32})
    own = sign_answer(lie.document, read_identity(made.workspace("hub")))
    of_another = b.model_copy(update={"document": b.document.model_copy(update={"request_sha256": "0" * 64})})
    resigned = sign_answer(of_another.document, read_identity(made.workspace("siteB")))
    mine = sign_answer(
        _changed(a, **{"score[exposed]": "0" * 32}).document, read_identity(made.workspace("siteA"))
    )
    for answers, sentence in (
        ((a, lie, c), "the signature is not that of the pinned key"),
        ((a, own, c), "the signature is not that of the pinned key"),
        ((a, resigned, c), "is to another request"),
        ((a, b), "one answer of each site"),
        ((a, b, b, c), "one answer of each site"),
        ((mine, b, c), "not the one it gave"),
    ):
        before = request.before.model_copy(update={"answers": answers})
        assert sentence in refused(made, forged(made, second.path, post, before=before), post)
    assert site.answer(made.workspace("siteA"), second.path, post).step == 1


def test_the_hub_believes_no_answer_that_its_site_did_not_sign(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    for name in THREE:
        site.answer(hospitals.workspace(name), asked.path, post)
    path = answer_file(post, "siteB")
    write_document(_changed(read_answer(path), **{"score[exposed]": "0" * 32}), path)
    with pytest.raises(SignatureError):
        hub.combine(hospitals.workspace("hub"), asked.refresh, post, post)


def test_sites_sets_and_modes_do_not_change_within_a_refresh(hospitals: Hospitals, post: Path) -> None:
    made = hospitals
    made.settings("siteA", plain_sums="allowed")
    _, second = begun(made, post)
    told = refused(made, forged(made, second.path, post, mode="plain"), post)
    assert "study, plan, mode or sites changed within the refresh" in told
    first = read_request(second.path).document.sites
    four = (*first, _keys("siteD", read_identity(made.workspace("siteD"))))
    told = refused(made, forged(made, second.path, post, sites=four), post)
    assert "study, plan, mode or sites changed within the refresh" in told


# A site left out, a night later


def total_at_zero(made: Hospitals, sites: tuple[str, ...], post: Path) -> dict[str, float]:
    """What a hub legitimately learns from one masked step: the totals."""
    asked = hub.init(made.workspace("hub"), made.study(), sites, post)
    given = [site.answer(made.workspace(name), asked.path, post).path for name in sites]
    plan = plan_of(made)
    totals = guards.total_of([read_answer(p) for p in given], plan, 0)
    return {name: fixed_point.decode(n) for name, n in totals.items()}


def test_two_masked_totals_that_differ_by_a_site_are_that_sites_sums(
    hospitals: Hospitals, post: Path
) -> None:
    """Masks do not help here: with the minimum set to 0, four sites less three are the fourth."""
    made = hospitals
    for name in FOUR:
        made.settings(name, **NO_MINIMUM)
    approve_everywhere(made, FOUR)
    four, three = total_at_zero(made, FOUR, post), total_at_zero(made, THREE, post)
    left = {k: four[k] - three[k] for k in four}
    found = risk_sets_from(left["score[exposed]"], left["information[exposed,exposed]"], patients=12)
    assert [deaths for deaths, _ in found] == [0]
    assert found[0][1] == pytest.approx(
        sorted(a / (a + b) for a, b in Truth(rows_of(made, "siteD")).risk_sets)
    )

    made.forget()
    approve_everywhere(made, FOUR)
    total_at_zero(made, FOUR, post)
    asked = first_request(made, post)
    for name in THREE:
        told = refused(made, asked.path, post, by=name)
        assert "too little is new at this site since refresh" in told
        assert "with another set of sites" in told


def without_patients(made: Hospitals, name: str, count: int) -> SiteRows:
    """The rows of a site before its last `count` patients came."""
    study = made.study(name)
    return site_rows(study, plan_of(made), _before(own_tables(made.workspace(name), study), count))


def _before(tables: StudyTables, count: int) -> StudyTables:
    kept = len(tables.survival) - count
    return replace(tables, survival=tables.survival.iloc[:kept], covariates=tables.covariates.iloc[:kept])


def fewer(monkeypatch: pytest.MonkeyPatch, made: Hospitals, count: int | dict[str, int]) -> None:
    """Until this is called again, sites have `count` patients fewer than landed."""

    def tables_at(workspace: Workspace, study: Study, progress: object = None) -> StudyTables:
        name = workspace.root.parent.name
        less = count if isinstance(count, int) else count.get(name, 0)
        return _before(own_tables(workspace, study), less)

    monkeypatch.setattr(site, "own_tables", tables_at)


def test_tonight_less_yesterday_is_one_patient_unless_enough_came(
    hospitals: Hospitals, post: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masked totals of two nights between which one patient came to one of three sites."""
    made = hospitals
    for name in THREE:
        made.settings(name, **NO_MINIMUM)
    approve_everywhere(made, THREE)
    came = hospitals.cohort(["siteB"]).patients.iloc[-1]
    fewer(monkeypatch, made, {"siteB": 1})
    yesterday = total_at_zero(made, THREE, post)
    fewer(monkeypatch, made, 0)
    tonight = total_at_zero(made, THREE, post)
    died = [f"logrank.observed[{arm}]" for arm in ("unexposed", "exposed")]
    assert sum(tonight[k] - yesterday[k] for k in died) == pytest.approx(float(came.is_event))

    made.forget()
    approve_everywhere(made, THREE)
    fewer(monkeypatch, made, {"siteA": 9, "siteB": 30, "siteC": 30})
    total_at_zero(made, THREE, post)
    fewer(monkeypatch, made, 0)
    asked = first_request(made, post)
    assert "10 patients and 5 events are needed" in refused(made, asked.path, post, by="siteA")
    for name in ("siteB", "siteC"):
        assert not site.answer(made.workspace(name), asked.path, post).is_repeat
    # Without site A's answer the hub has masked numbers that add up to nothing.
    with pytest.raises(PartialError, match="no answer of siteA yet"):
        hub.combine(made.workspace("hub"), asked.refresh, post, post)


@pytest.mark.parametrize(
    ("patients", "events", "is_answered"),
    [(110, 55, True), (109, 60, False), (120, 54, False), (90, 40, False), (100, 50, False)],
)
def test_both_minima_hold_against_every_earlier_refresh(
    hospitals: Hospitals, post: Path, patients: int, events: int, is_answered: bool
) -> None:
    begun(hospitals, post)
    workspace = hospitals.workspace("siteA")
    with site.held(workspace) as ledger:
        earlier = ledger.steps(ledger.refreshes()[0].refresh)[0]
        as_of_then = replace_struct(earlier, patients=100, events=50)
        ledger.entries = (as_of_then,)
        request = read_request(first_request(hospitals, post).path).document
        settings = workspace.settings.federation
        check = _checked(request, ledger, settings, patients, events)
        if is_answered:
            check()
        else:
            with pytest.raises(RefusedError):
                check()


def _checked(
    request: Request, ledger: object, settings: object, patients: int, events: int
) -> Callable[[], None]:
    return lambda: guards.check_enough_is_new(
        request,
        ledger,
        settings,
        patients=patients,
        events=events,
        apart=False,  # type: ignore[arg-type]
    )


def replace_struct(entry: object, **changes: object) -> object:
    import msgspec

    return msgspec.structs.replace(entry, **changes)  # type: ignore[type-var]


# Dropping out, data that change, ledgers that are lost


def test_a_site_that_drops_out_ends_the_refresh_and_counts(hospitals: Hospitals, post: Path) -> None:
    made = hospitals
    _, second = begun(made, post)
    for name in THREE[:2]:
        site.answer(made.workspace(name), second.path, post)
    with pytest.raises(PartialError, match=r"no answer of siteC yet.*ends as incomplete"):
        hub.combine(made.workspace("hub"), second.refresh, post, post)
    again = first_request(made, post)
    assert "too little is new" in refused(made, again.path, post)


def test_data_that_changed_within_a_refresh_end_it(
    hospitals: Hospitals, post: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = begun(hospitals, post)
    fewer(monkeypatch, hospitals, 1)
    monkeypatch.setattr(site, "_kept_tables", lambda workspace, study: [])
    told = refused(hospitals, second.path, post)
    assert "the data changed since the first step of this refresh" in told


def test_a_kept_build_carries_a_refresh_over_a_night(
    hospitals: Hospitals, post: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tonight's build has other patients; the build of the first step is still kept, and is taken."""
    _, second = begun(hospitals, post)
    fewer(monkeypatch, hospitals, 1)
    assert site.answer(hospitals.workspace("siteA"), second.path, post).step == 1


def test_without_its_ledger_a_site_does_not_answer(hospitals: Hospitals, post: Path) -> None:
    made = hospitals
    _, second = begun(made, post)
    path = made.folder("siteA") / "federate" / "site" / "ledger.ndjson"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(EvidenceError, match="ledger of federated answers cannot be read"):
        site.answer(made.workspace("siteA"), second.path, post)
    path.unlink()
    assert "nobody at this site has approved" in refused(made, second.path, post)


# Requests that are none


@pytest.mark.parametrize(
    "changes",
    [
        {"study": "../../etc/passwd"},
        {"study": "x'; drop table cohort.survival; --"},
        {"refresh": "../20261122T030000Z-0123456789abcdef"},
        {"step": -1},
        {"step": True},
        {"beta": ["0"]},
        {"beta": [float("nan"), 0.0, 0.0]},
        {"nonce": "short"},
        {"mode": "open"},
        {"code": "import os"},
        {"analysis": "0"},
        {"sites": []},
    ],
)
def test_a_request_is_strict_json(hospitals: Hospitals, post: Path, changes: dict[str, object]) -> None:
    import json

    asked = first_request(hospitals, post)
    content = json.loads(asked.path.read_text())
    content["document"] |= changes
    path = post / "forged.json"
    path.write_text(json.dumps(content))
    told = refused(hospitals, path, post)
    assert "it is no request of a hub that this rwe reads" in told
    assert "passwd" not in told
    assert "drop table" not in told


def test_a_protocol_that_is_not_here_or_another_version_is_refused(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    for changes, sentence in (
        ({"study": "unknown_here"}, "this workspace has no such study"),
        ({"protocol_sha256": "0" * 64}, "another version of the protocol"),
        ({"plan_sha256": "0" * 64}, "plan is not the one this site makes"),
        ({"analysis": 1}, "plan is not the one this site makes"),
        ({"analysis": 77}, "the protocol has no such analysis"),
        ({"landmark_day": 30}, "the analysis has no such landmark"),
        ({"beta": (0.0,)}, "plan is not the one this site makes"),
    ):
        assert sentence in refused(hospitals, forged(hospitals, asked.path, post, **changes), post)


def test_an_answer_with_other_numbers_is_not_added(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    for name in THREE:
        site.answer(hospitals.workspace(name), asked.path, post)
    path = answer_file(post, "siteB")
    document = read_answer(path).document
    short = document.model_copy(update={"masked": dict(list(document.masked.items())[1:])})
    write_document(sign_answer(short, read_identity(hospitals.workspace("siteB"))), path)
    with pytest.raises(UsageError, match="not the numbers that were asked for"):
        hub.combine(hospitals.workspace("hub"), asked.refresh, post, post)


def test_the_hub_waits_for_every_site_and_knows_its_own_refreshes_only(
    hospitals: Hospitals, post: Path
) -> None:
    asked = first_request(hospitals, post)
    with pytest.raises(PartialError, match="no answer of siteA, siteB, siteC yet"):
        hub.combine(hospitals.workspace("hub"), asked.refresh, post, post)
    with pytest.raises(UsageError, match="this hub began no such refresh"):
        hub.combine(hospitals.workspace("hub"), "../hub", post, post)
