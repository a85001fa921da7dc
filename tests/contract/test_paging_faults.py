"""Pages that expire or come twice, and reads that say nothing: no fact is lost or buried by them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from rwe.config import Site, Workspace, init_workspace
from rwe.errors import SiteError
from rwe.extract import PartlyLandedError, extract_site
from rwe.fhir.client import FhirClient
from rwe.fhir.read import read
from rwe.landing import DELETED, Run
from rwe.sandbox.hospital import HospitalSpec
from rwe.sandbox.options import Quirks
from rwe.sandbox.server import running_hospitals
from tests.contract.nights import lake_rows, the_study, with_site
from tests.contract.nights import workspace_for as sandbox_workspace
from tests.contract.quirky import Hospital, expected_to_land, write_study
from tests.contract.wire import answers, client_for


@dataclass
class Moody(Hospital):
    """Spoils answers: `spoil` gets the request, the true answer, and how often the same was asked before."""

    spoil: Callable[[Request, Response, int], Response] = lambda _, response, __: response
    times: Counter[str] = field(default_factory=Counter)

    def answer(self, request: Request) -> Response:
        response = super().answer(request)
        key = f"{request.full_path}{sorted(request.form.items())}"
        self.times[key] += 1
        return self.spoil(request, response, self.times[key] - 1)


def workspace(tmp_path: Path, url: str, **fields: object) -> Workspace:
    made = init_workspace(tmp_path / "ws", tmp_path / "key")
    settings = {"base_url": url, "allow_plain_http": "loopback only", "max_retries": 0, "page_size": 2}
    site = Site.model_validate({**settings, "patients_per_request": 4, **fields})
    return Workspace(made.root, made.settings.model_copy(update={"sites": {"a": site}}))


def landed(run: Run) -> set[tuple[str, str]]:
    lines = [json.loads(x) for t in run.types for x in run.open(t)]
    return {(x["resourceType"], x["id"]) for x in lines}


def is_next(request: Request) -> bool:
    return "_from" in request.args


def test_a_next_link_that_expired_is_begun_again(tmp_path: Path, httpserver: HTTPServer) -> None:
    def once(request: Request, response: Response, times: int) -> Response:
        return Response(status=410) if is_next(request) and times == 0 else response

    url = Moody(spoil=once).serve(httpserver)
    result = extract_site(workspace(tmp_path, url, page_size=4), "a", [write_study(tmp_path / "s")])
    assert landed(result.run) == expected_to_land()


def test_a_page_served_in_place_of_the_next_one_is_noticed(tmp_path: Path, httpserver: HTTPServer) -> None:
    """The answer to the first next link is, once, the page before: its link leads back."""
    moody = Moody()

    def replay(request: Request, response: Response, times: int) -> Response:
        size, start = int(request.args.get("_count", 0)), int(request.args.get("_from", 0))
        if times or not size or start != size:
            return response
        before = {**request.args.to_dict(), "_from": str(start - size)}
        return moody._search(request, request.path.rpartition("/")[2], before)

    moody.spoil = replay
    url = moody.serve(httpserver)
    result = extract_site(workspace(tmp_path, url), "a", [write_study(tmp_path / "s")])
    assert landed(result.run) == expected_to_land()


def test_where_long_searches_never_come_through_shorter_ones_do(tmp_path: Path) -> None:
    """Every next link is dead at once: what fits on one page still comes, patients in halves if need be."""
    spec = HospitalSpec("north", "a", patients=8, seed=3)
    study = the_study(tmp_path / "studies")
    with running_hospitals([spec]) as [well]:
        calm = sandbox_workspace(tmp_path / "calm", well)
        extract_site(calm, "north", [study])
    with running_hospitals([HospitalSpec("north", "a", 8, 3, quirks=Quirks(page_seconds=1e-6))]) as [ill]:
        hasty = sandbox_workspace(tmp_path / "hasty", ill, patients_per_request=8, page_size=40)
        result = extract_site(hasty, "north", [study])
        assert "410" in result.run.manifest.requests["Observation"]
        assert lake_rows(hasty) == lake_rows(calm)
        tight = with_site(hasty, ill, patients_per_request=8, page_size=10)
        shutil.rmtree(tight.landing)
        with pytest.raises((PartlyLandedError, SiteError), match="gave a page and no more the next one"):
            extract_site(tight, "north", [study])


SPOILT = {
    "a web page": b"<html>maintenance</html>",
    "half a body": b'{"resourceType": "Encounter", "id": "r1',
    "an OperationOutcome": b'{"resourceType": "OperationOutcome", "issue": []}',
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_read_that_says_nothing_is_asked_again_and_proves_nothing(
    httpserver: HTTPServer, what: str
) -> None:
    good = b'{"resourceType": "Encounter", "id": "r1-0-0"}'
    answers(httpserver, SPOILT[what], SPOILT[what], good)
    found = read(client_for(httpserver, max_retries=0), "Encounter", "r1-0-0")
    assert found is not None
    assert found.raw == good
    httpserver.clear()
    seen = answers(httpserver, SPOILT[what])
    with pytest.raises(SiteError):
        read(client_for(httpserver, max_retries=0), "Encounter", "r1-0-0")
    assert len(seen) == 3


@pytest.mark.parametrize("status", [404, 410])
def test_a_read_of_what_is_gone_says_so_at_once(httpserver: HTTPServer, status: int) -> None:
    seen = answers(httpserver, Response(status=status))
    client: FhirClient = client_for(httpserver)
    assert read(client, "Encounter", "r1-0-0") is None
    assert len(seen) == 1


@pytest.mark.parametrize("what", SPOILT)
def test_a_proxy_in_between_makes_no_patient_disappear(
    tmp_path: Path, httpserver: HTTPServer, what: str
) -> None:
    """Second night: the search misses Encounters, and reads of them are answered by somebody else."""
    study = write_study(tmp_path / "s")
    moody = Moody()
    url = moody.serve(httpserver)
    ws = workspace(tmp_path, url, page_size=50)
    extract_site(ws, "a", [study])
    moody.content = [r for r in moody.content if r["resourceType"] != "Encounter"]

    def spoilt(request: Request, response: Response, _: int) -> Response:
        is_read = (
            request.path.count("/") == 3 and "Encounter/" in request.path and response.status_code == 404
        )
        return Response(SPOILT[what]) if is_read else response

    moody.spoil = spoilt
    with pytest.raises(PartlyLandedError) as caught:
        extract_site(ws, "a", [study])
    assert list(caught.value.result.run.open(DELETED)) == []
    assert not caught.value.result.run.manifest.scopes["Encounter"].is_complete
    moody.spoil = lambda _, response, __: response
    night = extract_site(ws, "a", [study])
    assert len(list(night.run.open(DELETED))) == 4 * 3
