"""Every other reason for which a site, or the hub, refuses; each attack itself is in test_attacks."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from rwe.analyse.read import StudyTables
from rwe.config import Workspace
from rwe.errors import EvidenceError, PartialError, UsageError
from rwe.federate import guards, hub, site
from rwe.federate.documents import (
    read_answer,
    read_request,
    sign_answer,
    sign_request,
    write_document,
)
from rwe.federate.guards import RefusedError
from rwe.federate.ledger import Headcount
from rwe.federate.site import own_tables
from rwe.identity import SignatureError, read_identity
from rwe.study import Study
from tests.federate.attacking import (
    answer_file,
    begun,
    changed,
    fewer,
    first_request,
    forged,
    keys_of,
    new_identity,
    refused,
)
from tests.federate.hospitals import NO_MINIMUM, THREE, Hospitals, approve_everywhere


def test_masked_sums_of_two_sites_are_refused_by_hub_and_site(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    with pytest.raises(UsageError, match="masked sums need 3 sites"):
        hub.init(hospitals.workspace("hub"), hospitals.study(), THREE[:2], post)
    asked = first_request(hospitals, post)
    two = read_request(asked.path).document.sites[:2]
    told = refused(hospitals, forged(hospitals, asked.path, post, sites=two), post)
    assert "masked sums need 3 sites" in told


def test_a_hub_that_is_also_a_site_would_know_one_of_three(hospitals: Hospitals, post: Path) -> None:
    with pytest.raises(UsageError, match="the hub cannot be one of the sites"):
        hub.init(hospitals.workspace("hub"), hospitals.study(), ["hub", *THREE[:2]], post)


def test_another_analysis_of_the_same_protocol_waits_too(hospitals: Hospitals, post: Path) -> None:
    begun(hospitals, post)
    other = hub.init(hospitals.workspace("hub"), hospitals.study(), THREE, post, analysis=1)
    assert "too little is new" in refused(hospitals, other.path, post)


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


def test_invented_sites_the_hub_itself_and_one_site_twice_are_refused(
    hospitals: Hospitals, post: Path, tmp_path: Path
) -> None:
    made = hospitals
    approve_everywhere(made, THREE)
    asked = first_request(made, post)
    a, b, c = read_request(asked.path).document.sites
    invented = keys_of("siteX", new_identity(tmp_path / "invented"))
    itself = keys_of("siteX", read_identity(made.workspace("hub")))
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
    stranger = new_identity(tmp_path / "stranger")
    path = post / "forged.json"
    write_document(sign_request(read_request(asked.path).document, stranger), path)
    assert "the signature is not that of the pinned key" in refused(hospitals, path, post)
    # A site's key does not sign requests, nor does a signature of an answer pass for one.
    write_document(
        sign_request(read_request(asked.path).document, read_identity(hospitals.workspace("siteB"))), path
    )
    assert "the signature is not that of the pinned key" in refused(hospitals, path, post)


def test_the_hub_believes_no_answer_that_its_site_did_not_sign(hospitals: Hospitals, post: Path) -> None:
    approve_everywhere(hospitals, THREE)
    asked = first_request(hospitals, post)
    for name in THREE:
        site.answer(hospitals.workspace(name), asked.path, post)
    path = answer_file(post, "siteB")
    write_document(changed(read_answer(path), **{"score[exposed]": "0" * 32}), path)
    with pytest.raises(SignatureError):
        hub.combine(hospitals.workspace("hub"), asked.refresh, post, post)


def test_sites_sets_and_modes_do_not_change_within_a_refresh(hospitals: Hospitals, post: Path) -> None:
    made = hospitals
    made.settings("siteA", plain_sums="allowed")
    _, second = begun(made, post)
    told = refused(made, forged(made, second.path, post, mode="plain"), post)
    assert "study, plan, mode or sites changed within the refresh" in told
    first = read_request(second.path).document.sites
    four = (*first, keys_of("siteD", read_identity(made.workspace("siteD"))))
    told = refused(made, forged(made, second.path, post, sites=four), post)
    assert "study, plan, mode or sites changed within the refresh" in told


ENOUGH = Headcount(80, 45)


@pytest.mark.parametrize(
    ("cohort", "model", "rows_kind", "is_answered"),
    [
        (Headcount(110, 55), ENOUGH, "landmark", True),
        (Headcount(109, 60), ENOUGH, "landmark", False),
        (Headcount(120, 54), ENOUGH, "landmark", False),
        (Headcount(90, 40), ENOUGH, "landmark", False),
        (Headcount(100, 50), ENOUGH, "landmark", False),
        # Ten are new in the cohort; nine of them left before the landmark, or lack a covariate.
        (Headcount(110, 55), Headcount(71, 45), "landmark", False),
        (Headcount(110, 55), Headcount(80, 44), "landmark", False),
        (Headcount(110, 55), Headcount(71, 41), "time_dependent", True),  # other rows altogether
    ],
)
def test_both_minima_hold_against_every_earlier_refresh(
    hospitals: Hospitals,
    post: Path,
    cohort: Headcount,
    model: Headcount,
    rows_kind: str,
    is_answered: bool,
) -> None:
    """At the earlier refresh there were 100 patients and 50 events, and 70 and 40 behind the landmark."""
    begun(hospitals, post)
    workspace = hospitals.workspace("siteA")
    request = read_request(first_request(hospitals, post).path).document
    with site.held(workspace) as ledger:
        earlier = ledger.refreshes()[0]
        noted = msgspec.structs.replace(
            earlier, patients=100, events=50, model="landmark", model_patients=70, model_events=40
        )
        ledger.entries = (noted,)
        with nullcontext() if is_answered else pytest.raises(RefusedError, match="too little is new"):
            guards.check_enough_is_new(
                request,
                ledger,
                workspace.settings.federation,
                cohort=cohort,
                model=model,
                rows_kind=rows_kind,
                apart=False,
            )


def test_ten_who_are_new_and_died_before_the_landmark_do_not_let_one_more_through(
    hospitals: Hospitals, post: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten deaths within 30 days and one more patient: the difference at day 90 would be that one's."""
    made, arrived = hospitals, 0

    def tonight(workspace: Workspace, study: Study, progress: object = None) -> StudyTables:
        tables = own_tables(workspace, study)
        early = tables.survival.iloc[:arrived].assign(
            patient_id=[f"new{n}" for n in range(arrived)], time_days=20, is_event=True, start_day=np.nan
        )
        return replace(
            tables,
            survival=pd.concat([tables.survival, early], ignore_index=True),
            covariates=pd.concat([tables.covariates, tables.covariates.iloc[:arrived]], ignore_index=True),
        )

    monkeypatch.setattr(site, "own_tables", tonight)
    approve_everywhere(made, THREE, "other_models")
    study = made.study("hub", "other_models")
    first = hub.init(made.workspace("hub"), study, THREE, post, analysis=2, landmark_day=90)
    site.answer(made.workspace("siteA"), first.path, post)
    arrived = 10
    again = hub.init(made.workspace("hub"), study, THREE, post, analysis=2, landmark_day=90)
    told = refused(made, again.path, post)
    assert "too little is new among the rows of the model at this site since refresh" in told


def test_an_entry_that_does_not_say_who_was_in_its_model_counts_with_its_cohort(
    hospitals: Hospitals, post: Path
) -> None:
    begun(hospitals, post)
    with site.held(hospitals.workspace("siteA")) as ledger:
        entry = ledger.refreshes()[0]
    old = msgspec.structs.replace(entry, model=None, model_patients=None, model_events=None)
    assert entry.model == "time_dependent"
    assert old.in_model == Headcount(entry.patients, entry.events) == entry.cohort


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
