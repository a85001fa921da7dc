"""Each misconfiguration ends `rwe extract` in one sentence and its exit status, with nothing landed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from rwe.config import init_workspace, open_workspace
from rwe.extraction_plan import plan_extraction, types_to_read
from rwe.sandbox.options import Access
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from rwe.study import load_studies
from tests.contract.quirky import Hospital, write_study
from tests.contract.sandbox_client import EC_KEY, jwk_set
from tests.contract.test_site_check import Cli

STUDIES = Path(__file__).parents[2] / "studies"
#: What the bundled study reads.
READ = (
    "Patient", "Encounter", "Condition", "Procedure", "MedicationAdministration", "MedicationRequest",
    "MedicationDispense", "MedicationStatement", "Medication", "Observation",
)  # fmt: skip


def scopes(*types: str, letters: str = "read") -> tuple[str, ...]:
    return tuple(f"system/{t}.{letters}" for t in types)


@pytest.fixture(scope="module")
def hospitals() -> Iterator[dict[str, RunningHospital]]:
    """One that grants everything at once, one that does type by type, and one that keeps two types back."""
    granted = {
        "wide": ("system/*.read",),
        "by_type": (*scopes(*READ[:5]), *scopes(*READ[5:], letters="rs")),
        "narrow": scopes(*(t for t in READ if t not in {"Condition", "Medication"})),
    }
    keys = jwk_set(ec=EC_KEY)
    specs = [
        HospitalSpec(name, "a", patients=4, seed=5, access=Access(mode="smart", jwks=keys, scopes=some))
        for name, some in granted.items()
    ]
    with running_hospitals(specs) as running:
        yield {h.name: h for h in running}


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A workspace with the bundled study."""
    root = init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key").root
    shutil.rmtree(root / "studies")
    shutil.copytree(STUDIES, root / "studies")
    return Cli(root, capsys)


def landed(cli: Cli) -> int:
    return len(list((cli.root / "landing").glob("site=*/run=*/manifest.json")))


AUTH: dict[str, tuple[Callable[[Cli], dict[str, Any]], int, str]] = {
    "unknown auth": (lambda _: {"kind": "oauth3"}, 2, "kind is none of none, smart, bearer, basic"),
    "missing key file": (
        lambda c: c.smart(key_file="/no/such/key.pem"),
        2,
        "/no/such/key.pem cannot be read",
    ),
    "wrong audience": (
        lambda c: c.smart(audience="https://wrong.example.org"),
        1,
        "check client_id, kid and audience",
    ),
    "scope refused": (
        lambda c: c.smart(scopes=["system/*.read", "system/*.write"]),
        1,
        "does not grant the scope system/*.write; ask the hospital to grant it",
    ),
    "no scope granted": (
        lambda c: c.smart(scopes=["system/*.write"]),
        1,
        "does not grant the scope system/*.write (invalid_scope)",
    ),
}


@pytest.mark.parametrize("what", AUTH)
def test_a_wrong_login(cli: Cli, hospitals: dict[str, RunningHospital], what: str) -> None:
    make, status, told = AUTH[what]
    cli.declare(base_url=hospitals["wide"].base_url, auth=make(cli))
    code, _, err = cli.run("extract")
    assert (code, landed(cli)) == (status, 0)
    assert told in err
    assert err.count("clinic") == 1
    assert "Traceback" not in err


def test_the_types_of_the_bundled_study(cli: Cli) -> None:
    workspace = open_workspace(cli.root)
    cli.declare(base_url="https://fhir.example.org")
    site = open_workspace(cli.root).site("clinic")
    assert set(types_to_read(plan_extraction(load_studies(workspace.studies)), site)) == set(READ)


def test_scopes_granted_type_by_type_are_enough(cli: Cli, hospitals: dict[str, RunningHospital]) -> None:
    cli.declare(base_url=hospitals["by_type"].base_url, auth=cli.smart())
    assert cli.run("sites", "check")[0] == 0
    assert cli.run("extract")[0] == 0
    assert landed(cli) == 1


@pytest.mark.parametrize("command", [["extract"], ["extract", "--dry-run"]])
def test_a_type_that_is_read_and_not_granted_is_named(
    cli: Cli, hospitals: dict[str, RunningHospital], command: list[str]
) -> None:
    cli.declare(base_url=hospitals["narrow"].base_url, auth=cli.smart())
    code, _, err = cli.run(*command)
    assert (code, landed(cli)) == (1, 0)
    assert "does not grant the scope system/Condition.read, system/Medication.read; ask the hospital" in err


def test_the_check_names_the_type_that_is_not_granted(
    cli: Cli, hospitals: dict[str, RunningHospital]
) -> None:
    code, report = cli.check(base_url=hospitals["narrow"].base_url, auth=cli.smart())
    told = [f["text"] for f in report["findings"] if f["subject"] == "scopes"]
    assert code == 1
    assert told == [
        "SMART: the server does not grant the scope system/Condition.read, system/Medication.read"
    ]


def test_a_server_without_the_types_of_the_index_event(cli: Cli, httpserver: HTTPServer) -> None:
    cli.declare(base_url=Hospital(types=("Patient", "Condition")).serve(httpserver))
    code, _, err = cli.run("extract")
    assert (code, landed(cli)) == (1, 0)
    assert "the server offers no type that could carry an index event" in err
    assert "check base_url, and index_event.sources of the studies" in err


def test_a_server_without_another_type_is_read_without_it(cli: Cli, httpserver: HTTPServer) -> None:
    shutil.rmtree(cli.root / "studies")
    write_study(cli.root / "studies")
    offered = ("Patient", "Encounter", "Condition", "Procedure", "MedicationAdministration", "Observation")
    cli.declare(base_url=Hospital(types=offered).serve(httpserver))
    code, out, err = cli.run("extract")
    assert (code, landed(cli)) == (0, 1)
    assert "MedicationStatement: the server does not list this type, so it was not asked for" in out + err


def test_a_server_without_patients(cli: Cli, httpserver: HTTPServer) -> None:
    shutil.rmtree(cli.root / "studies")
    write_study(cli.root / "studies")
    cli.declare(base_url=Hospital(types=("Procedure", "MedicationAdministration")).serve(httpserver))
    code, _, err = cli.run("extract")
    assert (code, landed(cli)) == (1, 0)
    assert "Patient: the server does not list this type" in err


def test_an_empty_code_list(cli: Cli, hospitals: dict[str, RunningHospital]) -> None:
    path = cli.root / "studies" / "codelists" / "car_t_infusion.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    cli.declare(base_url=hospitals["wide"].base_url, auth=cli.smart())
    before = len(hospitals["wide"].control.requests())
    code, _, err = cli.run("extract")
    assert (code, landed(cli)) == (2, 0)
    assert "car_t_infusion.csv: the code list has no code; add at least one line" in err
    assert len(hospitals["wide"].control.requests()) == before
