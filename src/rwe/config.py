"""A workspace: one folder with rwe.yaml, studies/ and all that a night makes of them.

    DIR/rwe.yaml            sites, storage, privacy: written by `rwe init`, kept by hand
    DIR/studies/            study files and their code lists
    DIR/landing/            raw bytes as served             0700
    DIR/lake/               typed, pseudonymised Parquet    0700
    DIR/quarantine/         what was refused, and why       0700
    DIR/private/rwe.duckdb      the build that analyses read                0700
    DIR/published/rwe.duckdb    the database researchers open, read-only; made from the private build
    DIR/evidence/STUDY/     refreshes, and `latest`

The key of the pseudonyms lies outside, so that a copy of the workspace cannot be turned back into patients.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rwe.crypt import Cipher
from rwe.durable import move_whole, part_of, write_new
from rwe.errors import ConfigError
from rwe.federate.settings import Federation
from rwe.near import fields_at, nearest
from rwe.schedule_settings import Schedule
from rwe.scratch import locked
from rwe.settings_template import TEMPLATE
from rwe.site_settings import Part, Site
from rwe.yaml_text import YamlMistakeError, read_yaml

__all__ = [
    "KEY_BYTES",
    "SITE_NAME",
    "TEMPLATE",
    "Encryption",
    "Environment",
    "Pseudonyms",
    "Published",
    "Settings",
    "Site",
    "Workspace",
    "add_site",
    "init_workspace",
    "open_workspace",
    "parse_settings",
]

SITE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
KEY_BYTES = 32


class Pseudonyms(Part):
    key_file: Path = Field(description="32 random bytes as hex, mode 0600, outside the workspace.")
    blocklist_key_file: Path | None = Field(
        default=None,
        description="The key of the list of erased patients, which lies beside it; made by the first"
        " `rwe erase`. Unset: it lies beside the pseudonym key.",
    )


class Encryption(Part):
    key_file: Path = Field(description="32 random bytes as hex, mode 0600, outside the workspace.")


class Published(Part):
    """What researchers see of the cohort, in published/rwe.duckdb."""

    dates: Literal["exact", "anchored"] = Field(
        default="exact",
        description="anchored: all dates of a patient are moved so that the first index event is 2000-01-01.",
    )
    min_cell: int = Field(
        default=5,
        ge=1,
        description="A text or code of a coded element shows only where so many patients share it.",
    )
    top_code_age: int | None = Field(
        default=None, ge=18, le=120, description="Older ages are shown as this one, e.g. 89."
    )
    keep_builds: int = Field(default=3, ge=1, description="How many builds are kept for `rwe rollback`.")
    encryption: Encryption | None = Field(
        default=None, description="With a key, the published database is encrypted with it."
    )


class Release(Part):
    """When evidence may leave: what must be new against every earlier release of the study."""

    min_new_patients: int = Field(default=10, ge=1, description="Patients who were in no earlier release.")
    min_new_events: int = Field(default=5, ge=1, description="Events that were in no earlier release.")


class History(Part):
    """What is kept of earlier refreshes beside their evidence."""

    keep_ledgers: int = Field(
        default=30,
        ge=1,
        description="For how many refreshes it is kept who was in them, so that two can be compared.",
    )


class Settings(Part):
    """The content of rwe.yaml."""

    version: Literal[1] = 1
    pseudonyms: Pseudonyms
    encryption: Encryption | None = Field(
        default=None, description="With a key, landing, lake and quarantine are encrypted at rest."
    )
    patients: Literal["real", "made_up"] = Field(
        default="real", description="Of made-up ones evidence and reports say so at the top."
    )
    birth_date: Literal["day", "month", "year"] = Field(
        default="day", description="How much of a birth date enters the lake."
    )
    validation: Literal["strict", "sample", "off"] = Field(
        default="sample", description="How many resources fhir.resources checks besides the cheap checks."
    )
    rules: dict[str, Literal["reject", "flag"]] = Field(
        default={},
        description="What becomes of a resource that breaks a rule of the quarantine, by the rule's name,"
        " where it is not the default. Rules without which a resource cannot be read or used always reject.",
    )
    memory_limit: str = Field(
        default="2GB",
        pattern=r"^[1-9][0-9]{0,5}(MB|GB)$",
        description="How much memory the lake and the build take before they spill to disk.",
    )
    retain_raw_days: int | None = Field(
        default=None,
        ge=0,
        description="Raw bytes of runs landed more than so many days ago are removed once they are in the"
        " lake; unset: they are kept.",
    )
    published: Published = Field(default_factory=Published)
    history: History = Field(default_factory=History)
    release: Release = Field(
        default_factory=Release, description="How much must be new before a study's evidence leaves again."
    )
    federation: Federation = Field(
        default_factory=Federation, description="What leaves this site in federated analyses, and when."
    )
    schedule: Schedule = Field(
        default_factory=Schedule, description="When things run by themselves, once `rwe deploy` has said so."
    )
    approval: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="The number under which an ethics committee or a hospital approved the work. It goes into"
        " the audit log with everything that is done.",
    )
    sites: dict[Annotated[str, Field(pattern=SITE_NAME.pattern)], Site] = Field(
        default={}, description="By name."
    )

    @field_validator("approval", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if value is None or isinstance(value, str):
            return value
        raise ValueError('YAML reads it as a number or a date; put it in quotes, as "2024-017"')

    @field_validator("sites", mode="before")
    @classmethod
    def _empty_block(cls, value: object) -> object:
        return {} if value is None else value


class Environment(BaseSettings):
    """What the environment may say: RWE_WORKSPACE, and as hex RWE_PSEUDONYM_KEY, RWE_ENCRYPTION_KEY and
    RWE_PUBLISHED_KEY."""

    model_config = SettingsConfigDict(env_prefix="RWE_")
    workspace: Path | None = None
    pseudonym_key: str | None = Field(default=None, repr=False)
    encryption_key: str | None = Field(default=None, repr=False)
    published_key: str | None = Field(default=None, repr=False)


class Workspace:
    """A workspace's settings and the places in it."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings = root, settings

    landing = property(lambda self: self.root / "landing")
    lake = property(lambda self: self.root / "lake")
    quarantine = property(lambda self: self.root / "quarantine")
    private = property(lambda self: self.root / "private")
    published = property(lambda self: self.root / "published")
    database = property(lambda self: self.root / "published" / "rwe.duckdb")
    published_builds = property(lambda self: self.root / "published" / "builds")
    private_database = property(lambda self: self.root / "private" / "rwe.duckdb")
    private_builds = property(lambda self: self.root / "private" / "builds")
    studies = property(lambda self: self.root / "studies")
    evidence = property(lambda self: self.root / "evidence")

    def site(self, name: str) -> Site:
        try:
            return self.settings.sites[name]
        except KeyError:
            known = ", ".join(self.settings.sites) or "none"
            raise ConfigError(
                f"there is no site {name!r}", where=str(self.root / "rwe.yaml"), advice=f"declared: {known}"
            ) from None

    def pseudonym_key(self) -> bytes:
        """The 32 bytes of the key. From RWE_PSEUDONYM_KEY, else from the key file."""
        advice = "restore it: with another key all patients get other pseudonyms"
        return self._key("pseudonym", Environment().pseudonym_key, self.settings.pseudonyms.key_file, advice)

    def cipher(self) -> Cipher | None:
        """What encrypts at rest, with the key from RWE_ENCRYPTION_KEY or the key file; None: nothing does.

        Raises ConfigError where the key cannot be read, or lies open.
        """
        key = self._encryption_key()
        return Cipher(key) if key else None

    def published_key(self) -> bytes | None:
        """The key of the published database, from RWE_PUBLISHED_KEY or its file; None: it is not encrypted.

        Raises ConfigError as `cipher`.
        """
        text, setting = Environment().published_key, self.settings.published.encryption
        return self._optional_key("published", text, setting, "RWE_PUBLISHED_KEY")

    def private_database_key(self) -> bytes | None:
        """The key of the private build: derived from the encryption key, else from the published database's
        (whoever reads that cannot look into private/). None: it is not encrypted."""
        key = self._encryption_key() or self.published_key()
        return hmac.digest(key, b"rwe private database", "sha256") if key else None

    def _encryption_key(self) -> bytes | None:
        text, setting = Environment().encryption_key, self.settings.encryption
        return self._optional_key("encryption", text, setting, "RWE_ENCRYPTION_KEY")

    def _optional_key(
        self, name: str, text: str | None, setting: Encryption | None, variable: str
    ) -> bytes | None:
        if text is None and setting is None:
            return None
        path = setting.key_file if setting else Path(variable)
        return self._key(name, text, path, "restore it: nothing can be read without it")

    def _key(self, name: str, text: str | None, key_file: Path, advice: str) -> bytes:
        path = key_file.expanduser()
        if text is None:
            if path.resolve().is_relative_to(self.root.resolve()):
                raise ConfigError(
                    "the key lies inside the workspace", where=str(path), advice="move it outside"
                )
            try:
                text = path.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as e:
                raise ConfigError(f"the {name} key cannot be read", where=str(path), advice=advice) from e
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"others can read the {name} key", where=str(path), advice="chmod 600 it")
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"the {name} key is not {KEY_BYTES} bytes in hex", where=str(path))
        return key


