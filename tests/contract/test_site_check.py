"""`rwe sites check`: what a server can do, whether we may in, which way is taken; misconfigurations told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Response

from rwe.cli import main
from rwe.config import Site, init_workspace
from rwe.fhir.capability import Capability, read_capability
from rwe.fhir.client import FhirClient
from rwe.sandbox.options import COHORT_GROUP, Access, Bulk, Quirks
from rwe.sandbox.server import HospitalSpec, RunningHospital, running_hospitals
from rwe.site_check import choose_route
from tests.contract.sandbox_client import EC_KEY, RSA_KEY, jwk_set
from tests.unit.test_smart import pem, public_pem, write_key


@dataclass(frozen=True)
class Hospitals:
    smart: RunningHospital
    plain: RunningHospital
    mute: RunningHospital


@pytest.fixture(scope="module")
def hospitals() -> Iterator[Hospitals]:
    """One with SMART and every export, one open with search only, one that cannot search by code."""
    access = Access(mode="smart", jwks=jwk_set(ec=EC_KEY, rsa=RSA_KEY))
    quirks = Quirks(
        code_refused=("MedicationAdministration", "Procedure", "MedicationRequest", "MedicationDispense"),
        no_last_updated=("MedicationAdministration",),
        no_post=True,
        no_history=True,
    )
    specs = [
        HospitalSpec("smart", "a", patients=5, seed=5, access=access, bulk=Bulk()),
        HospitalSpec("plain", "b", patients=5, seed=5),
        HospitalSpec("mute", "a", patients=5, seed=5, quirks=quirks, bulk=Bulk(levels=("patient",))),
    ]
    with running_hospitals(specs) as running:
        yield Hospitals(*running)


@dataclass(frozen=True)
class Cli:
    """A workspace with one site, and the command line on it."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    def declare(self, **fields: Any) -> None:
        text = (self.root / "rwe.yaml").read_text().partition("\nsites:")[0]
        site = {"allow_plain_http": "loopback only", "max_retries": 0, "timeout_seconds": 5, **fields}
        (self.root / "rwe.yaml").write_text(text + "\n" + yaml.safe_dump({"sites": {"clinic": site}}))

    def run(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["-w", str(self.root), *words])
        shown = self.capsys.readouterr()
        return int(ended.value.code or 0), shown.out, " ".join(shown.err.split())

    def check(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        self.declare(**fields)
        code, out, _ = self.run("sites", "check", "--json")
        return code, json.loads(out)[0]

    def key(self, key: Any = EC_KEY, name: str = "key.pem") -> str:
        return str(write_key(self.root.parent / name, pem(key)))

    def smart(self, **more: Any) -> dict[str, Any]:
        base = {"kind": "smart", "client_id": "rwe-client", "kid": "ec"}
        return {**base, **({} if "key_file" in more else {"key_file": self.key()}), **more}


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(init_workspace(tmp_path / "ws", key_file=tmp_path / "ws.key").root, capsys)


def failures(report: dict[str, Any]) -> str:
    return " ".join(
        f"{f['subject']}: {f['text']}; {f['advice']}" for f in report["findings"] if f["grade"] == "failed"
    )


def test_a_server_with_everything_is_ready(cli: Cli, hospitals: Hospitals) -> None:
    code, report = cli.check(base_url=hospitals.smart.base_url, auth=cli.smart())
    assert (code, report["is_ok"]) == (0, True)
    assert report["fhir_version"] == "4.0.1"
    assert report["offers_smart"] is True
    assert report["takes_post"] is True
    assert report["export_levels"] == ["system", "patient", "group"]
    assert report["route"]["route"] == "search"
    assert "only the cohort's records" in report["route"]["reasons"][0]
    assert all(t["is_readable"] and t["by_last_updated"] and t["history"] for t in report["types"])


def test_the_check_reads_nobodys_record(cli: Cli, hospitals: Hospitals) -> None:
    before = len(hospitals.smart.control.requests())
    cli.check(base_url=hospitals.smart.base_url, auth=cli.smart())
    asked = hospitals.smart.control.requests()[before:]
    searches = [s for s in asked if s.method == "GET" and s.path.rpartition("/")[2][:1].isupper()]
    assert len(searches) == 9 + 4
    assert all("rwe-check-nobody" in s.query or "nothing" in s.query for s in searches)


def test_what_is_missing_at_a_poor_server_is_shown_and_the_way_follows(
    cli: Cli, hospitals: Hospitals
) -> None:
    code, report = cli.check(base_url=hospitals.mute.base_url)
    assert report["takes_post"] is False
    assert report["offers_smart"] is False
    assert report["export_levels"] == ["patient"]
    by_name = {t["name"]: t for t in report["types"]}
    assert not any(t["history"] for t in report["types"])
    assert not by_name["MedicationAdministration"]["by_last_updated"]
    assert by_name["Observation"]["by_last_updated"]
    assert not by_name["MedicationAdministration"]["by_code"]
    assert (report["route"]["route"], report["route"]["level"]) == ("export", "patient")
    assert code == 0
    code, report = cli.check(base_url=hospitals.mute.base_url, route="search")
    assert code == 1
    assert "index events cannot be searched by code; name the cohort" in failures(report)


def test_the_page_for_people_fits_80_columns(cli: Cli, hospitals: Hospitals) -> None:
    cli.declare(base_url=hospitals.smart.base_url, auth=cli.smart(scopes=["system/*.write"]))
    command = [
        sys.executable,
        "-c",
        "from rwe.cli import main; main()",
        "-w",
        str(cli.root),
        "sites",
        "check",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "failed" in done.stdout
    assert "not ready: clinic" in done.stderr


def test_a_site_without_the_login_it_needs(cli: Cli, hospitals: Hospitals) -> None:
    code, report = cli.check(base_url=hospitals.smart.base_url)
    assert code == 1
    assert "status 401; the server wants a login: set auth" in failures(report)


def test_a_scope_that_is_too_narrow_shows_which_type(cli: Cli, hospitals: Hospitals) -> None:
    scopes = ["system/Patient.read", "system/Encounter.rs"]
    code, report = cli.check(base_url=hospitals.smart.base_url, auth=cli.smart(scopes=scopes))
    assert code == 1
    assert "Observation: may not be read (status 403)" in failures(report)
    assert "Encounter:" not in failures(report)


def test_a_group_that_is_not_there(cli: Cli, hospitals: Hospitals) -> None:
    site = {"base_url": hospitals.smart.base_url, "auth": cli.smart()}
    code, report = cli.check(**site, cohort={"source": "group", "id": "no-such-group"})
    assert code == 1
    assert "the server has no Group of this id" in failures(report)
    code, report = cli.check(**site, cohort={"source": "group", "id": COHORT_GROUP})
    assert code == 0
    assert (report["route"]["route"], report["route"]["level"]) == ("export", "group")


def test_consent_cannot_be_required_of_a_server_without_it(cli: Cli, hospitals: Hospitals) -> None:
    code, report = cli.check(base_url=hospitals.plain.base_url, consent="required")
    assert (code, "Consent: consent is required" in failures(report)) == (1, True)


def test_an_export_is_demanded_where_none_is(cli: Cli, hospitals: Hospitals) -> None:
    code, report = cli.check(base_url=hospitals.plain.base_url, route="export")
    assert code == 1
    assert "$export: not declared at the level patient; ask the hospital to enable Bulk Data" in failures(
        report
    )


def test_several_sites_are_all_looked_at(cli: Cli, hospitals: Hospitals) -> None:
    cli.declare(base_url=hospitals.plain.base_url)
    path = cli.root / "rwe.yaml"
    path.write_text(
        path.read_text() + "  away:\n    base_url: http://127.0.0.1:9\n    allow_plain_http: loopback only\n"
    )
    code, out, err = cli.run("sites", "check", "--json")
    assert {r["site"]: r["is_ok"] for r in json.loads(out)} == {"clinic": True, "away": False}
    assert code == 1
    assert "not ready: away" in err


# Each misconfiguration has its sentence

AUTH: dict[str, tuple[Callable[[Cli], dict[str, Any]], str]] = {
    "missing key file": (lambda c: c.smart(key_file="/no/such/key.pem"), "/no/such/key.pem cannot be read"),
    "public key": (
        lambda c: c.smart(key_file=str(write_key(c.root.parent / "pub", public_pem(EC_KEY)))),
        "auth.key_file: it is a public key or certificate; name the private key",
    ),
    "no key": (
        lambda c: c.smart(key_file=str(write_key(c.root.parent / "pub", "hunter2"))),
        "no private key in PEM or JWK form",
    ),
    "unset variable": (
        lambda c: {"kind": "bearer", "token_env": "RWE_TEST_NO_SUCH_TOKEN"},
        "the variable RWE_TEST_NO_SUCH_TOKEN of the environment is not set",
    ),
    "missing password": (
        lambda c: {"kind": "basic", "user": "u", "password_file": "no-such"},
        "no-such cannot be read",
    ),
    "wrong audience": (
        lambda c: c.smart(audience="https://wrong.example.org"),
        "client_id, kid and audience",
    ),
    "unknown kid": (lambda c: c.smart(kid="nobody"), "register the keys of `rwe sites jwks`"),
    "scope refused": (
        lambda c: c.smart(scopes=["system/*.read", "system/*.write"]),
        "the server does not grant the scope system/*.write; ask the hospital to grant it",
    ),
    "foreign token endpoint": (
        lambda c: c.smart(token_url="https://tokens.example.org/token"),
        "list the https origin in token_origins (it is https://tokens.example.org)",
    ),
}


@pytest.mark.parametrize("what", AUTH)
def test_a_wrong_login_is_told_with_what_to_do(cli: Cli, hospitals: Hospitals, what: str) -> None:
    make, told = AUTH[what]
    code, report = cli.check(base_url=hospitals.smart.base_url, auth=make(cli))
    assert code == 1
    assert told in failures(report)
    assert "hunter2" not in json.dumps(report)


def test_an_unknown_login_is_wrong_usage(cli: Cli) -> None:
    cli.declare(base_url="http://127.0.0.1:9", auth={"kind": "oauth3", "token": "hunter2"})
    code, out, err = cli.run("sites", "check")
    assert (code, out) == (2, "")
    assert "sites.clinic.auth: kind is none of none, smart, bearer, basic" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("command", [("check", "nowhere"), ("jwks", "nowhere")])
def test_an_unknown_site_is_wrong_usage(cli: Cli, command: tuple[str, str]) -> None:
    code, _, err = cli.run("sites", *command)
    assert code == 2
    assert "there is no site 'nowhere'" in err


def test_extract_tells_a_missing_key_before_it_asks_anything(cli: Cli, hospitals: Hospitals) -> None:
    cli.declare(base_url=hospitals.smart.base_url, auth=cli.smart(key_file="/no/such/key.pem"))
    studies = Path(__file__).parents[2] / "studies"
    (cli.root / "studies" / "codelists").rmdir()
    (cli.root / "studies").rmdir()
    (cli.root / "studies").symlink_to(studies)
    before = len(hospitals.smart.control.requests())
    code, _, err = cli.run("extract")
    assert code == 2
    assert "site clinic, auth.key_file: /no/such/key.pem cannot be read" in err
    assert len(hospitals.smart.control.requests()) == before


# Keys


def test_the_public_keys_are_printed_and_written(cli: Cli, tmp_path: Path) -> None:
    auth = cli.smart(next_key_file=cli.key(RSA_KEY, "next.pem"))
    cli.declare(base_url="https://fhir.example.org", auth=auth)
    code, out, _ = cli.run("sites", "jwks", "clinic")
    assert code == 0
    assert [(k["kty"], k["alg"]) for k in json.loads(out)["keys"]] == [("EC", "ES384"), ("RSA", "RS384")]
    assert json.loads(out)["keys"][0]["kid"] == "ec"
    assert all(
        not jwt.PyJWK(k).key.__class__.__name__.endswith("PrivateKey") for k in json.loads(out)["keys"]
    )
    cli.run("sites", "jwks", "clinic", "--out", str(tmp_path / "jwks.json"))
    assert (tmp_path / "jwks.json").read_text() == out


def test_a_site_without_smart_has_no_keys_to_publish(cli: Cli) -> None:
    cli.declare(base_url="https://fhir.example.org")
    code, _, err = cli.run("sites", "jwks", "clinic")
    assert code == 2
    assert "does not use SMART" in err


# The way

FULL = Capability(None, None, "4.0.1", {}, export_levels=frozenset({"system", "patient", "group"}))
BY_CODE = {"Procedure": frozenset({"code", "patient"}), "Patient": frozenset({"_id"})}
NO_CODE = {"Procedure": frozenset({"patient"}), "Patient": frozenset({"_id"})}

WAYS = """
    settings                                                    types    exports         way     level
    {}                                                          code     all             search  -
    {}                                                          unlisted all             search  -
    {}                                                          nocode   all             export  patient
    {}                                                          nocode   system          export  system
    {}                                                          nocode   group           search  -
    {}                                                          nocode   none            search  -
    {"route":"search"}                                          nocode   all             search  -
    {"route":"export"}                                          code     all             export  patient
    {"route":"export"}                                          code     system          export  system
    {"route":"export","export_level":"system"}                  code     all             export  system
    {"route":"export","cohort":{"source":"group","id":"g"}}     code     none            export  group
    {"cohort":{"source":"group","id":"g"}}                      code     all             export  group
    {"cohort":{"source":"group","id":"g"}}                      code     system          search  -
    {"cohort":{"source":"patients","file":"f"}}                 nocode   all             search  -
    {"export_level":"system"}                                   code     all             export  system
    {"export_level":"system"}                                   code     group           search  -
"""


@pytest.mark.parametrize("row", [r.split() for r in WAYS.strip().splitlines()[1:]])
def test_the_way_is_the_settings_else_the_one_that_pulls_least(row: list[str]) -> None:
    settings, types, exports, way, level = row
    levels = {"all": FULL.export_levels, "none": frozenset()}.get(exports, frozenset({exports}))
    kinds = {"code": BY_CODE, "nocode": NO_CODE, "unlisted": {}}[types]
    capability = Capability(None, None, "4.0.1", kinds, export_levels=levels)  # type: ignore[arg-type]
    choice = choose_route(Site(**json.loads(settings)), capability)
    assert (choice.route, choice.level or "-") == (way, level)
    assert choice.reasons


def statement(*resources: Any, **rest: Any) -> Response:
    content = {"mode": "server", "resource": list(resources), **rest}
    return Response(
        json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": [content]})
    )


def capability_of(server: HTTPServer, response: Response) -> Capability:
    server.expect_request("/fhir/metadata").respond_with_response(response)
    with FhirClient("c", Site(base_url=server.url_for("/fhir"), allow_plain_http="loopback only")) as client:
        return read_capability(client)


BULK = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition"


@pytest.mark.parametrize(
    ("where", "operation", "level"),
    [
        ("rest", {"name": "export", "definition": f"{BULK}/export"}, "system"),
        ("rest", {"name": "$export"}, "system"),
        ("rest", {"name": "export", "definition": f"{BULK}/group-export|2.0.0"}, "group"),
        ("rest", {"name": "patient-export"}, "patient"),
        ("Group", {"name": "export", "definition": f"{BULK}/group-export"}, "group"),
        ("Group", {"name": "group-export"}, "group"),
        ("Patient", {"name": "export"}, "patient"),
        ("Patient", {"name": "everything"}, None),
        ("Observation", {"name": "export"}, None),
    ],
)
def test_exports_are_recognised_however_they_are_declared(
    httpserver: HTTPServer, where: str, operation: dict[str, str], level: str | None
) -> None:
    found = capability_of(
        httpserver,
        statement(operation=[operation])
        if where == "rest"
        else statement({"type": where, "operation": [operation]}),
    )
    assert found.export_levels == ({level} if level else frozenset())


def test_search_parameters_for_all_types_count_for_each(httpserver: HTTPServer) -> None:
    found = capability_of(
        httpserver,
        statement(
            {"type": "Patient", "interaction": [{"code": "history-type"}]},
            {"type": "Observation", "searchParam": [{"name": "code"}]},
            searchParam=[{"name": "_lastUpdated"}],
        ),
    )
    assert found.searches("Patient", "_lastUpdated")
    assert found.searches("Observation", "_lastUpdated")
    assert not found.searches("Patient", "code")
    assert found.has_history("Patient")
    assert not found.has_history("Observation")
    assert not found.has_history()
