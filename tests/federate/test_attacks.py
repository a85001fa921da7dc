"""What a hub could find out, and what stops it.

Each attack first recovers a site's small cells from plain sums, so that nobody takes the guards for
decoration; then it meets them, and is refused or gets totals of three sites and nothing else. The twelve
patients of site D (five deaths, none on maintenance) are the prey.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from rwe.errors import PartialError
from rwe.federate import fixed_point, hub, site
from rwe.federate.documents import (
    canonical,
    read_request,
    sign_answer,
)
from rwe.federate.masks import pairwise_masks
from rwe.federate.sums import site_sums
from rwe.identity import read_identity
from tests.federate.attacking import (
    UNADJUSTED,
    Truth,
    begun,
    changed,
    fewer,
    first_request,
    forged,
    keys_of,
    new_identity,
    plain,
    plan_of,
    refused,
    risk_sets_from,
    rows_of,
    total_at_zero,
    without_patients,
)
from tests.federate.hospitals import FOUR, NO_MINIMUM, THREE, Hospitals, approve_everywhere


def test_one_plain_answer_gives_back_every_risk_set(hospitals: Hospitals) -> None:
    """Score and information at 0 of the twelve: of two million combinations of risk sets one fits."""
    sums = plain(rows_of(hospitals, "siteD"), plan_of(hospitals), 0.0, 0.0, 0.0)
    found = risk_sets_from(sums["score[exposed]"], sums["information[exposed,exposed]"], patients=12)
    truth = Truth(rows_of(hospitals, "siteD"))
    assert truth.deaths_on_maintenance == 0
    shares = sorted(a / (a + b) for a, b in truth.risk_sets)
    assert found == [(0, pytest.approx(shares))]


def test_plain_sums_do_not_leave_a_site_that_did_not_say_so(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, FOUR)
    asked = hub.init(hospitals.workspace("hub"), hospitals.study(), ["siteD"], post, mode="plain")
    assert "plain sums, which give small cells away" in refused(hospitals, asked.path, post, by="siteD")


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


def test_with_keys_of_its_own_a_hub_would_take_the_masks_off(
    hospitals: Hospitals, post: Path, tmp_path: Path
) -> None:
    """The hub names its own key as that of sites B and C, and knows every mask of site A."""
    made = hospitals
    (tmp_path / "evil").mkdir()
    evil = [new_identity(tmp_path / "evil" / n) for n in ("one", "two")]
    approve_everywhere(made, THREE)
    asked = first_request(made, post)
    honest = read_request(asked.path).document
    keys = (honest.sites[0], keys_of("siteB", evil[0]), keys_of("siteC", evil[1]))
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


def test_lies_about_the_totals_are_found(hospitals: Hospitals, post: Path) -> None:
    """With totals of its choice a hub would have a beta of its choice. But sites signed the answers."""
    made = hospitals
    _, second = begun(made, post)
    request = read_request(second.path).document
    assert request.before is not None
    a, b, c = request.before.answers
    lie = changed(b, **{"score[exposed]": "0" * 32})
    own = sign_answer(lie.document, read_identity(made.workspace("hub")))
    of_another = b.model_copy(update={"document": b.document.model_copy(update={"request_sha256": "0" * 64})})
    resigned = sign_answer(of_another.document, read_identity(made.workspace("siteB")))
    mine = sign_answer(
        changed(a, **{"score[exposed]": "0" * 32}).document, read_identity(made.workspace("siteA"))
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
