"""A run that is limited: in time, to some types, back to an instant. The next night loses nothing by it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rwe.config import Site
from rwe.deploying.transient import is_transient
from rwe.errors import LandingError, SiteError, UsageError
from rwe.extract import PartlyLandedError, extract_site
from rwe.fhir.budget import RequestBudget, TimeBudgetError
from rwe.fhir.failures import BrokenAnswerError, NoAnswerError, RefusedError
from rwe.harvest import Harvest
from rwe.run_limits import Limits
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import RunningHospital, running_hospitals
from rwe.study import Study
from rwe.watermarks import REFERRING_TO_MEDICATIONS, watermarks
from tests.contract.nights import differences, lake_rows, the_study, workspace_for

SPEC = HospitalSpec("north", "a", patients=10, seed=3, quirks=Quirks(latency_seconds=0.03))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return the_study(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def hospital() -> Iterator[RunningHospital]:
    with running_hospitals([SPEC]) as [north]:
        yield north


def test_after_the_time_budget_no_request_starts() -> None:
    until = datetime(2026, 7, 10, 6, 0, tzinfo=UTC)
    now = until - timedelta(seconds=1)
    budget = RequestBudget("clinic", Site(), now=lambda: now, until=until)
    budget.turn()
    now = until
    with pytest.raises(TimeBudgetError, match="the time budget of this run is used up"):
        budget.turn()


def test_what_is_complete_when_the_time_is_up_is_kept_and_the_next_night_gets_the_rest(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    slow = {"max_concurrency": 1, "page_size": 20, "patients_per_request": 3}
    seconds, whole, reasons = 1.5, set[str](), tuple[str, ...]()
    for attempt in range(8):  # how far a night comes in a time depends on the machine
        workspace = workspace_for(tmp_path / f"ws{attempt}", hospital, **slow)
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        try:
            extract_site(workspace, "north", [study], limits=Limits(until=until))
            seconds *= 0.6
        except PartlyLandedError as e:
            reasons = e.errors
            whole = {t for t, s in e.result.run.manifest.scopes.items() if s.is_complete}
            break
        except TimeBudgetError:  # before the first type was there
            seconds *= 1.5
    assert "the time budget of this run is used up" in " ".join(reasons)
    assert "Patient" in whole
    assert len(whole) < 8, "the time was up before all was there"
    # The next night goes on from here for these alone; and not for what refers to Medications without them.
    goes_on = whole if "Medication" in whole else whole - REFERRING_TO_MEDICATIONS
    assert {w.resource_type for w in watermarks(workspace.landing)} == goes_on
    extract_site(workspace, "north", [study])
    fresh = workspace_for(tmp_path / "fresh", hospital)
    extract_site(fresh, "north", [study])
    assert differences(lake_rows(workspace), lake_rows(fresh)) == {}


def test_medications_that_did_not_come_come_the_next_night(
    tmp_path: Path, hospital: RunningHospital, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next night lands no MedicationAdministration that it has already, so it would not know of them."""

    def no_answer(*_: object) -> None:
        raise NoAnswerError("no answer from the server", where="site north, Medication")

    workspace = workspace_for(tmp_path / "ws", hospital)
    with monkeypatch.context() as patch:
        patch.setattr(Harvest, "pull_medications", no_answer)
        with pytest.raises(PartlyLandedError, match="Medication: no answer"):
            extract_site(workspace, "north", [study])
    assert extract_site(workspace, "north", [study]).resources["Medication"] > 0
    fresh = workspace_for(tmp_path / "fresh", hospital)
    extract_site(fresh, "north", [study])
    assert differences(lake_rows(workspace), lake_rows(fresh)) == {}
    assert extract_site(workspace, "north", [study]).resources.get("MedicationAdministration", 0) < 20


def test_a_time_that_is_over_lands_nothing_and_is_no_reason_to_try_again(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    with pytest.raises(TimeBudgetError) as caught:
        extract_site(workspace, "north", [study], limits=Limits(until=datetime.now(UTC)))
    assert not is_transient(caught.value)
    assert not list(workspace.landing.glob("site=*/run=*"))


def test_a_backfill_lands_the_named_types_again_and_moves_no_watermark_of_others(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    first = extract_site(workspace, "north", [study])
    quiet = extract_site(workspace, "north", [study])
    assert quiet.resources.get("Condition", 0) < first.resources["Condition"]
    before = {w.resource_type: w for w in watermarks(workspace.landing)}
    long_ago = Limits(types=frozenset({"Condition"}), since=datetime(2000, 1, 1, tzinfo=UTC))
    again = extract_site(workspace, "north", [study], limits=long_ago)
    assert again.run.manifest.limited_to == ("Condition",)
    assert again.resources["Condition"] == first.resources["Condition"]
    assert again.resources.keys() <= {"Condition", "Patient"}
    after = {w.resource_type: w for w in watermarks(workspace.landing)}
    moved = {t for t in before if after[t].run != before[t].run}
    assert moved <= {"Condition", "Patient"}
    # And a since that lies ahead of the watermark leaves no gap: it is asked from the watermark on.
    ahead = Limits(types=frozenset({"Condition"}), since=datetime(2100, 1, 1, tzinfo=UTC))
    scope = extract_site(workspace, "north", [study], limits=ahead).run.manifest.scopes["Condition"]
    assert scope.since is not None
    assert datetime.fromisoformat(scope.since) < datetime.now(UTC)


def test_a_type_that_is_never_landed_is_refused_before_anything_is_asked(
    tmp_path: Path, hospital: RunningHospital, study: Study
) -> None:
    workspace = workspace_for(tmp_path / "ws", hospital)
    with pytest.raises(UsageError, match="not among the types that are landed: Binary"):
        extract_site(workspace, "north", [study], limits=Limits(types=frozenset({"Binary"})))
    assert not workspace.landing.exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoAnswerError("no answer"), True),
        (BrokenAnswerError("broke off"), True),
        (RefusedError("busy", status=429, where="", advice=None), True),
        (RefusedError("down", status=503, where="", advice=None), True),
        (RefusedError("does not know it", status=501, where="", advice=None), False),
        (RefusedError("login", status=401, where="", advice=None), False),
        (RefusedError("bad request", status=400, where="", advice=None), False),
        (SiteError("no trusted TLS connection to the server"), False),
        (LandingError("the run could not be written to disk"), False),
        (None, False),
    ],
)
def test_only_what_may_be_over_in_minutes_is_tried_again(error: object, expected: bool) -> None:
    assert is_transient(error) is expected
