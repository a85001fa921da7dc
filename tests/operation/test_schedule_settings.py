"""`schedule:` of rwe.yaml: what it may say, and which of two schedules counts for a site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rwe.config import Settings, parse_settings
from rwe.errors import ConfigError

BASE: dict[str, Any] = {"pseudonyms": {"key_file": "/etc/rwe/key"}}
SITE: dict[str, Any] = {"base_url": "https://fhir.example.org/r4", "time_zone": "Europe/Berlin"}


def settings(schedule: dict[str, Any], **sites: dict[str, Any]) -> Settings:
    content = BASE | {"schedule": schedule, "sites": sites}
    return parse_settings(yaml.safe_dump(content), "rwe.yaml", Path("/srv/rwe"))


def test_a_site_goes_before_the_workspace() -> None:
    own = {"nightly": "30 2 * * *", "time_budget_hours": 1.5, "stale_after_hours": 100}
    read = settings(
        {"nightly": "0 1 * * *", "time_budget_hours": 5}, plain=SITE, own=SITE | {"schedule": own}
    )
    schedule, plain, site = read.schedule, read.sites["plain"], read.sites["own"]
    assert (schedule.night_of(plain).text, schedule.night_of(site).text) == ("0 1 * * *", "30 2 * * *")
    assert (schedule.budget_hours_of(plain), schedule.budget_hours_of(site)) == (5, 1.5)
    assert (schedule.stale_after_hours_of(plain), schedule.stale_after_hours_of(site)) == (50, 100)


def test_no_reconcile_is_a_choice_and_a_site_may_have_one_nevertheless() -> None:
    read = settings({"reconcile": None}, plain=SITE, own=SITE | {"schedule": {"reconcile": "0 4 * * 6"}})
    assert read.schedule.reconcile_of(read.sites["plain"]) is None
    weekly = read.schedule.reconcile_of(read.sites["own"])
    assert weekly is not None
    assert weekly.text == "0 4 * * 6"


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        ({"nightly": "0 25 * * *"}, "schedule.nightly: no cron expression: its hour"),
        ({"time_zone": "Berlin"}, "schedule.time_zone: no IANA time zone"),
        ({"notify": {}}, "schedule.notify: name one of webhook_env, webhook_file and block"),
        ({"notify": {"webhook_env": "URL", "block": "slack-webhook/rwe"}}, "schedule.notify: name one of"),
        (
            {"notify": {"webhook_url": "https://h.example.org/secret"}},
            "unknown field schedule.notify.webhook_url",
        ),
        ({"report_url": "https://u:p@reports.example.org"}, "schedule.report_url: no http"),
        ({"work_pool": {"kind": "ecs"}}, "schedule.work_pool.kind"),
    ],
)
def test_what_is_wrong_is_named_by_its_field_never_by_its_value(schedule: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(schedule)
    assert what in str(caught.value)
    assert "secret" not in str(caught.value)
