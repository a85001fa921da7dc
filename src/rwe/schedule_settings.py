"""What rwe.yaml may say about when things run by themselves: `schedule:`, applied by `rwe deploy`.

Nights and reconciles run by the clock of each site; a site's own `schedule:` goes before this one.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from rwe.cron import Cron, CronText, parse_cron
from rwe.site_settings import Part, SettingsPath, Site

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_BLOCK = r"^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}$"


class WorkPool(Part):
    """Where runs are carried out. A pool of this name and kind is made if there is none."""

    name: str = Field(default="rwe", pattern=_NAME)
    kind: Literal["process", "docker", "kubernetes"] = "process"


class Notify(Part):
    """Who is told of a failed or stale site, a failed check, a moved estimate. One of the three."""

    webhook_env: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]{0,62}$",
        description="The variable of the environment of `rwe deploy` that holds the address to POST to.",
    )
    webhook_file: SettingsPath | None = Field(
        default=None, description="A file, mode 0600, that holds the address to POST to."
    )
    block: str | None = Field(
        default=None,
        pattern=_BLOCK,
        description="A notification block in Prefect, as sendgrid-email/rwe or slack-webhook/rwe.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Notify:
        if sum(x is not None for x in (self.webhook_env, self.webhook_file, self.block)) != 1:
            raise ValueError("name one of webhook_env, webhook_file and block")
        return self


class Schedule(Part):
    """The content of `schedule:`."""

    nightly: CronText = Field(default="0 1 * * *", description="Cron, by the clock of each site.")
    reconcile: CronText | None = Field(
        default="0 3 * * 0", description="Cron, by the clock of each site; null: only by hand."
    )
    refresh: CronText = Field(default="0 7 * * *", description="Cron, by the clock of `time_zone`.")
    time_zone: str = Field(default="UTC", description="IANA name; whose clock `refresh` goes by.")
    refresh_deadline_hours: float = Field(
        default=2,
        ge=0,
        le=23,
        description="So long a refresh waits for sites whose night is not over; then it does without.",
    )
    time_budget_hours: float = Field(
        default=5, gt=0, le=24, description="After so long a site's night sends no further request."
    )
    stale_after_hours: float = Field(default=50, gt=0, description="An older complete night is told of.")
    retries: int = Field(default=2, ge=0, le=10, description="Of a site that could not be reached.")
    retry_minutes: float = Field(default=10, ge=0, le=120, description="Between retries, with jitter.")
    sites_at_once: int = Field(default=4, ge=1, le=64, description="Sites that are pulled side by side.")
    moved_log: float = Field(
        default=0.1,
        gt=0,
        description="A primary estimate that moved by more than this on the log scale is told of.",
    )
    report_url: str | None = Field(
        default=None, description="Where evidence/ is served in the house; links in Prefect lead there."
    )
    work_pool: WorkPool = Field(default_factory=WorkPool)
    notify: Notify | None = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("no IANA time zone, such as Europe/Berlin")
        return value

    @field_validator("report_url")
    @classmethod
    def _usable_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
            raise ValueError("no http(s) address without a credential, such as https://reports.example.org")
        return value.rstrip("/")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def night_of(self, site: Site) -> Cron:
        """When the site's night begins, by the site's clock."""
        return parse_cron(site.schedule.nightly or self.nightly)

    def reconcile_of(self, site: Site) -> Cron | None:
        """When everything is compared at the site, by its clock; None: never by itself."""
        text = site.schedule.reconcile or self.reconcile
        return parse_cron(text) if text else None

    def budget_hours_of(self, site: Site) -> float:
        """For how long a night may send requests to the site."""
        return site.schedule.time_budget_hours or self.time_budget_hours

    def stale_after_hours_of(self, site: Site) -> float:
        """How old the site's last complete night may grow before it is told of."""
        return site.schedule.stale_after_hours or self.stale_after_hours
