"""Which process is gone: asked of this machine's kernel, of processes that the test starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.server.utilities.user_templates import render_user_template_sync, validate_user_template

from rwe.deploying import automations
from rwe.deploying.recover import _is_gone, _lives

NOW = datetime.now(UTC)


def run_of(pid: int | None, state: StateType, since: datetime = NOW) -> FlowRun:
    return FlowRun(
        flow_id=UUID(int=1),
        infrastructure_pid=None if pid is None else str(pid),
        state=State(type=state, timestamp=since),
        state_type=state,
        start_time=since,
    )


def test_a_process_that_runs_is_not_gone_and_one_that_ended_is() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not _is_gone(run_of(child.pid, StateType.RUNNING, datetime.now(UTC)), datetime.now(UTC))
        child.kill()
        deadline = time.monotonic() + 10
        while _lives(child.pid, datetime.now(UTC)) and time.monotonic() < deadline:
            time.sleep(0.02)
        # Killed and not yet waited for: its number is there still, its work is not.
        assert _is_gone(run_of(child.pid, StateType.RUNNING), datetime.now(UTC))
    assert _is_gone(run_of(child.pid, StateType.RUNNING), datetime.now(UTC))


def test_a_number_given_to_a_later_process_is_no_life() -> None:
    assert not _is_gone(run_of(os.getpid(), StateType.RUNNING, datetime.now(UTC)), NOW)
    assert _is_gone(run_of(os.getpid(), StateType.RUNNING, NOW - timedelta(days=3)), NOW)


def test_a_run_that_has_no_process_yet_has_ten_minutes_to_get_one() -> None:
    young = run_of(None, StateType.PENDING, NOW - timedelta(minutes=9))
    old = run_of(None, StateType.PENDING, NOW - timedelta(minutes=11))
    assert not _is_gone(young, NOW)
    assert _is_gone(old, NOW)


@pytest.mark.parametrize("event", sorted(automations._WHAT))
@pytest.mark.parametrize("is_webhook", [True, False])
def test_what_is_sent_can_be_rendered_by_prefect(event: str, is_webhook: bool) -> None:
    (action,) = automations._told_of(event, UUID(int=7), is_webhook=is_webhook).actions
    said: dict[str, Any] = action.model_dump()
    payload = {"site": 'no"rth', "what": "the server's answer\nbroke off"}
    about = SimpleNamespace(event=event, resource=SimpleNamespace(id="rwe.site.north"), payload=payload)
    about.occurred = NOW
    for name in ("payload", "subject", "body"):
        if name in said:
            validate_user_template(said[name])
            text = render_user_template_sync(said[name], {"event": about})
            assert "{{" not in text
            if name == "payload":
                told = json.loads(text)
                assert told["about"] == "rwe.site.north"
                is_own = event.startswith("rwe.")
                assert told["details"] == (payload if is_own else {}), "of a crash, not Prefect's own words"
