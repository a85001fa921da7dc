"""What rwe.yaml may say about one hospital: its server, the way in, how gently to ask, who may enter.

A secret never stands here: fields name a file (mode 0600) or a variable of the environment that holds it.
Paths are relative to the workspace.
"""

from __future__ import annotations

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rwe.cron import CronText

_QUIET = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$")
_SECRETS = frozenset(
    {"token", "access_token", "password", "secret", "client_secret", "key", "private_key", "api_key", "jwk"}
)
_GROUP_ID = r"^[A-Za-z0-9\-.]{1,64}$"


class Part(BaseModel):
    """A part of rwe.yaml: no unknown field, never changed after it was read, no secret in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, content in value.items():
                if name in _SECRETS and name not in cls.model_fields:
                    raise ValueError(
                        f"the field {name} would hold a secret, and rwe.yaml holds none; put it into a file "
                        "or a variable of the environment and name that (…_file, …_env)"
                    )
                if isinstance(content, str) and "-----BEGIN" in content:
                    raise ValueError(f"the field {name} holds a key; put it into a file and name that")
        return value


def _in_workspace(path: Path, info: ValidationInfo) -> Path:
    root = (info.context or {}).get("root")
    path = path.expanduser()
    return path if root is None else Path(root) / path


#: A path in rwe.yaml; a relative one starts at the workspace.
SettingsPath = Annotated[Path, AfterValidator(_in_workspace)]
#: The name of a variable of the environment.
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class NoAuth(Part):
    """The server asks for no credential."""

    kind: Literal["none"] = "none"


class SmartAuth(Part):
    """SMART Backend Services: a key of ours signs a request for a token that lives for minutes."""

    kind: Literal["smart"]
    client_id: str = Field(min_length=1, description="As the hospital registered it.")
    key_file: SettingsPath | None = Field(
        default=None, description="The private key, PEM or JWK, RSA or EC P-384; mode 0600."
    )
    key_env: EnvironmentName | None = Field(default=None, description="The variable that holds it, instead.")
    kid: str | None = Field(
        default=None, description="The key's id; else the JWK's own, else its thumbprint."
    )
    algorithm: Literal["RS384", "ES384"] | None = Field(
        default=None, description="By default what the key is made for."
    )
    scopes: tuple[str, ...] = Field(default=("system/*.read",), min_length=1)
    token_url: str | None = Field(
        default=None, description="The token endpoint; else .well-known/smart-configuration names it."
    )
    audience: str | None = Field(
        default=None, description="`aud` of the assertion, where it is not the token endpoint."
    )
    next_key_file: SettingsPath | None = Field(
        default=None, description="The key that comes next: `rwe sites jwks` publishes it beside this one."
    )

    @model_validator(mode="after")
    def _one_key(self) -> SmartAuth:
        _one_of(self, "key_file", "key_env")
        return self

    @field_validator("token_url")
    @classmethod
    def _usable_url(cls, value: str | None) -> str | None:
        return value if value is None else _http_address(value, "token_url")


class BearerAuth(Part):
    """A token that the hospital gave. The file is read again when the server refuses the token."""

    kind: Literal["bearer"]
    token_file: SettingsPath | None = Field(default=None, description="Mode 0600.")
    token_env: EnvironmentName | None = None

    @model_validator(mode="after")
    def _one_token(self) -> BearerAuth:
        _one_of(self, "token_file", "token_env")
        return self


class BasicAuth(Part):
    """User and password. The file is read again when the server refuses them."""

    kind: Literal["basic"]
    user: str = Field(min_length=1)
    password_file: SettingsPath | None = Field(default=None, description="Mode 0600.")
    password_env: EnvironmentName | None = None

    @field_validator("user")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("a user's name with a colon cannot be sent (RFC 7617)")
        return value

    @model_validator(mode="after")
    def _one_password(self) -> BasicAuth:
        _one_of(self, "password_file", "password_env")
        return self


def _one_of(part: Part, *names: str) -> None:
    if sum(getattr(part, name) is not None for name in names) != 1:
        raise ValueError(f"give one of {' and '.join(names)}")


Auth = Annotated[NoAuth | SmartAuth | BearerAuth | BasicAuth, Field(discriminator="kind")]


class SearchCohort(Part):
    """The cohort is found by the codes of its index events."""

    source: Literal["search"] = "search"


class GroupCohort(Part):
    """The cohort are the members of a Group that the hospital keeps."""

    source: Literal["group"]
    id: str = Field(pattern=_GROUP_ID, description="The Group's id on the server.")


class PatientsCohort(Part):
    """The cohort are the patients of a file: one Patient id of the server a line. Keep it 0600."""

    source: Literal["patients"]
    file: SettingsPath


CohortSource = Annotated[SearchCohort | GroupCohort | PatientsCohort, Field(discriminator="source")]


class SecurityLabels(Part):
    """Codes of `meta.security` whose resources do not enter. HTEST (test data) never does."""

    exclude: tuple[str, ...] = Field(
        default=("R", "V", "42CFRPart2"),
        description="Restricted, very restricted and US substance-use records, unless the site says so.",
    )

    @property
    def excluded(self) -> frozenset[str]:
        return frozenset({*self.exclude, "HTEST"})


class QuietHours(BaseModel):
    """A time of day, by the site's clock, in which no request starts. It may span midnight."""

    model_config = ConfigDict(frozen=True)
    start: time
    end: time

    def __contains__(self, moment: time) -> bool:
        if self.start <= self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