def open_workspace(root: Path | None = None) -> Workspace:
    """Open the workspace at `root`, else at RWE_WORKSPACE, else the current folder.

    Raises ConfigError where rwe.yaml is missing or wrong.
    """
    folder = (root or Environment().workspace or Path.cwd()).expanduser()
    path = folder / "rwe.yaml"
    if not path.is_file():
        raise ConfigError(
            "this is no workspace: rwe.yaml is missing",
            where=str(folder),
            advice="make one with `rwe init DIR`, or name one with -w DIR",
        )
    root = folder.resolve()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError("the file is not readable as UTF-8 text", where=str(path)) from None
    return Workspace(root, parse_settings(text, str(path), root))


def parse_settings(text: str, where: str, root: Path | None = None) -> Settings:
    """Settings from the text of an rwe.yaml; relative paths of sites start at `root`.

    Raises ConfigError naming the field, never its value.
    """
    try:
        return Settings.model_validate(read_yaml(text) or {}, context={"root": root})
    except YamlMistakeError as e:
        raise ConfigError(str(e), where=where, advice="correct it there") from None
    except ValidationError as e:
        raise ConfigError(
            _problem(e), where=where, advice=_meant(e) or "see the comments that `rwe init` writes"
        ) from None


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, by field. pydantic's own texts may print what the field holds."""
    first = error.errors(include_url=False, include_input=False)[0]
    names = [str(p) for p in first["loc"] if p != "[key]"]
    # ("auth", "smart", "key_file"): which kind was chosen is no field
    field = ".".join(n for n, before in zip(names, ["", *names], strict=False) if before not in _CHOICES)
    choice = _CHOICES.get(names[-1]) if names else None
    if first["type"] == "union_tag_invalid" and choice:
        return f"{field}: {choice[0]} is none of {choice[1]}"
    if first["type"] == "union_tag_not_found" and choice:
        return f"{field}: {choice[0]} is missing: one of {choice[1]}"
    if field == "version":
        return "version: this rwe reads version 1; use the rwe that wrote the file"
    problem = {"extra_forbidden": "unknown field", "missing": "missing field"}.get(first["type"])
    if problem:
        return f"{problem} {field or 'the file'}"
    return f"{field or 'the file'}: {first['msg'].removeprefix('Value error, ')}"


