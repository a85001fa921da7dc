"""Link tokens: spellings of one person give one token, and a token tells nothing of a name."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from rwe import linking
from rwe.config import Workspace
from rwe.errors import ConfigError
from rwe.lake.pseudonyms import Pseudonymiser
from rwe.linking import PatientIdentity, link_token, normalised, study_token
from rwe.site_settings import Link, Site
from tests.integration.landed import land, new_workspace

KEY = bytes(range(32))
NAMES = Link(key_file=Path("k"), inputs=("family", "given", "birth_date", "gender"))
NUMBER = Link(key_file=Path("k"), inputs=("identifier",), identifier_system="http://example.org/insurance")


def person(family: str = "Müller-Lüdenscheidt", given: str = "José", **more: Any) -> PatientIdentity:
    fields = {
        "id": "1",
        "name": [{"use": "official", "family": family, "given": [given]}],
        "birthDate": "1950-03-07",
        "gender": "male",
        **more,
    }
    import msgspec

    return msgspec.convert(fields, PatientIdentity)


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("MÜLLER-LÜDENSCHEIDT", "JOSÉ"),
        ("Mueller Luedenscheidt", "Jose"),
        ("Muller-Ludenscheidt", "jose "),
        ("Mu\u0308ller-Lu\u0308denscheidt", "Jose\u0301"),
        ("Ｍüller‐Lüdenscheidt", "José Maria"),
    ],
)
def test_spellings_of_one_name_give_one_token(family: str, given: str) -> None:
    assert link_token(KEY, person(family, given), NAMES) == link_token(KEY, person(), NAMES)


@pytest.mark.parametrize(
    "other",
    [
        {"family": "Möller-Lüdenscheidt"},
        {"given": "Josefa"},
        {"birthDate": "1950-07-03"},
        {"gender": "female"},
    ],
)
def test_another_person_has_another_token(other: dict[str, str]) -> None:
    assert link_token(KEY, person(**other), NAMES) != link_token(KEY, person(), NAMES)


def test_letters_of_every_script_count_and_nothing_else_does() -> None:
    assert normalised("O'Brien-Ng 3rd") == "obrienngrd"
    assert normalised("Straße") == normalised("STRASSE") == "strasse"
    assert normalised("Ørsted Łukasz") == "orstedlukasz"
    assert normalised("Иванов") == "иванов"
    assert normalised("李") == "李"


@pytest.mark.parametrize(
    "missing",
    [
        {"birthDate": "1950"},
        {"gender": "unknown"},
        {"name": []},
        {"name": [{"use": "maiden", "family": "X"}]},
    ],
)
def test_half_an_identity_has_no_token(missing: dict[str, Any]) -> None:
    assert link_token(KEY, person(**missing), NAMES) is None


def test_an_identifier_counts_by_its_system_however_it_is_written() -> None:
    def numbered(*values: str) -> str | None:
        system = NUMBER.identifier_system
        identifiers = [{"system": system, "value": v} for v in values]
        return link_token(
            KEY, person(identifier=[*identifiers, {"system": "http://other", "value": "9"}]), NUMBER
        )

    assert numbered("A 123-456") == numbered("a123456") is not None
    assert numbered("A1", "B2") is None
    assert numbered() is None


def test_parts_do_not_run_into_each_other() -> None:
    names = Link(key_file=Path("k"), inputs=("family", "given"))
    assert link_token(KEY, person("Anna", "Bella"), names) != link_token(KEY, person("AnnaBella", ""), names)
    assert link_token(KEY, person("Ann", "abella"), names) != link_token(KEY, person("Anna", "bella"), names)


def test_another_key_or_another_study_gives_another_token() -> None:
    token = link_token(KEY, person(), NAMES)
    assert token is not None
    assert token != link_token(bytes(32), person(), NAMES)
    shared = study_token(token, "s", "a" * 64)
    assert shared not in {token, study_token(token, "t", "a" * 64), study_token(token, "s", "b" * 64)}


def linked_workspace(tmp_path: Path, link_key: Path) -> Workspace:
    made = new_workspace(tmp_path)
    link = NAMES.model_copy(update={"key_file": link_key})
    return Workspace(made.root, made.settings.model_copy(update={"sites": {"north": Site(link=link)}}))


def test_tokens_of_landed_patients_are_kept_privately_and_dropped(tmp_path: Path) -> None:
    link_key = tmp_path / "link.key"
    link_key.write_text(secrets.token_hex(32))
    link_key.chmod(0o600)
    workspace = linked_workspace(tmp_path, link_key)
    first = {"resourceType": "Patient", "id": "p1", "birthDate": "1950-03-07", "gender": "male",
             "name": [{"family": "Old", "given": ["José"]}]}  # fmt: skip
    land(workspace, "north", first, {"resourceType": "Patient", "id": "p2"})
    latest = {**first, "name": [{"use": "official", "family": "Müller", "given": ["Jose"]}]}
    land(workspace, "north", latest)
    tokens = linking.update_tokens(workspace, "north")
    of = Pseudonymiser(workspace.pseudonym_key(), "north").of
    key = bytes.fromhex(link_key.read_text())
    assert tokens == {of("Patient", "p1"): link_token(key, person("Muller"), NAMES)}
    kept = workspace.lake / "_link"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert linking.read_tokens(workspace, "north") == tokens
    linking.forget(workspace, "north", [of("Patient", "p1")])
    assert linking.read_tokens(workspace, "north") == {}


def test_a_link_key_that_lies_open_or_in_the_workspace_is_refused(tmp_path: Path) -> None:
    link_key = tmp_path / "link.key"
    workspace = linked_workspace(tmp_path, link_key)
    link = workspace.settings.sites["north"].link
    assert link is not None
    with pytest.raises(ConfigError, match="cannot be read"):
        linking.link_key(workspace, link)
    link_key.write_text("ab" * 32)
    link_key.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        linking.link_key(workspace, link)
    link_key.chmod(0o600)
    link_key.write_text(json.dumps("no key"))
    with pytest.raises(ConfigError, match="not 32 bytes"):
        linking.link_key(workspace, link)
    inside = link.model_copy(update={"key_file": workspace.root / "link.key"})
    with pytest.raises(ConfigError, match="inside the workspace"):
        linking.link_key(workspace, inside)
