"""A workspace: one folder with rwe.yaml, studies/ and all that a night makes of them.

    DIR/rwe.yaml            sites, storage, privacy: written by `rwe init`, kept by hand
    DIR/studies/            study files and their code lists
    DIR/landing/            raw bytes as served             0700
    DIR/lake/               typed, pseudonymised Parquet    0700
    DIR/quarantine/         what was refused, and why       0700
    DIR/published/rwe.duckdb    the database researchers open, read-only
    DIR/evidence/STUDY/     refreshes, and `latest`

The key of the pseudonyms lies outside, so that a copy of the workspace cannot be turned back into patients.
"""

from __future__ import annotations

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
from rwe.errors import ConfigError
from rwe.scratch import locked
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
        description="A text of a coded element shows only where at least so many patients share it.",
    )
    top_code_age: int | None = Field(
        default=None, ge=18, le=120, description="Older ages are shown as this one, e.g. 89."
    )
    keep_builds: int = Field(default=3, ge=1, description="How many builds are kept for `rwe rollback`.")
    encryption: Encryption | None = Field(
        default=None, description="With a key, the published database is encrypted with it."
    )


class Settings(Part):
    """The content of rwe.yaml."""

    version: Literal[1] = 1
    pseudonyms: Pseudonyms
    encryption: Encryption | None = Field(
        default=None, description="With a key, landing, lake and quarantine are encrypted at rest."
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
        " where it is not the default. Rules without which a resource cannot be read or used are always `reject`.",
    )
    memory_limit: str = Field(
        default="2GB",
        pattern=r"^[1-9][0-9]{0,5}(MB|GB)$",
        description="How much memory the lake and the build take before they spill to disk.",
    )
    retain_raw_days: int | None = Field(
        default=None,
        ge=0,
        description="Raw bytes of runs landed more than so many days ago are removed once they are in the lake;"
        " unset: they are kept.",
    )
    published: Published = Field(default_factory=Published)
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
    """What the environment may say: RWE_WORKSPACE, RWE_PSEUDONYM_KEY and RWE_ENCRYPTION_KEY (hex)."""

    model_config = SettingsConfigDict(env_prefix="RWE_")
    workspace: Path | None = None
    pseudonym_key: str | None = Field(default=None, repr=False)
    encryption_key: str | None = Field(default=None, repr=False)


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
        text, setting = Environment().encryption_key, self.settings.encryption
        if text is None and setting is None:
            return None
        path = setting.key_file if setting else Path("RWE_ENCRYPTION_KEY")
        return Cipher(self._key("encryption", text, path, "restore it: nothing can be read without it"))

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
            _problem(e), where=where, advice="see the comments that `rwe init` writes"
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
    problem = {"extra_forbidden": "unknown field", "missing": "missing field"}.get(first["type"])
    if problem:
        return f"{problem} {field or 'the file'}"
    return f"{field or 'the file'}: {first['msg'].removeprefix('Value error, ')}"


_CHOICES = {
    "auth": ("kind", "none, smart, bearer, basic"),
    "cohort": ("source", "search, group, patients"),
}


TEMPLATE = """\
# The settings of this workspace. Every field that is not here has its default.
version: 1

# The key that turns record ids into pseudonyms. It lies outside this folder and is never copied into it.
# Lose it, and the same patient gets another pseudonym on the next night: keep a copy where you keep secrets.
pseudonyms:
  key_file: {key_file}

# With a key, what is landed, the lake and the quarantine are encrypted at rest (docs/encryption.md).
# encryption:
#   key_file: /etc/rwe/encryption.key

# How much of a birth date enters the lake: day, month or year. Ages are computed from what is kept.
birth_date: day

# Cheap checks look at every resource. fhir.resources also checks: all (strict), a sample, or none (off).
validation: sample

# The number under which this work is approved (ethics committee, hospital). It stands in audit.ndjson beside
# whatever is done: extract, import, build, analyse, report. No number: null.
approval: null

# One entry a hospital. Credentials never belong here. To use the example below, take the braces away and
# remove `# ` from its lines. A site that hands over files needs no base_url: `rwe import DIR --site NAME`
# adds it.
sites: {{}}
#
#   charite:
#     base_url: https://fhir.example.org/r4
#     time_zone: Europe/Berlin        # instants written in Z fall on the days of this zone
#     page_size: 200                  # resources asked for a page
#     patients_per_request: 20        # patients asked for at once
#     timeout_seconds: 60
#     max_retries: 6
#     allow_plain_http: "no"          # "loopback only" for a test server on this machine
#
#     # How the server knows us (docs/sites.md). Files are 0600; …_env names a variable instead.
#     auth: {{kind: smart, client_id: rwe, key_file: /etc/rwe/charite.pem, scopes: ["system/*.read"]}}
#     # also: next_key_file, kid, algorithm (RS384, ES384), token_url, audience
#     # auth: {{kind: bearer, token_file: /etc/rwe/token}}      # or token_env
#     # auth: {{kind: basic, user: rwe, password_file: /etc/rwe/password}}      # or password_env
#     token_origins: []               # other https origins that may get the credential
#     proxy: http://proxy.example.org:3128
#     ca_file: /etc/rwe/hospital-ca.pem         # authorities to trust, instead of the public ones
#     client_cert_file: /etc/rwe/client.pem     # with client_key_file
#     client_key_file: /etc/rwe/client.key
#
#     # How gently to ask.
#     max_requests_per_second: 5      # unset: no limit
#     max_concurrency: 4
#     quiet_hours: "07:00-19:00"      # by the site's clock; no request starts then
#     max_resources_per_type: 5000000 # more of one type stops the night
#
#     # What to ask, and which way. `rwe sites check` says what the server can do.
#     route: auto                     # search, export
#     export_level: auto              # group, patient, system
#     cohort: {{source: search}}        # {{source: group, id: car-t}}, {{source: patients, file: ids.txt}}
#     min_export_interval_hours: 24
#     export_deadline_hours: 12
#     overlap_minutes: 10             # how far behind the last night's watermark to ask again
#     reconcile_days: 7               # how often ids are compared to find deletions
#
#     # Who may enter.
#     consent: ignored                # required: only patients with a permitting, unexpired Consent
#     security_labels: {{exclude: [R, V, 42CFRPart2]}}        # HTEST never enters
#     opt_out_file: /etc/rwe/charite-opt-out.txt      # one Patient id of the server a line
"""


def init_workspace(root: Path, key_file: Path | None = None) -> Workspace:
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
        handle = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            "there is a key already", where=str(key_path), advice="name another with --key-file"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as f:
        f.write(secrets.token_hex(KEY_BYTES) + "\n")
    path.write_text(TEMPLATE.format(key_file=yaml.safe_dump(str(key_path)).splitlines()[0]), encoding="utf-8")
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
        aside = path.with_suffix(".yaml.part")
        aside.write_text(new_text, encoding="utf-8")
        aside.chmod(stat.S_IMODE(path.stat().st_mode))
        aside.replace(path)
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