def _meant(error: ValidationError) -> str | None:
    """The field that was probably meant, where the first thing that is wrong is a field that there is not."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] != "extra_forbidden":
        return None
    *place, name = first["loc"]
    found = nearest(str(name), fields_at(Settings, place))
    return f"did you mean {found}" if found else None


_CHOICES = {
    "auth": ("kind", "none, smart, bearer, basic"),
    "cohort": ("source", "search, group, patients"),
}


def init_workspace(
    root: Path, key_file: Path | None = None, *, patients: Literal["real", "made_up"] = "real"
) -> Workspace:
    """Make a workspace: rwe.yaml with comments, studies/ and a new key outside it. Overwrites nothing."""
    root = root.expanduser().resolve()
    path = root / "rwe.yaml"
    if path.exists():
        raise ConfigError("there is a workspace already", where=str(path), advice="choose another folder")
    key_path = (key_file or _default_key_path(root)).expanduser().resolve()
    if key_path.is_relative_to(root):
        raise ConfigError(
            "the key would lie inside the workspace", where=str(key_path), advice="choose another place"
        )
    (root / "studies" / "codelists").mkdir(parents=True, exist_ok=True)
    key_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        write_new(key_path, f"{secrets.token_hex(KEY_BYTES)}\n".encode("ascii"))
    except FileExistsError:
        raise ConfigError(
            "there is a key already", where=str(key_path), advice="name another with --key-file"
        ) from None
    quoted = yaml.safe_dump(str(key_path)).splitlines()[0]
    path.write_text(TEMPLATE.format(key_file=quoted, patients=patients), encoding="utf-8")
    return open_workspace(root)


def _default_key_path(root: Path) -> Path:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "rwe" / f"{root.name}-{secrets.token_hex(4)}.key"


def add_site(workspace: Workspace, name: str, fields: dict[str, str]) -> Workspace:
    """Write a new site into rwe.yaml, keeping its comments and mode. `fields` may be empty.

    Raises ConfigError if the name cannot be one or the file's layout does not allow it.
    """
    path = workspace.root / "rwe.yaml"
    if not SITE_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a site's name", advice="use letters, digits, - and _")
    with locked(workspace.root / ".rwe.yaml.lock"):  # two imports of new sites at once
        text = path.read_text(encoding="utf-8")
        before = parse_settings(text, str(path), workspace.root).sites
        if name in before:
            raise ConfigError(f"there is a site {name!r} already", where=str(path))
        new_text = _with_site(text, name, fields)
        settings = parse_settings(new_text, str(path), workspace.root)
        if set(settings.sites) != {*before, name}:
            raise ConfigError(
                "the site cannot be added",
                where=str(path),
                advice=f"add `{name}: {{}}` under sites: by hand",
            )
        part = part_of(path)
        part.unlink(missing_ok=True)
        write_new(part, new_text.encode())
        move_whole(part, path, stat.S_IMODE(path.stat().st_mode))
    return Workspace(workspace.root, settings)


def _with_site(text: str, name: str, fields: dict[str, str]) -> str:
    """The text of an rwe.yaml with one more entry at the end of its block `sites:`."""
    entry = [f"  {name}:{'' if fields else ' {}'}"]
    entry += [f"    {k}: {yaml.safe_dump(v).splitlines()[0]}" for k, v in fields.items()]
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines) if re.match(r"^sites:\s*(\{\s*\}|null|~)?\s*(#.*)?$", line)]
    if heads:
        at = heads[0]
        lines[at] = "sites:"
        end = at + 1
        while end < len(lines) and (not lines[end].strip() or lines[end][0] in " #"):
            end += 1
        while not lines[end - 1].strip() or lines[end - 1].startswith("#"):
            end -= 1
        lines[end:end] = entry
    else:
        lines += ["sites:", *entry]
    return "\n".join(lines) + "\n"
