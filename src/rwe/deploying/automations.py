"""What Prefect does by itself: end runs that fell silent, and tell somebody of what went wrong.

The address that is told stands in a block of Prefect's (its database encrypts it), never in rwe.yaml.
What is sent names sites, studies, checks and counts.
"""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import (
    AutomationCore,
    EventTrigger,
    Posture,
)
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from rwe.config import Workspace
from rwe.deploying import names
from rwe.deploying.apply import Change
from rwe.errors import ConfigError
from rwe.schedule_settings import Notify

#: Workers beat every 60 seconds (deploy/): so long a silence is no accident.
SILENCE = timedelta(minutes=5)
BLOCK = "rwe-notify"
_TAGGED = ResourceSpecification({"prefect.resource.id": "prefect.tag.rwe", "prefect.resource.role": "tag"})
_RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
_BEAT = "prefect.flow-run.heartbeat"
_ENDS = tuple(f"prefect.flow-run.{s}" for s in ("Completed", "Failed", "Cancelled", "Crashed"))
_WHAT = {
    names.SITE_FAILED: "a site failed",
    names.SITE_STALE: "a site is stale",
    names.CHECK_FAILED: "a check stopped the build",
    names.ESTIMATE_MOVED: "an estimate moved",
    "prefect.flow-run.Crashed": "a run crashed",
}
_JSON = (
    '{"event": {{ event.event | tojson }}, "about": {{ event.resource.id | tojson }},'
    ' "at": {{ event.occurred | string | tojson }}, "details": {{ event.payload | tojson }}}'
)
# Of a run that crashed Prefect's own payload says more than need be known outside.
_JSON_CRASHED = (
    '{"event": {{ event.event | tojson }}, "about": {{ event.resource.id | tojson }},'
    ' "at": {{ event.occurred | string | tojson }}, "details": {}}'
)
_LINES = "{% for name, value in event.payload.items() %}{{ name }}: {{ value }}\n{% endfor %}"


def apply_automations(client: SyncPrefectClient, workspace: Workspace, *, dry_run: bool) -> list[Change]:
    """Create or change the automations; without `schedule.notify` only the one that ends silent runs.

    Raises ConfigError where the address or the block of `schedule.notify` is not to be had.
    """
    wanted, changes = [_silent_runs_crash()], list[Change]()
    notify = workspace.settings.schedule.notify
    if notify is not None:
        where = f"{workspace.root / 'rwe.yaml'}, schedule.notify"
        if notify.block is not None:
            block: UUID | None = _named_block(client, notify.block, where)
        else:
            block, change = _webhook(client, _address(notify, where), dry_run)
            changes.append(change)
        wanted += [_told_of(event, block or UUID(int=0), is_webhook=notify.block is None) for event in _WHAT]
    changes += [_apply(client, one, dry_run) for one in wanted]
    changes += _silenced(client, {one.name for one in wanted}, dry_run)
    return changes


def _silent_runs_crash() -> AutomationCore:
    return AutomationCore(
        name="rwe: a silent run has crashed",
        description="A run that sends no sign of life is ended, so that it keeps no place from the next.",
        trigger=EventTrigger(
            after={_BEAT},
            expect={_BEAT, *_ENDS},
            match=_RUNS,
            match_related=_TAGGED,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="no sign of life from its process", force=False
            )
        ],
    )


def _told_of(event: str, block: UUID, *, is_webhook: bool) -> AutomationCore:
    is_own = event in names.EVENTS
    trigger = EventTrigger(
        expect={event},
        match=ResourceSpecification({"prefect.resource.id": "rwe.*"}) if is_own else _RUNS,
        match_related=ResourceSpecification({}) if is_own else _TAGGED,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    action: ActionTypes
    if is_webhook:
        action = CallWebhook(block_document_id=block, payload=_JSON if is_own else _JSON_CRASHED)
    else:
        body = "{{ event.resource.id }}\n" + (_LINES if is_own else "")
        action = SendNotification(block_document_id=block, subject=f"rwe: {_WHAT[event]}", body=body)
    return AutomationCore(
        name=f"rwe: {_WHAT[event]}", description=f"Tells of {event}.", trigger=trigger, actions=[action]
    )


def _address(notify: Notify, where: str) -> str:
    if notify.webhook_env is not None:
        text = os.environ.get(notify.webhook_env, "")
        source = f"the variable {notify.webhook_env}"
    else:
        text, source = _in_file(notify, where), "the file"
    parts = urlsplit(text.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{source} holds no http(s) address", where=where, advice="set it and deploy again")
    return text.strip()


def _in_file(notify: Notify, where: str) -> str:
    path = notify.webhook_file
    try:
        if path is None or stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError("others can read the file of the webhook", where=where, advice="chmod 600 it")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError("the file of the webhook cannot be read", where=where) from None


def _webhook(client: SyncPrefectClient, address: str, dry_run: bool) -> tuple[UUID | None, Change]:
    try:
        found = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        if dry_run:
            return None, Change("create", "webhook", BLOCK)
        return _saved(address), Change("create", "webhook", BLOCK)
    if found.data.get("url") == address:
        return found.id, Change("keep", "webhook", BLOCK)
    if not dry_run:
        _saved(address)
    return found.id, Change("change", "webhook", BLOCK)


def _saved(address: str) -> UUID:
    saved = Webhook(method="POST", url=address).save(BLOCK, overwrite=True)
    if not isinstance(saved, UUID):
        raise ConfigError("the webhook could not be saved", where="Prefect")
    return saved


def _named_block(client: SyncPrefectClient, name: str, where: str) -> UUID:
    kind, _, block = name.partition("/")
    try:
        found = client.read_block_document_by_name(block, kind, include_secrets=False)
    except ObjectNotFound:
        raise ConfigError(
            "Prefect has no such block", where=where, advice="make it in Prefect, then deploy again"
        ) from None
    return found.id


def _apply(client: SyncPrefectClient, wanted: AutomationCore, dry_run: bool) -> Change:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        if not dry_run:
            client.create_automation(wanted)
        return Change("create", "automation", wanted.name)
    if _said(found[0]) == _said(wanted):
        return Change("keep", "automation", wanted.name)
    if not dry_run:
        kept = wanted.model_copy(update={"enabled": found[0].enabled})
        client.update_automation(found[0].id, kept)
    return Change("change", "automation", wanted.name)


def _said(automation: AutomationCore) -> tuple[object, object]:
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    for name in ("after", "expect", "for_each"):
        trigger[name] = sorted(trigger[name])
    return trigger, [a.model_dump(mode="json") for a in automation.actions]


def _silenced(client: SyncPrefectClient, wanted: set[str], dry_run: bool) -> list[Change]:
    """Notifications that rwe.yaml does not ask for any more."""
    changes = []
    for what in _WHAT.values():
        name = f"rwe: {what}"
        for found in client.read_automations_by_name(name) if name not in wanted else []:
            if not dry_run:
                client.delete_automation(found.id)
            changes.append(Change("remove", "automation", name))
    return changes
