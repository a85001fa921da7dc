"""The command `rwe deploy`: nights, refreshes and reconciles that run by themselves, set up in Prefect."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rwe import cli_show, terminal
from rwe.cli_options import JsonOption, WorkspaceOption, open_chosen
from rwe.errors import UsageError
from rwe.wording import counted

if TYPE_CHECKING:
    from rwe.config import Workspace
    from rwe.deploying.apply import Change

_MARKS = {
    "create": "[green]new[/]",
    "change": "[yellow]changed[/]",
    "remove": "[red]removed[/]",
    "keep": "as it was",
}


def deploy(
    workspace: WorkspaceOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Only: end runs of this host whose process is gone, and begin those of tonight again.",
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Wait so many seconds for a server that is not up yet.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Set up in Prefect what runs by itself: nights and reconciles by site, the refresh, limits, alarms.

    PREFECT_API_URL names the server. Doing it twice changes nothing; after a change of rwe.yaml do it again.

    Example: rwe deploy --dry-run
    """
    opened = open_chosen(workspace)
    if recover:
        if dry_run:
            raise UsageError("--recover and --dry-run do not go together", where="rwe deploy")
        _recover(opened, wait, as_json=as_json)
        return
    from rwe.deploying.apply import apply_plan, prefect_client, warnings_of_server
    from rwe.deploying.automations import apply_automations
    from rwe.deploying.plan import plan_for

    plan = plan_for(opened)
    with prefect_client(wait) as client:
        changes = apply_plan(client, opened, plan, dry_run=dry_run)
        changes += apply_automations(client, opened, dry_run=dry_run)
    if as_json:
        cli_show.as_json({"dry_run": dry_run, "changes": [asdict(c) for c in changes]})
        return
    _show(changes, dry_run=dry_run)
    cli_show.notes(warnings_of_server())
    if not dry_run:
        kind, pool = plan.pool.kind, plan.pool.name
        terminal.say(
            terminal.out, f"A worker carries it out: prefect worker start --pool {pool} --type {kind}"
        )


def _show(changes: list[Change], *, dry_run: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("", "what", "name", ""):
        table.add_column(name, overflow="fold")
    for c in changes:
        if c.action != "keep":
            table.add_row(_MARKS[c.action], c.kind, escape(c.name), escape(c.what))
    done = sum(c.action != "keep" for c in changes)
    if done:
        terminal.out.print(table)
    verb = "would be done" if dry_run else "done"
    kept = counted(len(changes) - done, "thing")
    terminal.say(terminal.out, f"{counted(done, 'change')} {verb}; {kept} as it should be.")


def _recover(opened: Workspace, wait: float, *, as_json: bool) -> None:
    from rwe.deploying.apply import prefect_client
    from rwe.deploying.recover import recover

    schedule = opened.settings.schedule
    with prefect_client(wait) as client:
        found = recover(
            client, schedule.work_pool.name, begin_again_within=timedelta(hours=schedule.time_budget_hours)
        )
    if as_json:
        cli_show.as_json([asdict(r) for r in found])
        return
    for one in found:
        again = f"; begun again as {one.again}" if one.again else ""
        terminal.say(terminal.out, f"{one.deployment}: the run {one.run} was dead{again}")
    if not found:
        terminal.say(terminal.out, "No run of this host is without its process.")