class Link(Part):
    """A second key, which the sites share, makes a token of the named inputs. Who has it can try names: so
    could a hub that has it too, for what it extracts itself, with tokens of sites: docs/sharing.md."""

    key_file: SettingsPath = Field(description="32 random bytes as hex, mode 0600; the same at every site.")
    inputs: tuple[Literal["identifier", "family", "given", "birth_date", "gender"], ...] = Field(min_length=1)
    identifier_system: str | None = Field(
        default=None, description="Which identifier is taken, where `identifier` is an input."
    )

    @model_validator(mode="after")
    def _names_the_identifier(self) -> Link:
        if ("identifier" in self.inputs) != (self.identifier_system is not None):
            raise ValueError("identifier_system and the input `identifier` go together")
        return self


class SiteSchedule(Part):
    """Where a site's nights are not as `schedule:` of the workspace says. Times are by the site's clock."""

    nightly: CronText | None = Field(default=None, description='Cron, as "30 2 * * *".')
    reconcile: CronText | None = None
    time_budget_hours: float | None = Field(default=None, gt=0, le=24)
    stale_after_hours: float | None = Field(default=None, gt=0)


class Site(Part):
    """One hospital. Without `base_url` it is a site whose files are handed over (`rwe import`)."""

    base_url: str | None = Field(default=None, description="The FHIR R4 endpoint, without a trailing slash.")
    time_zone: str = Field(default="UTC", description="IANA name; instants written in Z fall on its days.")
    page_size: int = Field(default=200, ge=1, le=10_000, description="Resources a page (`_count`).")
    patients_per_request: int = Field(default=20, ge=1, le=500)
    timeout_seconds: float = Field(default=60, gt=0)
    max_retries: int = Field(default=6, ge=0, le=20)
    allow_plain_http: Literal["no", "loopback only"] = "no"

    auth: Auth = Field(default=NoAuth(), description="How the server knows us.")
    token_origins: tuple[str, ...] = Field(
        default=(),
        description="Other https origins that may get the credential, as https://files.example.org",
    )
    proxy: str | None = Field(
        default=None, description="An http(s) proxy for https requests, as http://p:3128"
    )
    ca_file: SettingsPath | None = Field(
        default=None, description="PEM file of the authorities to trust, instead of the public ones."
    )
    client_cert_file: SettingsPath | None = Field(default=None, description="PEM; shown to the site only.")
    client_key_file: SettingsPath | None = Field(default=None, description="PEM, not encrypted; mode 0600.")

    max_requests_per_second: float | None = Field(default=None, gt=0, le=1000)
    max_concurrency: int = Field(default=4, ge=1, le=64, description="Requests under way at once.")
    quiet_hours: QuietHours | None = Field(
        default=None, description='"07:00-19:00" by the site\'s clock: no request starts then.'
    )
    max_resources_per_type: int | None = Field(
        default=None, ge=1, description="A night that would land more of a type stops and says so."
    )

    route: Literal["auto", "search", "export"] = "auto"
    export_level: Literal["auto", "group", "patient", "system"] = "auto"
    cohort: CohortSource = SearchCohort()
    min_export_interval_hours: float = Field(default=24, ge=0)
    export_deadline_hours: float = Field(default=12, gt=0)
    overlap_minutes: float = Field(default=10, ge=0, description="How far behind the watermark to ask again.")
    reconcile_days: float = Field(
        default=7, ge=0, description="How often ids are compared to find deletions; 0 is every night."
    )
    consent: Literal["ignored", "required"] = Field(
        default="ignored", description="required: only patients with a permitting, unexpired Consent enter."
    )
    security_labels: SecurityLabels = SecurityLabels()
    opt_out_file: SettingsPath | None = Field(
        default=None, description="Patients who do not take part: one Patient id of the server a line."
    )

    schedule: SiteSchedule = Field(default=SiteSchedule(), description="Where it is not the workspace's.")
    code_map: SettingsPath | None = Field(
        default=None,
        description="Local codes to standard ones: a CSV (system, code, target_system, target_code,"
        " valid_from, valid_to) or a FHIR ConceptMap as JSON.",
    )
    permitted_texts: SettingsPath | None = Field(
        default=None,
        description="Values of valueString that may enter the lake, one a line; without it only numbers do.",
    )
    link: Link | None = Field(
        default=None, description="How a patient treated at two sites is recognised (docs/linking.md)."
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is no IANA time zone, such as Europe/Berlin")
        return value

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, value: str | None) -> str | None:
        return None if value is None else _http_address(value, "base_url").rstrip("/")

    @field_validator("token_origins")
    @classmethod
    def _https_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            parts = urlsplit(one)
            if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or "@" in one:
                raise ValueError("an entry is no https origin, such as https://files.example.org")
            if parts.query or parts.fragment:
                raise ValueError("an entry is more than an origin, such as https://files.example.org")
        return value

    @field_validator("proxy")
    @classmethod
    def _usable_proxy(cls, value: str | None) -> str | None:
        return value if value is None else _http_address(value, "proxy")

    @field_validator("quiet_hours", mode="before")
    @classmethod
    def _read_hours(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = _QUIET.match(value)
        if not found:
            raise ValueError('no hours of a day, such as "07:00-19:00"')
        a, b, c, d = map(int, found.groups())
        if (a, b) == (c, d):
            raise ValueError("the hours begin and end at the same time")
        return QuietHours(start=time(a, b), end=time(c, d))

    @model_validator(mode="after")
    def _fits_together(self) -> Site:
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file and client_key_file go together")
        if self.route == "search" and self.export_level != "auto":
            raise ValueError("export_level says how to export, and route says search")
        if self.export_level == "group" and not isinstance(self.cohort, GroupCohort):
            raise ValueError("export_level group needs cohort: {source: group, id: …}")
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def _http_address(value: str, name: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{name} is no http(s) address, such as https://fhir.example.org/r4")
    if parts.username or parts.password:
        raise ValueError(f"{name} holds a credential; keep credentials out of rwe.yaml")
    if parts.query or parts.fragment:
        raise ValueError(f"{name} has a query or fragment; give the bare endpoint")
    return value
