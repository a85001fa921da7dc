"""A workspace: what rwe.yaml may say, and where the key lies."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rwe.config import Workspace, add_site, init_workspace, open_workspace, parse_settings
from rwe.errors import ConfigError


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", key_file=tmp_path / "keys" / "ws.key")


def test_init_writes_a_key_that_only_its_owner_reads_outside_the_workspace(workspace: Workspace) -> None:
    key = workspace.settings.pseudonyms.key_file
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not key.is_relative_to(workspace.root)
    assert len(workspace.pseudonym_key()) == 32


def test_the_default_key_lies_outside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = init_workspace(tmp_path / "ws")
    assert made.settings.pseudonyms.key_file.is_relative_to(tmp_path / "config")


def test_init_overwrites_nothing(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already"):
        init_workspace(workspace.root, key_file=tmp_path / "other.key")
    with pytest.raises(ConfigError, match="key already"):
        init_workspace(tmp_path / "ws2", key_file=tmp_path / "keys" / "ws.key")


def test_a_key_inside_the_workspace_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inside"):
        init_workspace(tmp_path / "ws3", key_file=tmp_path / "ws3" / "key")
    inside = workspace.root / "ws.key"
    workspace.settings.pseudonyms.key_file.rename(inside)
    text = (workspace.root / "rwe.yaml").read_text()
    (workspace.root / "rwe.yaml").write_text(
        text.replace(str(workspace.settings.pseudonyms.key_file), str(inside))
    )
    with pytest.raises(ConfigError, match="inside"):
        open_workspace(workspace.root).pseudonym_key()


def test_a_key_that_others_can_read_is_refused(workspace: Workspace) -> None:
    workspace.settings.pseudonyms.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="others"):
        workspace.pseudonym_key()


def test_the_key_may_come_from_the_environment_and_is_never_shown(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "ab" * 32
    monkeypatch.setenv("RWE_PSEUDONYM_KEY", secret)
    assert workspace.pseudonym_key() == bytes.fromhex(secret)
    monkeypatch.setenv("RWE_PSEUDONYM_KEY", "not-hex-and-secret")
    with pytest.raises(ConfigError) as caught:
        workspace.pseudonym_key()
    assert "not-hex" not in str(caught.value)


def test_a_lost_key_is_told_with_what_it_means(workspace: Workspace) -> None:
    workspace.settings.pseudonyms.key_file.unlink()
    with pytest.raises(ConfigError, match="other pseudonyms"):
        workspace.pseudonym_key()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("  a: {base_url: 'ftp://x.example'}", "http"),
        ("  a: {base_url: 'fhir.example.org'}", "http"),
        ("  a: {base_url: 'https://user:secret-pw@fhir.example.org'}", "credential"),
        ("  a: {base_url: 'https://fhir.example.org?x=1'}", "query"),
        ("  a: {time_zone: Mars/Olympus}", "time zone"),
        ("  a: {page_sise: 3}", "unknown field sites.a.page_sise; did you mean page_size"),
        (
            "  a: {auth: {kind: bearer, tokn_file: /t}}",
            "unknown field sites.a.auth.tokn_file; did you mean token_file",
        ),
        ("  a: {xyz: 3}", "unknown field sites.a.xyz; see the comments"),
        ("  A B: {}", "sites"),
    ],
)
def test_a_wrong_site_is_told_by_field(line: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(f"pseudonyms: {{key_file: /k}}\nsites:\n{line}\n", "rwe.yaml")
    assert told in str(caught.value)
    assert "secret-pw" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_folder_without_settings_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rwe init"):
        open_workspace(tmp_path)


def test_the_workspace_may_be_named_by_the_environment(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWE_WORKSPACE", str(workspace.root))
    assert open_workspace().root == workspace.root


def test_adding_a_site_keeps_the_comments_and_the_other_sites(workspace: Workspace) -> None:
    before = [line for line in (workspace.root / "rwe.yaml").read_text().splitlines() if line.startswith("#")]
    one = add_site(workspace, "first", {})
    two = add_site(one, "second", {"base_url": "https://fhir.example.org/r4", "time_zone": "Europe/Berlin"})
    text = (workspace.root / "rwe.yaml").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == before
    assert list(open_workspace(workspace.root).settings.sites) == ["first", "second"]
    assert two.site("second").zone.key == "Europe/Berlin"


def test_a_site_goes_into_its_block_even_if_other_settings_follow(workspace: Workspace) -> None:
    path = workspace.root / "rwe.yaml"
    text = path.read_text().replace(
        "sites: {}", "sites:\n  old: {}\n\n# a remark on the birth date\nbirth_date: year"
    )
    path.write_text(text.replace("\nbirth_date: day\n", "\n"))
    add_site(open_workspace(workspace.root), "new", {})
    settings = open_workspace(workspace.root).settings
    assert list(settings.sites) == ["old", "new"]
    assert settings.birth_date == "year"


def test_the_example_in_the_template_works_once_uncommented(workspace: Workspace) -> None:
    text = (workspace.root / "rwe.yaml").read_text()
    head, example = text.split("sites: {}\n")
    lines = [line.removeprefix("# ") for line in example.splitlines() if line.startswith("#  ")]
    settings = parse_settings(head + "sites:\n" + "\n".join(lines) + "\n", "rwe.yaml", workspace.root)
    assert settings.sites["charite"].base_url == "https://fhir.example.org/r4"


def test_a_block_that_stands_twice_is_told_with_both_lines(workspace: Workspace) -> None:
    path = workspace.root / "rwe.yaml"
    path.write_text(path.read_text() + "sites:\n  a: {}\n")
    with pytest.raises(ConfigError, match="'sites' stands twice, in lines"):
        open_workspace(workspace.root)


def test_an_impossible_site_name_changes_nothing(workspace: Workspace) -> None:
    before = (workspace.root / "rwe.yaml").read_bytes()
    with pytest.raises(ConfigError, match="name"):
        add_site(workspace, "../evil", {})
    assert (workspace.root / "rwe.yaml").read_bytes() == before


def test_the_example_for_deployments_is_valid() -> None:
    path = Path(__file__).parents[2] / "deploy" / "rwe.example.yaml"
    settings = parse_settings(path.read_text(), str(path))
    assert [name for name, site in settings.sites.items() if site.base_url is None] == ["leiden"]


def test_the_template_names_where_the_approval_goes_and_gives_none(workspace: Workspace) -> None:
    assert workspace.settings.approval is None
    path = workspace.root / "rwe.yaml"
    path.write_text(path.read_text().replace("approval: null", "approval: EK-17/2024"))
    assert open_workspace(workspace.root).settings.approval == "EK-17/2024"


@pytest.mark.parametrize("value", ["0123", "2024-01-02", "531", "yes"])
def test_an_approval_that_yaml_would_change_is_refused(value: str) -> None:
    """`0123` is 83 to YAML: a number that is not the one on the paper must not enter the audit log."""
    text = "pseudonyms: {key_file: /k}\napproval: {}\n"
    with pytest.raises(ConfigError, match=r"approval: .*quotes") as caught:
        parse_settings(text.replace("{}", value), "rwe.yaml")
    assert value not in str(caught.value)
    assert parse_settings(text.replace("{}", f'"{value}"'), "rwe.yaml").approval == value
